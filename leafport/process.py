"""Run a function in a process of its own: converters crash, abort, hang and eat memory, and must cost only themselves.

The child is a fresh interpreter (``python -m leafport.process``), so nothing the parent imported weighs on it. It
reads its task from standard input and keeps that pipe open: when the parent dies, however suddenly, the pipe ends
and the child with it. Whatever the child prints, from Python or C++, goes to a log file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from leafport import errors
from leafport.errors import LeafportError

POLL_SECONDS = 0.2
COMPANIONS = frozenset({"jax", "matplotlib", "sklearn"})
HOSTS = ("tensorflow", "keras", "coremltools")

_to_parent: int | None = None
"""In a child, where its reports and its reply go."""


class ProcessError(LeafportError):
    """The child ended without a result: it crashed, was killed, ran out of time or of memory.

    Attributes:
        seconds, peak_rss_bytes: what it had used by then.
    """

    def __init__(self, message: str, seconds: float = 0.0, peak_rss_bytes: int = 0) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.peak_rss_bytes = peak_rss_bytes


@dataclass(frozen=True)
class Outcome:
    """What a function returned (as JSON values), how long its process lived, and its peak resident memory."""

    value: Any
    seconds: float
    peak_rss_bytes: int


def call(
    function: str,
    arguments: dict[str, Any],
    *,
    log: Path,
    time_limit_s: float | None = None,
    memory_limit_bytes: int | None = None,
    cancel: threading.Event | None = None,
    environment: dict[str, str] | None = None,
    on_report: Callable[..., None] | None = None,
) -> Outcome:
    """Call ``function`` ("package.module:name") with JSON ``arguments`` in a fresh process and wait for its result.

    Args:
        log: receives everything the child prints; appended to.
        time_limit_s: wall-clock seconds after which the child is killed.
        memory_limit_bytes: resident memory of the child and its children at which it is killed.
        cancel: set it from another thread to kill the child.
        environment: variables added to the child's environment.
        on_report: called with whatever the function passes to ``report``, a fraction of a second later.

    Raises:
        LeafportError: the function raised it; re-raised here as the same class.
        ProcessError: it ended in any other way.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    task = json.dumps({"function": function, "arguments": arguments, "path": sys.path}).encode()
    started = time.monotonic()
    with log.open("ab") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "leafport.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1", **(environment or {})},
            start_new_session=True,
        )
    assert child.stdin and child.stdout
    lines: deque[bytes] = deque()
    reader = threading.Thread(target=_drain, args=(child.stdout, lines), daemon=True)
    reader.start()
    reply: dict[str, Any] = {}

    def listen() -> None:
        while lines:
            said = _parsed(lines.popleft())
            if "report" not in said:
                reply.update(said)
            elif on_report:
                on_report(*said["report"])

    watch = _Watch(child, started, time_limit_s, memory_limit_bytes, cancel, listen)
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(task + b"\n")
            child.stdin.flush()  # … and stays open: its end tells the child that the parent is gone.
        verdict = watch.until_it_ends()
    finally:
        _kill(child)
        child.wait()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    reader.join(timeout=10)
    listen()
    seconds = time.monotonic() - started
    peak = max(watch.peak_rss_bytes, reply.get("peak_rss_bytes", 0))
    if verdict is None and "value" in reply:
        return Outcome(reply["value"], seconds, peak)
    if verdict is None and "error" in reply:
        kind = getattr(errors, reply["error"], None)
        if isinstance(kind, type) and issubclass(kind, LeafportError):
            raise kind(reply["message"])
        raise ProcessError(f"{reply['error']}: {reply['message']} (log: {log})", seconds, peak)
    raise ProcessError(f"{verdict or _ending(child.returncode)} (log: {log})", seconds, peak)


class _Watch:
    """Keeps an eye on a child: its time, its memory, and whether anybody still wants it."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        started: float,
        time_limit_s: float | None,
        memory_limit_bytes: int | None,
        cancel: threading.Event | None,
        listen: Callable[[], None],
    ) -> None:
        self.child = child
        self.peak_rss_bytes = 0
        self._deadline = started + time_limit_s if time_limit_s else None
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._cancel = cancel
        self._listen = listen

    def until_it_ends(self) -> str | None:
        """None when the child ended by itself, or why it must be killed."""
        while True:
            try:
                self.child.wait(timeout=POLL_SECONDS)
                return None
            except subprocess.TimeoutExpired:
                self._listen()
            self.peak_rss_bytes = max(self.peak_rss_bytes, rss := _resident(self.child.pid))
            if self._memory_limit_bytes and rss > self._memory_limit_bytes:
                return (
                    f"stopped: it used {rss / 2**30:.1f} GiB of memory, {self._memory_limit_bytes / 2**30:.1f} allowed"
                )
            if self._deadline and time.monotonic() > self._deadline:
                return f"stopped: it was still running after the {self._time_limit_s:g} seconds allowed"
            if self._cancel and self._cancel.is_set():
                return "stopped: interrupted"


def _resident(pid: int) -> int:
    """Resident bytes of a process and its descendants; 0 once it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _drain(stream: BinaryIO | Any, into: deque[bytes]) -> None:
    for line in stream:
        into.append(line)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"its process was killed by {signal.Signals(-returncode).name}"
    return f"its process ended with exit code {returncode} and no result"


def peak_rss_bytes() -> int:
    """The most resident memory this process has held so far."""
    with contextlib.suppress(OSError):
        # getrusage would count what the parent held when it forked; the kernel's own mark starts anew at exec.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


class _LeanImports(MetaPathFinder):
    """An import hook that keeps optional companions out while TensorFlow, Keras or coremltools are being imported.

    They import JAX, matplotlib and scikit-learn wherever these are installed, which doubles the seconds and adds to
    the memory of every child, and no conversion uses them. Anybody may import them afterwards.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in COMPANIONS and any(_being_imported(host) for host in HOSTS):
            raise ModuleNotFoundError(f"{name} is left out while its host is imported", name=name)


def _being_imported(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return getattr(spec, "_initializing", False)  # importlib's own mark; without it imports are slow again, not wrong.


def report(*values: Any) -> None:
    """From the child: hand JSON values to the parent's ``on_report``. Elsewhere nobody listens."""
    if _to_parent is not None:
        _say({"report": values})


def _say(message: dict[str, Any]) -> None:
    assert _to_parent is not None
    with os.fdopen(os.dup(_to_parent), "w") as stream:
        stream.write(json.dumps(message) + "\n")


def _leave_with_parent() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def _main() -> None:
    """The child: one task from standard input, one JSON reply on standard output."""
    global _to_parent
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _to_parent = os.dup(1)
    os.dup2(2, 1)  # From here on, whatever anything prints is for the log.
    sys.path[:] = task["path"]
    sys.meta_path.insert(0, _LeanImports())
    try:
        module, _, name = task["function"].partition(":")
        value = getattr(importlib.import_module(module), name)(**task["arguments"])
        reply = {"value": value, "peak_rss_bytes": peak_rss_bytes()}
    except LeafportError as problem:
        traceback.print_exc()
        reply = {"error": type(problem).__name__, "message": str(problem)}
    except BaseException as problem:
        traceback.print_exc()
        reply = {"error": type(problem).__name__, "message": " ".join(str(problem).split())[:500]}
    _say(reply)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Interpreters full of native libraries sometimes crash while they tidy up.


if __name__ == "__main__":
    from leafport import process  # By its own name, so that whoever asks it to report finds the same module.

    process._main()
