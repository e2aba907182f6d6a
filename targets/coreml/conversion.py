"""Writing an .mlpackage or an .mlmodel, with all that an app needs to know in its metadata."""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leafport import files
from leafport.contract import Contract
from leafport.errors import ConversionError, LeafportError, TargetError
from leafport.export import rounding
from leafport.export.graph import INPUT
from leafport.targets.base import Variant, option
from leafport.targets.coreml.compression import SMALL

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph

VARIANTS: Mapping[str, Variant] = {
    "fp16": Variant(
        "16-bit floats, half the size; what Core ML calculates with on the neural engine and the GPU", also=("float16",)
    ),
    "fp32": Variant("32-bit floats, the trained model's own values", also=("float32",)),
    "int8": Variant("8-bit weights, calculated with in 16-bit floats: a quarter of the size", 0.97, refit=True),
    "w8a8": Variant(
        "8-bit weights and activations, which newer neural engines are made for; made only when asked for",
        0.88,
        refit=True,
        asked=True,
    ),
    "pal6": Variant("weights from a table of 64 values a layer: a fifth of the size", 0.93, refit=True),
    "pal4": Variant(
        "weights from a table of 16 values a layer: a seventh of the size; made only when asked for",
        0.8,
        refit=True,
        asked=True,
    ),
    "neuralnetwork": Variant(
        "an .mlmodel in the older format with 16-bit weights, for iOS 11.2 to 14; made only when asked for", asked=True
    ),
}
PACKAGE_SUFFIX, NEURALNETWORK_SUFFIX = ".mlpackage", ".mlmodel"
LABEL_OUTPUT, PROBABILITIES_OUTPUT = "classLabel", "classLabel_probs"  # Vision expects a label and a dictionary.
DEPLOYMENT_TARGETS = {"iOS11": 1, "iOS11.2": 2, "iOS12": 3, "iOS13": 4, "iOS14": 5}  # Specification versions.
DEPLOYMENT_TARGETS |= {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}
_OLDEST = {"fp16": "iOS15", "fp32": "iOS15", "int8": "iOS16", "w8a8": "iOS17", "pal6": "iOS16", "pal4": "iOS16"}
_OLDEST |= {"neuralnetwork": "iOS11.2"}
STORED = {"int8": "int8", "w8a8": "int8", "pal6": "uint6", "pal4": "uint4"}
PALETTES = {"pal6": 6, "pal4": 4}
_FINE = {"pal6": 0.0625, "pal4": 0.0}  # The share of the weights that have 8 bits all the same.

CONTRACT_KEY, CONTRACT_HASH_KEY = "leafport.contract", "leafport.contract_sha256"


@dataclass(frozen=True)
class Options:
    """Settings of the Core ML target."""

    calibration: tuple[Path, ...] = ()
    minimum_deployment_target: str = option(
        "",
        f"Oldest iOS that is to run the files: {', '.join(DEPLOYMENT_TARGETS)} (iOS15 goes with macOS 12). By default "
        "the oldest that can: iOS16 for 8-bit weights and palettes, iOS17 for w8a8, iOS11.2 for neuralnetwork.",
    )
    fit_rounding: bool = option(True, "Choose weights of few bits so that results on the calibration photographs stay.")
    leave_out_zeros: bool = option(
        False, "Store the fp16 and fp32 weights of a pruned classifier without their zeros; from iOS16."
    )


def available(variant: str) -> str | None:
    """None if packages can be written here, or what to install."""
    if importlib.util.find_spec("coremltools") is None:
        return "coremltools is not installed: pip install 'leafport[coreml]'"
    return None


def convert(graph: ServingGraph, variant: str, out_dir: Path, options: Options) -> Path:
    """Write OUT_DIR/NAME-VARIANT.mlpackage or .mlmodel: an RGB image in, ``classLabel`` and ``classLabel_probs`` out.

    The package is an mlprogram; ``neuralnetwork`` is one file, .mlmodel. The image input takes the contract's size
    without scale or bias, since normalisation is inside the model; Vision finds a classifier in it and answers with
    VNClassificationObservations.

    Raises:
        TargetError: the deployment target is unknown, or older than what the variant needs.
        ConversionError: coremltools cannot express the graph, or there are no photographs to calibrate ``w8a8`` on.
    """
    oldest = _deployment_target(variant, options)
    if variant == "w8a8" and not options.calibration:
        raise ConversionError("w8a8 needs photographs of the training split to calibrate on, and got none.")
    contract = graph.contract
    suffix = NEURALNETWORK_SUFFIX if variant == "neuralnetwork" else PACKAGE_SUFFIX
    path = out_dir / f"{contract.name}-{variant}{suffix}"
    with tempfile.TemporaryDirectory(prefix="leafport-") as scratch:
        if variant in STORED and options.fit_rounding and options.calibration:
            graph = rounding.fitted(
                graph,
                options.calibration,
                Path(scratch) / "rounded.pb",
                per_channel_dense=True,
                at_least=SMALL + 1,
                palette=2 ** PALETTES[variant] if variant in PALETTES else None,
                fine=_FINE.get(variant, 0.0),
                in_turn=variant == "int8",
            )
        try:
            if variant == "neuralnetwork":
                model = _neural_network(graph, oldest)
            else:
                model = _program(graph, variant, oldest, options, Path(scratch))
        except LeafportError:
            raise
        except Exception as problem:  # coremltools raises many kinds; they all mean that it cannot.
            raise ConversionError(f"coremltools cannot convert {contract.name!r} to Core ML: {problem}") from problem
    _describe(model, contract)
    with files.staged(path) as staging:
        written = staging.with_name(f"{staging.name}{suffix}")  # coremltools insists on the suffix.
        try:
            model.save(str(written))
            for file in files.files_in(written):
                file.chmod(0o644)  # coremltools leaves the model readable by its owner alone.
            written.replace(staging)
        finally:
            files.remove(written)
    return path


