#!/usr/bin/env python3
"""Let TensorRT build the engines of the graphs in files/, once, and put them on the disk for classify.py and bench.py.

    python3 build_engines.py [--only fp16] [--memory-fraction 0.5]

Each graph is built in a process of its own, 16 bits first, so that one has given its memory back before the next takes
any. It takes minutes. Engines are for this board and its TensorRT: build them again after either changes.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import classify
import numpy as np

HERE = Path(__file__).resolve().parent
ORDER = ("fp16", "fp32")
EVERY_S = 5


def build(graph, fraction):
    """In this process: build one graph's engines with an image of zeros, check them, and store them."""
    contract, _, rule = classify.read_contract(HERE / "contract.json")
    classifier = classify.Classifier(graph, contract, memory_fraction=fraction, restore=False)
    began = time.time()
    done = threading.Event()
    threading.Thread(target=tell, args=(done, began), daemon=True).start()
    try:
        classify.answered(classifier, np.zeros((rule["height"], rule["width"], 3), np.uint8))
    finally:
        done.set()
    checked = classify.check_golden(HERE, classifier, contract)
    folder = classify.engines_folder(graph)
    classifier.store_engines(folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    count = len(classifier.engines)
    said = "  {} engine{}, {:.1f} MB, in {:.0f} s; {} golden images agree"
    print(said.format(count, "" if count == 1 else "s", size, time.time() - began, checked))


def tell(done, began):
    """Say from time to time that it still works."""
    while not done.wait(EVERY_S):
        print("  building, {:.0f} s ...".format(time.time() - began), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description="Build TensorRT engines on this board, once.")
    parser.add_argument("--only", choices=ORDER, help="just this precision")
    parser.add_argument("--memory-fraction", type=float, metavar="SHARE", help="most of the GPU's memory to take, 0..1")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        if arguments.one:
            build(arguments.one, arguments.memory_fraction)
            return 0
        if not classify.has_tensorflow_gpu():
            raise classify.AppError("TensorFlow sees no GPU, or has no TF-TRT: there is nothing to build engines with.")
        names = [arguments.only] if arguments.only else ORDER
        graphs = [path for name in names for path in sorted((HERE / "files").glob("*-{}.pb".format(name)))]
        if not graphs:
            raise classify.AppError("There is no graph with engines in {}.".format(HERE / "files"))
    except classify.AppError as problem:
        print(problem, file=sys.stderr)
        return 2
    failed = 0
    for graph in graphs:
        print("{} ...".format(graph.name), flush=True)
        command = [sys.executable, str(HERE / "build_engines.py"), "--one", str(graph)]
        if arguments.memory_fraction:
            command += ["--memory-fraction", str(arguments.memory_fraction)]
        failed += bool(subprocess.call(command))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
