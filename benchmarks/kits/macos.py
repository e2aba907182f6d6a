"""Measure Core ML files on this Mac: speed, memory, and whether they answer as the classifier does.

    python3 -m pip install coremltools numpy pillow
    python3 measure.py

writes report.json beside itself. Take it to where leafport is: leafport report report.json … --out REPORT
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import figures  # type: ignore[import-not-found]  # It lies beside this file in the kit.
import timing  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
COMPUTE_UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")
PACKAGES = ("coremltools", "numpy", "pillow")


def main(arguments: list[str], system: str = sys.platform) -> int:
    """Measure every file, each in a process of its own. Returns 1 if one of them could not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--compute-units", nargs="+", choices=COMPUTE_UNITS, default=["ALL"], help="What may calculate."
    )
    parser.add_argument("--out", type=Path, default=HERE / "report.json", help="The report to write.")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    kit = json.loads((HERE / "kit.json").read_text(encoding="utf-8"))
    if given.one:
        (file,) = (file for file in kit["files"] if file["name"] == given.one[0])
        print(json.dumps(measure(kit, file, given.one[1])))
        return 0
    if system != "darwin":
        parser.error(f"Core ML is on Macs only, and this is {system}. Copy this folder to one.")
    rows = []
    for file in kit["files"]:
        for units in given.compute_units:
            name = file["name"] if units == "ALL" else f"{file['name']} {units}"
            print(f"{name} …", flush=True)
            rows.append({"name": name, **row(file, units)})
            print(f"  {summary(rows[-1])}", flush=True)
    report = {
        "created": now(),
        "machine": machine(),
        "versions": {"leafport": kit["leafport"], **versions()},
        "contract": kit["contract"],
        "data": kit["data"],
        "threads": 1,
        "artifacts": rows,
    }
    staging = given.out.with_name(f".{given.out.name}.part")
    staging.write_text(json.dumps({"schema_version": 1, "reports": [report]}, indent=2), encoding="utf-8")
    staging.replace(given.out)
    print(f"Report: {given.out}")
    return int(not all(found["valid"] for found in rows))


def row(file: dict[str, Any], units: str) -> dict[str, Any]:
    """One row of the report but for its name."""
    known = {key: file[key] for key in ("target", "variant", "sha256", "needs", "size_bytes", "zipped_bytes")}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        command = [sys.executable, str(HERE / "measure.py"), "--one", file["name"], units]
        finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if finished.returncode:
        return {**known, "valid": False, "invalid_reason": said[-1] if said else f"it ended with {finished.returncode}"}
    return {**known, **json.loads(finished.stdout.splitlines()[-1]), "valid": True}


def measure(kit: dict[str, Any], file: dict[str, Any], units: str) -> dict[str, Any]:
    """Figures of one file, in this process: timed first, then memory, then accuracy, then openings."""
    import numpy as np
    from PIL import Image

    def photograph(index: int) -> Any:
        with Image.open(HERE / "photographs" / f"{index:05}.png") as image:
            return image.convert("RGB")

    predict = opened(file, kit, units)
    singles = [photograph(index) for index in range(min(timing.ROTATION, len(kit["truth"])))]
    warmup, samples = timing.times(predict, singles)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    answers = np.array([predict(photograph(index)) for index in range(len(kit["truth"]))], np.float32)
    if not np.isfinite(answers).all():
        raise ValueError("its answers hold values that are not numbers")
    load_ms, first_ms = timing.openings(lambda: opened(file, kit, units), singles[0])
    median, p90, p99 = (round(float(value), 5) for value in np.percentile(samples, (50, 90, 99)))
    reference = np.load(HERE / "answers.npy", allow_pickle=False)
    return {
        "executes": f"Core ML, macOS {platform.mac_ver()[0]}, {units}",
        "accuracy": figures.accuracy(answers, kit, file["safety"]),
        "agreement": figures.agreement(reference, answers, kit, kit["contract"]["safety"], file["safety"]),
        "latency_ms": {"median": median, "p90": p90, "p99": p99, "samples": samples, "warmup": warmup},
        "load_ms": load_ms,
        "first_ms": first_ms,
        "peak_rss_bytes": peak,
    }


def opened(file: dict[str, Any], kit: dict[str, Any], units: str) -> Callable[[Any], list[float]]:
    """From a photograph (a PIL image) to the probabilities, in the order of the kit's labels."""
    import coremltools

    model = coremltools.models.MLModel(str(HERE / file["path"]), compute_units=coremltools.ComputeUnit[units])

    def predict(image: Any) -> list[float]:
        answer = model.predict({"image": image})["classLabel_probs"]
        return [answer[label] for label in kit["labels"]]

    return predict


def summary(found: dict[str, Any]) -> str:
    if not found["valid"]:
        return f"not measured: {found['invalid_reason']}"
    line = f"{found['latency_ms']['median']:.2f} ms, names the classifier's class on {found['agreement']['top1']:.1%}"
    lost = found["agreement"]["flips_to_safe"]
    return line if lost is None else f"{line}, loses {lost} of its alarms"


def machine() -> dict[str, Any]:
    memory, cores = said("hw.memsize"), said("hw.logicalcpu")
    return {
        "cpu": said("machdep.cpu.brand_string") or platform.machine(),
        "cores": int(cores or 1),
        "memory_bytes": int(memory or 0),
        "os": f"macOS {platform.mac_ver()[0]} {platform.machine()}",
        "python": platform.python_version(),
    }


def said(name: str) -> str:
    """What macOS says of its hardware."""
    try:
        command = ["/usr/sbin/sysctl", "-n", name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