def restate(path: Path, contract: Contract) -> None:
    """Put another contract into a written package: one that differs in its threshold, say."""
    from leafport.targets.coreml.program import read_model

    model_path, model = read_model(path)
    extra = model.description.metadata.userDefined
    extra[CONTRACT_KEY], extra[CONTRACT_HASH_KEY] = _carried(contract)
    files.write_bytes(model_path, model.SerializeToString(deterministic=True))


def _deployment_target(variant: str, options: Options) -> str:
    """The oldest iOS that a package is written for."""
    asked = options.minimum_deployment_target or _OLDEST[variant]
    if asked not in DEPLOYMENT_TARGETS:
        raise TargetError(
            f"There is no deployment target {asked!r} for Core ML packages. There are: {', '.join(DEPLOYMENT_TARGETS)}."
        )
    oldest = "iOS16" if options.leave_out_zeros and variant not in STORED else _OLDEST[variant]
    if DEPLOYMENT_TARGETS[asked] >= DEPLOYMENT_TARGETS[oldest]:
        return asked
    if options.minimum_deployment_target:
        raise TargetError(f"{asked} cannot read coreml-{variant} as asked for: that takes {oldest} or later.")
    return oldest


def _program(graph: ServingGraph, variant: str, deployment_target: str, options: Options, scratch: Path) -> Any:
    """The graph as coremltools' MLModel: an mlprogram that classifies an image, its weights in few bits if so asked."""
    from leafport.targets.coreml import calibration, compression, tidy

    coremltools = _coremltools()
    model = _converted(
        graph,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(coremltools.target, deployment_target),
        compute_precision=coremltools.precision.FLOAT32 if variant == "fp32" else coremltools.precision.FLOAT16,
    )
    if variant == "w8a8":
        plain = scratch / "plain.mlpackage"
        model.save(str(plain))
        ranges = calibration.ranges(plain, options.calibration[: rounding.PHOTOGRAPHS], graph.contract)
        model = compression.eight_bit_activations(model, ranges)
    if variant in ("int8", "w8a8"):
        model = compression.eight_bit_weights(model)
    if variant in PALETTES:
        model = compression.palettised(model, PALETTES[variant], _FINE[variant])
    if variant not in STORED and options.leave_out_zeros:
        model = compression.without_zeros(model)
    return tidy.tidied(model)


def _neural_network(graph: ServingGraph, deployment_target: str) -> Any:
    """The graph as coremltools' MLModel in the older format, for the oldest devices that its layers allow.

    Raises:
        ConversionError: these are newer than asked for.
    """
    from leafport.targets.coreml import older

    spec = _converted(graph, convert_to="neuralnetwork").get_spec()
    older.for_older_devices(spec)
    if spec.specificationVersion > DEPLOYMENT_TARGETS[deployment_target]:
        raise ConversionError(
            f"{graph.contract.name!r} has layers that {deployment_target} does not know. Ask for a newer one: "
            "--coreml-minimum-deployment-target iOS13."
        )
    older.in_float16(spec)
    older.renamed(spec, spec.description.predictedProbabilitiesName, PROBABILITIES_OUTPUT)
    return _coremltools().models.MLModel(spec, skip_model_load=True)


def _converted(graph: ServingGraph, **settings: Any) -> Any:
    """What coremltools makes of the graph: an MLModel that classifies an image."""
    coremltools, image = _coremltools(), graph.contract.image
    return coremltools.convert(
        [graph.function(1)],
        source="tensorflow",
        inputs=[
            coremltools.ImageType(
                name=INPUT, shape=(1, image.height, image.width, 3), color_layout=coremltools.colorlayout.RGB
            )
        ],
        classifier_config=coremltools.ClassifierConfig(list(graph.contract.labels)),
        skip_model_load=True,
        **settings,
    )


def _coremltools() -> Any:
    """coremltools, without its remarks on which versions of other libraries it was tested with."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import coremltools
    finally:
        logger.setLevel(level)
    return coremltools


def _describe(model: Any, contract: Contract) -> None:
    image = contract.image
    model.author = contract.author
    model.license = contract.license
    model.version = contract.version
    model.short_description = contract.description or f"Tells {len(contract.labels)} classes of photographs apart."
    vision_scale = {"squash": "scaleFill", "crop": "centerCrop"}[image.fit]
    model.input_description[INPUT] = (
        f"The photograph upright, {image.width} x {image.height} RGB. "
        f"With Vision, imageCropAndScaleOption must be {vision_scale}."
    )
    model.output_description[LABEL_OUTPUT] = "The most probable class."
    model.output_description[PROBABILITIES_OUTPUT] = "The probability, 0 to 1, of each class."
    extra = model.user_defined_metadata
    extra[CONTRACT_KEY], extra[CONTRACT_HASH_KEY] = _carried(contract)


def _carried(contract: Contract) -> tuple[str, str]:
    """What a package carries of the contract: its JSON and its hash."""
    return json.dumps(contract.to_json(), ensure_ascii=False), contract.sha256
