"""Apps for devices, in the devices' own languages, and how one is written with a model's files dropped in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from leafport import files
from leafport.errors import ModelError, OutputError, TargetError
from leafport.export import manifest as manifests
from leafport.export import verify
from leafport.export.manifest import Manifest

FILES = "files"
GOLDEN = "golden"


@dataclass(frozen=True)
class App:
    """A kind of app: its folder here, the files in it that belong to the app, and the artifacts that it can use."""

    folder: str
    programs: tuple[str, ...]
    artifacts: tuple[str, ...]


APPS: Mapping[str, App] = {
    "tx2": App(
        "tx2",
        ("README.md", "classify.py", "build_engines.py", "onnx_engine.py"),
        ("tftrt-frozen", "tftrt-fp32", "tftrt-fp16", "onnx-float32"),
    ),
}


def write(kind: str, exports: Path, out: Path) -> tuple[str, ...]:
    """Write the app called ``kind`` with an export's files into the folder ``out``, whole or not at all.

    Returns:
        The names of the artifacts that went into it.

    Raises:
        TargetError: there is no such app, or the export has no file for it.
        ModelError: a file of the export is missing, or is not the one that was exported.
        OutputError: ``out`` is there already, or cannot be written to.
    """
    if out.exists():
        raise OutputError(f"{out} is there already. Name another folder, or remove it.")
    with files.staged(out) as staging:
        staging.mkdir(parents=True)
        return fill(kind, exports, staging)


def fill(kind: str, exports: Path, folder: Path, only: Collection[str] = ()) -> tuple[str, ...]:
    """What ``write`` does, into a folder that is there, with ``only`` these artifacts; what is there already stays."""
    if kind not in APPS:
        raise TargetError(f"There is no app {kind!r}. There are: {', '.join(APPS)}.")
    app, manifest = APPS[kind], manifests.read(exports)
    verify.read_golden(exports, manifest.contract)
    written = [name for name, entry in manifest.artifacts.items() if entry.path]
    names = tuple(name for name in app.artifacts if name in written and (name in only or not only))
    if not names:
        raise TargetError(f"{exports} has none of {', '.join(app.artifacts)}, one of which this app needs.")
    (folder / FILES).mkdir(exist_ok=True)
    for name in names:
        _copy(name, manifest, exports, folder / FILES)
    sources = resources.files("leafport.sample_apps") / app.folder
    for program in app.programs:
        text = (sources / program).read_text(encoding="utf-8")
        (folder / program).write_text(_with_names(text, manifest) if program.endswith(".md") else text, "utf-8")
    shutil.copytree(exports / GOLDEN, folder / GOLDEN)
    files.write_json(folder / "contract.json", manifest.contract.to_json())
    (folder / "labels.txt").write_text("\n".join(manifest.contract.labels) + "\n", encoding="utf-8")
    return names


def _copy(name: str, manifest: Manifest, exports: Path, folder: Path) -> None:
    entry = manifest.artifacts[name]
    assert entry.path is not None
    path = files.inside(exports, entry.path)
    if (folder / path.name).exists():
        return
    if not path.exists() or files.sha256(path) != entry.sha256:
        raise ModelError(f"{path} is missing, or not the file that was exported. Export it again.")
    copy: Callable[[Path, Path], Any] = shutil.copytree if path.is_dir() else shutil.copyfile
    copy(path, folder / path.name)


def _with_names(text: str, manifest: Manifest) -> str:
    """A text with this model's name and image size in the place of NAME and HxW."""
    image = manifest.contract.image
    return text.replace("NAME", manifest.contract.name).replace("HxW", f"{image.height}x{image.width}")
