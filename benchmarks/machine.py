"""What a measurement was made on: the machine, and the versions of everything that took part."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from leafport.benchmarks.report import Machine

PACKAGES = ("leafport", "tensorflow", "keras", "ai-edge-litert", "onnxruntime", "coremltools", "numpy", "pillow")
BUSY_SECONDS = 0.5


def machine() -> Machine:
    """This machine, and how busy it is now."""
    return Machine(
        cpu=_cpu(),
        cores=psutil.cpu_count(logical=True) or 1,
        memory_bytes=psutil.virtual_memory().total,
        os=_os(),
        python=platform.python_version(),
        busy=round(psutil.cpu_percent(interval=BUSY_SECONDS) / 100, 2),
    )


def versions() -> dict[str, str]:
    """The versions of the packages that take part in measuring, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):  # "Model" is an ARM board's name for itself.
                return " ".join(line.partition(":")[2].split())
    except (OSError, subprocess.CalledProcessError):
        pass
    return platform.processor() or platform.machine()


def _os() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.machine()}"
