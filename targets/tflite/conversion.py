"""Writing .tflite files with TensorFlow's converter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leafport import files, images
from leafport.contract import Contract
from leafport.errors import ConversionError
from leafport.export import pixels, rounding
from leafport.export.graph import INPUT, OUTPUT
from leafport.targets.base import Variant, option
from leafport.targets.tflite import interpreter, logits, metadata, mixed
from leafport.targets.tflite.facts import LARGE_WEIGHTS

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph

_SEARCH_PHOTOGRAPHS, _BATCH = 120, 8
_INTEGER, _CALIBRATED = ("int8", "int8-qat"), ("int8", "mixed")
_EIGHT_BITS = ("dynamic", *_INTEGER, "mixed")

VARIANTS = {
    "float32": Variant("32-bit floats throughout", also=("fp32",)),
    "float16": Variant(
        "16-bit weights, computed in 32 bits on a CPU and in 16 on a GPU: half the size", also=("fp16",)
    ),
    "dynamic": Variant(
        "8-bit weights, activations quantised as they come: a quarter of the size; slow in depthwise networks",
        0.93,
        also=("drq",),
        refit=True,
    ),
    "int8-qat": Variant(
        "as int8, with the ranges that quantisation-aware training found: for classifiers trained with --qat",
        0.88,
        also=("qat",),
        learned=True,
        refit=True,
    ),
    "int8": Variant(
        "8-bit integers throughout, uint8 in and out: a quarter of the size, fastest",
        0.88,
        also=("quant", "quantized", "integer", "uint8"),
        refit=True,
        instead="tflite-mixed keeps in float what loses most; `leafport train --qat` makes it lose less.",
    ),
    "mixed": Variant(
        "8-bit but for the fewest operations that must stay float; made only when asked for, as it takes minutes",
        0.95,
        also=("selective",),
        refit=True,
        asked=True,
    ),
}


@dataclass(frozen=True)
class Options:
    """How TFLite files are written."""

    calibration: tuple[Path, ...] = ()
    validation: tuple[Path, ...] = ()
    per_channel_dense: bool = option(
        False, "Quantise dense layers per output channel: needs LiteRT; tflite-runtime 2.14 refuses or misreads it."
    )
    fit_rounding: bool = option(
        True, "Choose 8-bit weights, and the steps of logits, so that results on the calibration photographs stay."
    )
    mixed_agreement: float = option(0.98, "The agreement for which tflite-mixed keeps as little in float as it takes.")


def available(variant: str) -> str | None:
    return None


def convert(graph: ServingGraph, variant: str, out_dir: Path, options: Options) -> Path:
    """Write ``out_dir/NAME-VARIANT.tflite``: raw RGB [1, H, W, 3] in, probabilities [1, classes] out.

    Input and output are float32; for ``int8`` and ``int8-qat`` uint8, where an input of scale 1 and zero point 0 is the
    raw pixel. TFLite's own metadata, labels and contract travel in the file (``metadata.attach``).

    Raises:
        ConversionError: an operation has no TFLite builtin (select-TF operations never slip in), there are no
            photographs to calibrate ``int8`` or ``mixed`` on, no learned ranges for ``int8-qat``, or nothing that
            ``mixed`` need keep in float.
    """
    import tensorflow as tf

    if variant in _CALIBRATED and not options.calibration:
        raise ConversionError(f"{variant} needs photographs of the training split to calibrate on, and got none.")
    with tempfile.TemporaryDirectory(dir=out_dir) as scratch:
        source = graph.quantised() if variant == "int8-qat" else graph
        if variant in _CALIBRATED:
            source = pixels.taken_directly(graph, Path(scratch) / "pixels.pb")
        if variant in ("dynamic", *_CALIBRATED) and options.fit_rounding and options.calibration:
            source = rounding.fitted(
                source,
                options.calibration,
                Path(scratch) / "rounded.pb",
                per_channel_dense=options.per_channel_dense,
                at_least=LARGE_WEIGHTS if variant == "dynamic" else 0,
            )
        module, saved_model = source.module(batch=1), str(Path(scratch) / "saved_model")
        tf.saved_model.save(module, saved_model, signatures=module.serve)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if variant != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if variant == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if variant in _EIGHT_BITS:
            converter._experimental_disable_per_channel_quantization_for_dense_layers = not options.per_channel_dense
        if variant in _CALIBRATED:
            converter.representative_dataset = lambda: _calibration(options.calibration, graph.contract)
        if variant == "mixed":
            converter._experimental_calibrate_only = True
        if variant == "int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if variant in _INTEGER:
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        try:
            model = converter.convert()
        except Exception as problem:  # The converter raises its own kinds and plain ones alike.
            raise ConversionError(f"The TFLite converter refused the graph: {problem}") from problem
        if variant == "mixed":
            model = _mixed(model, graph, options, Path(scratch) / "tried.tflite")
        if variant in _INTEGER and options.fit_rounding and options.calibration:
            model = _with_finer_logits(model, graph, options)
    path = out_dir / f"{graph.contract.name}-{variant}.tflite"
    files.write_bytes(path, metadata.attach(model, graph.contract))
    return path


def _mixed(calibrated: bytes, graph: ServingGraph, options: Options, scratch: Path) -> bytes:
    """The file with as little in float as it takes for the answers to validation photographs."""
    photographs = options.validation[:_SEARCH_PHOTOGRAPHS]
    if not photographs:
        raise ConversionError("mixed needs photographs of the validation split to choose by, and got none.")
    taken = np.concatenate(list(images.batches(photographs, graph.contract.image)))
    serve = graph.function(batch=None)
    true = np.concatenate([serve(image=batch)[OUTPUT].numpy() for batch in _fed(photographs, graph.contract)])

    def answers(model: bytes) -> np.ndarray:
        scratch.write_bytes(model)
        return interpreter.runner(scratch, graph.contract).predict(taken)

    return mixed.search(
        calibrated, true, answers, goal=options.mixed_agreement, per_channel_dense=options.per_channel_dense
    ).model


def _with_finer_logits(model: bytes, graph: ServingGraph, options: Options) -> bytes:
    """The same int8 file with the steps of its logits where they matter; unchanged where it has no single softmax."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    found = logits.of_graph(graph.graph_def(), _fed(options.calibration, graph.contract), INPUT)
    parsed = flatbuffer_utils.convert_bytearray_to_object(model)
    if found is None or not logits.set_range(parsed, schema, *logits.best_range(found)):
        return model
    return bytes(flatbuffer_utils.convert_object_to_bytearray(parsed))


def _fed(photographs: tuple[Path, ...], contract: Contract) -> Iterator[np.ndarray]:
    """Photographs as the serving graph takes them, a few at a time."""
    batches = images.batches(photographs, contract.image, batch_size=_BATCH)
    return (batch.astype(np.float32) for batch in batches)


def _calibration(photographs: tuple[Path, ...], contract: Contract) -> Iterator[list[np.ndarray]]:
    """Photographs one at a time, after one with a black and a white pixel: the input's range is then 0..255 exactly."""
    for index, photograph in enumerate(images.batches(photographs, contract.image, batch_size=1)):
        if index == 0:
            photograph[0, 0, :2] = [[0], [255]]
        yield [photograph.astype(np.float32)]
