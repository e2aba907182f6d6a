"""Virtual environments for runtimes that cannot live beside this project's own.

    python tests/environments.py [NAME…]

Each lies in ``.envs/NAME`` (ignored by git), whole or not at all, and is made anew when its row below changes. A test
that runs one is marked ``@pytest.mark.environment(NAME)`` and asks for it with ``required(NAME)``, which skips the test
where it has not been made.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / ".envs"
_PINS = "pins.txt"


@dataclass(frozen=True)
class Environment:
    """What to install, and the Python to use ("3.6": the command python3.6), where it cannot be the running one.

    ``check`` is a line of Python that fails where something is missing that pip cannot install.
    """

    purpose: str
    requirements: tuple[str, ...]
    python: str | None = None
    pip: str = "pip==25.0.1"
    check: str = ""


ENVIRONMENTS = {
    "tensorflow-2.17": Environment(
        "the last TensorFlow that knows TRTEngineOp (tensorflow-cpu does not)",
        ("tensorflow==2.17.1", "numpy==1.26.4", "pillow==11.3.0"),
    ),
    "tensorflow-2.13": Environment(
        "an older one of those",
        ("tensorflow==2.13.1", "numpy==1.24.3", "pillow==10.4.0"),
        python="3.11",
    ),
    "tensorflow-2.7": Environment(
        "the later of a Jetson TX2's two TensorFlows",
        ("tensorflow==2.7.4", "numpy==1.19.5", "pillow==8.4.0", "protobuf==3.19.6"),
        python="3.7",
        pip="pip==24.0",
    ),
    "tensorflow-1.15": Environment(
        "a Jetson TX2's Python, TensorFlow and Pillow; the build for GPUs knows TRTEngineOp, and runs without one",
        ("tensorflow-gpu==1.15.5", "numpy==1.18.5", "pillow==8.4.0"),
        python="3.6",
        pip="pip==21.3.1",
    ),
    "tflite-runtime-2.14": Environment(
        "an interpreter as old phones and boards have it",
        ("tflite-runtime==2.14.0", "numpy==1.26.4", "pillow==11.3.0"),
    ),
    "torch-2.13": Environment(
        "PyTorch, from which others write Core ML packages; its build for CPUs, where the package index has it",
        ("torch==2.13.*", "coremltools==9.0", "numpy==2.4.6"),
    ),
    "mediapipe-1.2": Environment(
        "MediaPipe Tasks, a client that apps use: it reads a file's own metadata. Debian: libegl1 and libgles2",
        ("mediapipe==1.2.2", "numpy==2.4.6"),
        check="import ctypes; ctypes.CDLL('libEGL.so.1'); ctypes.CDLL('libGLESv2.so.2')",
    ),
}


def interpreter(name: str) -> Path | None:
    """The Python of an environment that stands and is up to date, or None."""
    folder = ROOT / name
    pins = folder / _PINS
    return folder / "bin" / "python" if pins.is_file() and pins.read_text() == _pins(ENVIRONMENTS[name]) else None


def required(name: str) -> Path:
    """For tests: the Python of an environment; the test is skipped where there is none."""
    import pytest

    python = interpreter(name)
    if python is None:
        pytest.skip(f"needs the environment {name}: python tests/environments.py {name}")
    return python


def make(name: str) -> None:
    """Build an environment beside its place and move it there. Raises RuntimeError with pip's last words."""
    environment = ENVIRONMENTS[name]
    staging = ROOT / f".{name}.{secrets.token_hex(4)}.part"
    python = str(staging / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    ROOT.mkdir(exist_ok=True)
    try:
        _run([_base_python(environment), "-m", "venv", str(staging)])
        _run([*pip, environment.pip])
        _run([*pip, *environment.requirements])
        _run([python, "-c", environment.check])
        (staging / _PINS).write_text(_pins(environment))
        shutil.rmtree(ROOT / name, ignore_errors=True)
        staging.rename(ROOT / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _base_python(environment: Environment) -> str:
    if environment.python is None:
        return sys.executable
    command = f"python{environment.python}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(command), *sorted(map(str, pyenv.glob(f"{environment.python}.*/bin/{command}")))]
    for candidate in candidates:
        if candidate and not subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode:
            return candidate
    raise RuntimeError(f"it needs {command}, and there is none on the PATH or among pyenv's")


def _run(command: list[str]) -> None:
    finished = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if finished.returncode:
        last_words = "\n".join(finished.stdout.strip().splitlines()[-3:])
        raise RuntimeError(f"{' '.join(command)} failed:\n{last_words}")


def _pins(environment: Environment) -> str:
    python = f"python {environment.python or 'any'}"
    return "\n".join((python, environment.pip, environment.check, *environment.requirements))


def main() -> int:
    """Make the environments named, or all there is a Python for. Returns 1 if one of them could not be made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)}")
    names = parser.parse_args().names or [name for name in ENVIRONMENTS if _has_python(name)]
    if unknown := [name for name in names if name not in ENVIRONMENTS]:
        parser.error(f"there is no environment {', '.join(unknown)}; there are: {', '.join(ENVIRONMENTS)}")
    with ThreadPoolExecutor(max_workers=2) as pool:
        return int(not all(pool.map(_made, names)))


def _has_python(name: str) -> bool:
    try:
        _base_python(ENVIRONMENTS[name])
    except RuntimeError as problem:
        print(f"{name}: left out: {problem}")
        return False
    return True


def _made(name: str) -> bool:
    """Make one environment and say how that went: whether it stands."""
    if interpreter(name):
        print(f"{name}: there already")
        return True
    print(f"{name}: installing {' '.join(ENVIRONMENTS[name].requirements)} …", flush=True)
    try:
        make(name)
    except (OSError, RuntimeError) as problem:
        print(f"{name}: not made: {problem}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
