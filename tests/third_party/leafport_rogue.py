"""A target that misbehaves in every way a converter has been seen to."""

import os
import time
from dataclasses import dataclass

from leafport.targets.base import Facts, Variant

NAME = "rogue"
SUFFIX = ".rogue"
VARIANTS = {
    name: Variant(name) for name in ("aborts", "sleeps", "eats", "lies", "escapes", "misclassifies", "crashes-later")
}
RUNTIME = "none"


@dataclass(frozen=True)
class Options:
    pass


def available(variant):
    return None


def convert(graph, variant, out_dir, options):
    if variant == "aborts":
        os.abort()
    if variant == "sleeps":
        time.sleep(3600)
    hoard = []
    while variant == "eats":
        hoard.append(b"x" * 2**26)
    path = out_dir / "rogue.bin" if variant != "escapes" else out_dir.parent / "rogue.bin"
    path.write_text(variant)
    return path


def inspect(path):
    return Facts(inputs=(), outputs=(), ops={}, weights={})


def broken_claims(variant, facts, contract):
    return ["it holds floats"] if variant == "lies" else []


def runner(path, contract, threads=1):
    if path.read_text() == "crashes-later":
        os.abort()
    return _Runner(len(contract.labels))


class _Runner:
    executes = "nothing"
    untimed = "it is a test"

    def __init__(self, classes):
        self.classes = classes

    def predict(self, images):
        import numpy as np

        answers = np.zeros((len(images), self.classes), np.float32)
        answers[np.arange(len(images)), (np.arange(len(images)) + 1) % self.classes] = 1
        return answers
