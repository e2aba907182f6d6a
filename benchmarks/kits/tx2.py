"""Measure the files in this folder on this board: speed, memory, and whether they answer as the classifier does.

    python3 bench.py

writes report.json beside itself. Take it to where leafport is: leafport report report.json ... --out REPORT

Each file is measured in a process of its own. First it must name the golden images as the classifier does. Where there
is no GPU with TensorRT, the native segments of engines run instead: their answers are checked, nothing is timed, and
the report says so. Written in the Python of JetPack 4, 3.6.
"""

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import classify  # type: ignore[import-not-found]  # These lie beside this file in the kit.
import figures  # type: ignore[import-not-found]
import timing  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
SIMULATED = (
    "no GPU with TensorRT here: the engines' native segments ran in TensorFlow, which says nothing of their speed"
)


def main(arguments):
    """Measure every file, each in a process of its own. Returns 1 if one of them could not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "report.json", help="The report to write.")
    parser.add_argument("--memory-fraction", type=float, metavar="SHARE", help="Most of the GPU's memory to take.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    kit = json.loads((HERE / "kit.json").read_text(encoding="utf-8"))
    if given.one:
        (file,) = (file for file in kit["files"] if file["name"] == given.one)
        print(json.dumps(measure(kit, file, given.memory_fraction)))
        return 0
    rows = []
    for file in kit["files"]:
        print("{} ...".format(file["name"]), flush=True)
        rows.append(row(file, given.memory_fraction))
        print("  " + summary(rows[-1]), flush=True)
    report = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "machine": machine(),
        "versions": dict(versions(), leafport=kit["leafport"]),
        "contract": kit["contract"],
        "data": kit["data"],
        "threads": os.cpu_count() or 1,
        "artifacts": rows,
    }
    staging = given.out.with_name("." + given.out.name + ".part")
    staging.write_text(json.dumps({"schema_version": 1, "reports": [report]}, indent=2), encoding="utf-8")
    staging.replace(given.out)
    print("Report: {}".format(given.out))
    return int(not all(found["valid"] for found in rows))


def row(file, fraction):
    """One row of the report, measured in a process of its own."""
    names = ("name", "target", "variant", "sha256", "needs", "nodes", "size_bytes", "zipped_bytes")
    known = {key: file[key] for key in names}
    command = [sys.executable, str(HERE / "bench.py"), "--one", file["name"]]
    if fraction:
        command += ["--memory-fraction", str(fraction)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, universal_newlines=True, check=False)
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if finished.returncode:
        reason = said[-1] if said else "it ended with {}".format(finished.returncode)
        return dict(known, valid=False, invalid_reason=reason)
    return dict(known, valid=True, **json.loads(finished.stdout.splitlines()[-1]))


def measure(kit, file, fraction):
    """Figures of one file, in this process: opening, golden parity, then times, memory and accuracy.

    The first prediction is timed where it builds no engines.
    """
    import numpy as np
    from PIL import Image

    contract = classify.read_contract(HERE / "contract.json")[0]
    path = HERE / file["path"]
    simulate = path.suffix == ".pb" and not classify.has_tensorflow_gpu()

    def photograph(index):
        with Image.open(str(HERE / "photographs" / "{:05}.png".format(index))) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)

    began = time.perf_counter()
    classifier = classify.open_file(path, contract, simulate, fraction)
    load_ms = (time.perf_counter() - began) * 1e3
    singles = [photograph(index) for index in range(min(timing.ROTATION, len(kit["truth"])))]
    first_ms = timing.timed(classifier.predict, singles[0])
    engines = getattr(classifier, "engines", ()) and not simulate
    if engines and not classifier.restored:  # Were they built at all? Old TensorFlows run their segments instead.
        first_ms = None
        with tempfile.TemporaryDirectory() as scratch:
            classifier.store_engines(Path(scratch))
    classify.check_golden(HERE, classifier, contract)
    warmup, samples = timing.times(classifier.predict, singles)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answers = np.array(
        [classify.answered(classifier, photograph(index)) for index in range(len(kit["truth"]))], np.float32
    )
    reference = np.load(str(HERE / "answers.npy"), allow_pickle=False)
    found = {
        "executes": classifier.executes,
        "accuracy": figures.accuracy(answers, kit, file["safety"]),
        "agreement": figures.agreement(reference, answers, kit, kit["contract"]["safety"], file["safety"]),
        "peak_rss_bytes": peak,
    }
    if simulate and getattr(classifier, "engines", ()):
        return dict(found, latency_ms=None, latency_reason=SIMULATED)
    median, p90, p99 = (round(float(value), 5) for value in np.percentile(samples, (50, 90, 99)))
    latency = {"median": median, "p90": p90, "p99": p99, "samples": samples, "warmup": warmup}
    return dict(found, latency_ms=latency, load_ms=round(load_ms, 5), first_ms=first_ms)


def summary(found):
    if not found["valid"]:
        return "not measured: {}".format(found["invalid_reason"])
    time_of_it = found["latency_ms"]
    timed = "{:.2f} ms".format(time_of_it["median"]) if time_of_it else "not timed: {}".format(found["latency_reason"])
    line = "{}; names the classifier's class on {:.1%}".format(timed, found["agreement"]["top1"])
    lost = found["agreement"]["flips_to_safe"]
    return line if lost is None else "{}, loses {} of its alarms".format(line, lost)


def machine():
    """What the report says of this board; its clocks and heat in its own tools' words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    state = [said for said in (power_mode(), load()) if said]
    return {
        "cpu": board() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": memory,
        "os": "{} {}".format(platform.system(), platform.machine()),
        "python": platform.python_version(),
        "state": state,
    }


def board():
    """The board's own name, or the processor's."""
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        return found.group(1) if found else ""


def power_mode():
    """The power mode by nvpmodel: "NV Power Mode: MAXN", or nothing where there is no such tool."""
    try:
        said = subprocess.check_output(["nvpmodel", "-q"], stderr=subprocess.STDOUT, universal_newlines=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return next((line.strip() for line in said.splitlines() if "Power Mode" in line), "")


def load():
    """One line of tegrastats: memory, clocks, temperatures; or nothing where there is no such tool."""
    try:
        process = subprocess.Popen(["tegrastats"], stdout=subprocess.PIPE, universal_newlines=True)
    except OSError:
        return ""
    try:
        return "tegrastats: " + process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def versions():
    found = {}
    for name, package in (
        ("tensorflow", "tensorflow"),
        ("tensorrt", "tensorrt"),
        ("numpy", "numpy"),
        ("pillow", "PIL"),
    ):
        command = [sys.executable, "-c", "import {0}; print({0}.__version__)".format(package)]
        with open(os.devnull, "w") as nowhere:
            finished = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=nowhere, universal_newlines=True, check=False
            )
        if not finished.returncode:
            found[name] = finished.stdout.split()[-1]
    return found


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except classify.AppError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
