#!/usr/bin/env python3
"""Classify photographs on a Jetson TX2, with no network.

    python3 classify.py GRAPH.pb CONTRACT.json IMAGE...

GRAPH.pb is one of leafport's tftrt artifacts (frozen, fp32, fp16), CONTRACT.json the contract of the classifier it was
made from. Needs TensorFlow 1.15 or 2.x, numpy and Pillow 6 or later. This file is written in the Python of JetPack 4,
3.6, and stands alone, so that it can be copied to a board as it is.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # Warnings stay: TF-TRT says in one that it built no engine.

TOP = 3
ENGINE_OP = "TRTEngineOp"
CONTRACT_ATTRIBUTE = "_leafport_contract"
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF")
KERNELS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "area": Image.BOX}
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
MAX_PIXELS = 2**27
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class AppError(Exception):
    """Something the user can put right."""


class Classifier:
    """A frozen graph in a session. ``predict`` takes pixels (uint8 [H, W, 3]) and gives probabilities [classes]."""

    def __init__(self, graph_path, contract):
        graph_def = read_graph(graph_path, contract)
        import tensorflow as tf

        self._errors = tf.errors.OpError
        self._version = tf.__version__
        self._engine = any(node.op == ENGINE_OP for node in graph_def.node)
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.import_graph_def(graph_def, name="")
        except (ValueError, KeyError, tf.errors.OpError) as problem:
            raise self._refused(problem) from None
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        config.gpu_options.allow_growth = True  # The TX2's CPU and GPU share one memory: take only what is needed.
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        batch = graph.get_tensor_by_name("image:0").shape[0]
        self._batch = getattr(batch, "value", batch) or 1
        if self._engine:
            print("TensorRT builds its engine with the first photograph: this takes a while.", file=sys.stderr)

    def predict(self, pixels):
        fed = np.repeat(pixels[np.newaxis].astype(np.float32), self._batch, axis=0)
        try:
            probabilities = self._session.run("probabilities:0", {"image:0": fed})[0]
        except self._errors as problem:
            raise self._refused(problem) from None
        if not np.isfinite(probabilities).all():  # 16 bits can overflow, and "nan" would be below every threshold.
            raise AppError("The graph gave no probabilities for this photograph: use the fp32 graph.")
        return probabilities

    def _refused(self, problem):
        advice = "This TensorFlow has no TensorRT: use the frozen graph." if self._engine else "Is the file damaged?"
        words = getattr(problem, "message", "") or str(problem)
        return AppError(f"TensorFlow {self._version} refuses the graph. {advice} ({words.splitlines()[0]})")


def read_graph(path, contract):
    """A GraphDef, if it was made for this contract: another model's labels would be worse than none."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except OSError as problem:
        raise AppError(f"{path} cannot be read: {problem.strerror}.") from None
    except DecodeError:
        raise AppError(f"{path} is not a frozen graph, or damaged.") from None
    placeholders = [node for node in graph_def.node if node.op == "Placeholder" and node.name == "image"]
    if not placeholders or CONTRACT_ATTRIBUTE not in placeholders[0].attr:
        raise AppError(f"{path} is not one of leafport's tftrt graphs, or damaged.")
    try:
        carried = json.loads(placeholders[0].attr[CONTRACT_ATTRIBUTE].s.decode())
    except ValueError:
        raise AppError(f"{path} is damaged.") from None
    if carried != contract:
        raise AppError(f"{path} was made for another contract than the one given: they must go together.")
    return graph_def


def read_contract(path):
    try:
        contract = json.loads(path.read_text(encoding="utf-8"))
        return contract, contract["labels"], contract["image"]
    except OSError as problem:
        raise AppError(f"{path} cannot be read: {problem.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise AppError(f"{path} is not a classifier's contract.") from None


def read_image(path, rule):
    """The photograph as the contract's image rule wants it: uint8 [height, width, 3], RGB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(str(path)) as image:
                if image.format not in FORMATS or image.size[0] * image.size[1] > MAX_PIXELS:
                    raise AppError(f"{path} is not a photograph this app reads, or too large.")
                image.load()
                return fit(to_rgb(ImageOps.exif_transpose(image)), rule)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as problem:
        raise AppError(f"{path} cannot be read: {problem}.") from None


def to_rgb(image):
    """8-bit RGB: 16-bit greys scaled, transparency on white."""
    if image.mode in SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray((grey / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).convert("RGB")
    transparent = image.mode in TRANSPARENT or "transparency" in image.info
    if transparent or (image.mode == "P" and image.palette.mode.endswith("A")):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def fit(image, rule):
    """Resize as the contract says: the whole photograph (squash) or its largest centred part (crop)."""
    size = (rule["width"], rule["height"])
    box = (0, 0, *image.size) if rule["fit"] == "squash" else crop_box(image.size, size)
    kernel = KERNELS[rule["kernel"]]
    if rule["antialias"] or rule["kernel"] == "nearest":
        return np.asarray(image.resize(size, kernel, box=box), dtype=np.uint8)
    return np.asarray(image.transform(size, Image.EXTENT, box, resample=kernel), dtype=np.uint8)


def crop_box(size, target):
    """(left, top, right, bottom) of the largest centred rectangle with the target's shape, in whole pixels."""
    width, height = size
    if width * target[1] >= height * target[0]:
        cropped = (max(1, height * target[0] // target[1]), height)
    else:
        cropped = (width, max(1, width * target[1] // target[0]))
    left, top = (width - cropped[0]) // 2, (height - cropped[1]) // 2
    return left, top, left + cropped[0], top + cropped[1]


def verdict(probabilities, labels, safety):
    """What to tell somebody who may eat it. It never says that anything is safe."""
    positives = [labels.index(label) for label in safety["positive_labels"]]
    score = min(1.0, float(sum(probabilities[index] for index in positives)))
    measured = f"score {score:.4f}, threshold {safety['threshold']:.4f}"
    low, high = safety.get("not_sure") or (2, 2)
    if low <= score <= high:
        return f"not sure: do not eat ({measured})"
    if score >= safety["threshold"]:
        likeliest = max(positives, key=lambda index: probabilities[index])
        return f"{labels[likeliest]}: do not eat ({measured})"
    likeliest = labels[int(np.argmax(probabilities))]
    return f"looks like {likeliest}, but do not eat on this app's word ({measured})"


def main():
    parser = argparse.ArgumentParser(description="Classify photographs with one of leafport's tftrt graphs.")
    parser.add_argument("graph", type=Path, metavar="GRAPH.pb")
    parser.add_argument("contract", type=Path, metavar="CONTRACT.json")
    parser.add_argument("images", type=Path, metavar="IMAGE", nargs="+")
    arguments = parser.parse_args()
    try:
        contract, labels, rule = read_contract(arguments.contract)
        classifier = Classifier(arguments.graph, contract)
    except AppError as problem:
        print(problem, file=sys.stderr)
        return 2
    unread = 0
    for path in arguments.images:
        try:
            probabilities = classifier.predict(read_image(path, rule))
        except AppError as problem:
            print(problem, file=sys.stderr)
            unread += 1
            continue
        print(path)
        for place, index in enumerate(np.argsort(-probabilities, kind="stable")[:TOP], start=1):
            print(f"  {place}. {probabilities[index]:.4f}  {labels[index]}")
        if contract.get("safety"):
            print("  " + verdict(probabilities, labels, contract["safety"]))
    return 1 if unread else 0


if __name__ == "__main__":
    sys.exit(main())
