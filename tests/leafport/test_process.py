from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from leafport import process
from leafport.errors import DataError
from leafport.process import ProcessError

MODULE = """
import os, sys, time
from leafport.errors import DataError

def add(a, b):
    print("noise on standard output")
    os.system("echo noise from C")
    return {"sum": a + b}

def complain():
    raise DataError("no photographs in /somewhere")

def crash():
    raise ZeroDivisionError("by zero")

def abort():
    os.abort()

def leave():
    os._exit(3)

def hang():
    time.sleep(600)

def eat():
    hoard = []
    while True:
        hoard.append(b"x" * 2**24)
        time.sleep(0.01)

def count(to):
    from leafport import process
    for number in range(to):
        process.report("counting", number)
    print("noise between")
    return to

def confess(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)

def companions():
    import tensorflow, coremltools
    early = sorted({"jax", "matplotlib", "sklearn"} & set(sys.modules))
    import jax, matplotlib
    return {"early": early, "late": [jax.__name__, matplotlib.__name__]}
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "errand.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "errand.log"


def test_the_value_comes_back_and_the_noise_goes_to_the_log(worker: Path) -> None:
    outcome = process.call("errand:add", {"a": 1, "b": 2}, log=worker)
    assert outcome.value == {"sum": 3}
    assert outcome.seconds > 0
    assert 2**20 < outcome.peak_rss_bytes < 2**28
    assert worker.read_text().count("noise") == 2


def test_a_function_can_report_on_the_way(worker: Path) -> None:
    heard: list[tuple[str, int]] = []
    outcome = process.call("errand:count", {"to": 300}, log=worker, on_report=lambda *values: heard.append(values))
    assert heard == [("counting", number) for number in range(300)]
    assert outcome.value == 300
    assert process.call("errand:count", {"to": 2}, log=worker).value == 2  # Nobody need listen.


def test_leafports_own_errors_come_back_as_themselves(worker: Path) -> None:
    with pytest.raises(DataError, match="no photographs in /somewhere"):
        process.call("errand:complain", {}, log=worker)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("crash", "ZeroDivisionError: by zero"),
        ("abort", "killed by SIGABRT"),
        ("leave", "exit code 3"),
    ],
)
def test_crashes_are_named_and_point_at_the_log(worker: Path, function: str, message: str) -> None:
    with pytest.raises(ProcessError, match=message) as caught:
        process.call(f"errand:{function}", {}, log=worker)
    assert str(worker) in str(caught.value)


def test_one_that_hangs_is_stopped(worker: Path) -> None:
    with pytest.raises(ProcessError, match="still running after the 1 seconds allowed"):
        process.call("errand:hang", {}, log=worker, time_limit_s=1)


def test_one_that_eats_memory_is_stopped(worker: Path) -> None:
    with pytest.raises(ProcessError, match=r"GiB of memory, 0\.2 allowed") as caught:
        process.call("errand:eat", {}, log=worker, memory_limit_bytes=200 * 2**20)
    assert caught.value.peak_rss_bytes > 200 * 2**20


def test_it_can_be_cancelled(worker: Path) -> None:
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    with pytest.raises(ProcessError, match="interrupted"):
        process.call("errand:hang", {}, log=worker, cancel=cancel)


def test_a_child_does_not_outlive_a_parent_that_was_killed(worker: Path) -> None:
    confession = worker.with_name("pid")
    script = (
        "import sys; from pathlib import Path; from leafport import process;"
        f"sys.path.insert(0, {str(worker.parent)!r});"
        f"process.call('errand:confess', {{'path': {str(confession)!r}}}, log=Path({str(worker)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (confession.exists() and confession.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(confession.read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_companions_of_converters_are_imported_only_by_those_who_want_them(worker: Path) -> None:
    assert process.call("errand:companions", {}, log=worker).value == {"early": [], "late": ["jax", "matplotlib"]}
