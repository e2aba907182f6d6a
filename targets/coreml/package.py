"""Writing an .mlpackage, with everything an app needs to know in its metadata, and reading back what was written."""

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
from leafport.errors import ConversionError, LeafportError, ModelError, TargetError
from leafport.export import rounding
from leafport.export.graph import INPUT
from leafport.targets.base import Facts, TensorFacts, Variant, carried_claims, option
from leafport.targets.coreml.compression import SMALL

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph
    from leafport.targets.coreml.program import Program

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
}
LABEL_OUTPUT, PROBABILITIES_OUTPUT = "classLabel", "classLabel_probs"  # Vision expects a label and a dictionary.
DEPLOYMENT_TARGETS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}  # Specification versions.
_OLDEST = {"fp16": "iOS15", "fp32": "iOS15", "int8": "iOS16", "w8a8": "iOS17", "pal6": "iOS16", "pal4": "iOS16"}
_STORED = {"int8": "int8", "w8a8": "int8", "pal6": "uint6", "pal4": "uint4"}
_PALETTES = {"pal6": 6, "pal4": 4}

_CONTRACT_KEY, _CONTRACT_HASH_KEY = "leafport.contract", "leafport.contract_sha256"
_FLOAT32_SHARE = 0.01


@dataclass(frozen=True)
class Options:
    """Settings of the Core ML target."""

    calibration: tuple[Path, ...] = ()
    minimum_deployment_target: str = option(
        "",
        f"Oldest iOS that is to run the files: {', '.join(DEPLOYMENT_TARGETS)} (iOS15 goes with macOS 12). By default "
        "the oldest that can: iOS16 for 8-bit weights and palettes, iOS17 for w8a8.",
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
    """Write OUT_DIR/NAME-VARIANT.mlpackage: an RGB image in, ``classLabel`` and ``classLabel_probs`` out.

    The package is an mlprogram. Its image input takes the contract's size without scale or bias, since normalisation
    is inside the model; Vision finds a classifier in it and answers with VNClassificationObservations.

    Raises:
        TargetError: the deployment target is unknown, or older than what the variant needs.
        ConversionError: coremltools cannot express the graph, or there are no photographs to calibrate ``w8a8`` on.
    """
    from leafport.targets.coreml import calibration, compression

    oldest = _deployment_target(variant, options)
    if variant == "w8a8" and not options.calibration:
        raise ConversionError("w8a8 needs photographs of the training split to calibrate on, and got none.")
    contract = graph.contract
    path = out_dir / f"{contract.name}-{variant}.mlpackage"
    with tempfile.TemporaryDirectory(prefix="leafport-") as scratch:
        if variant in _STORED and options.fit_rounding and options.calibration:
            graph = rounding.fitted(
                graph,
                options.calibration,
                Path(scratch) / "rounded.pb",
                per_channel_dense=True,
                at_least=SMALL + 1,
                palette=2 ** _PALETTES[variant] if variant in _PALETTES else None,
            )
        try:
            model = _program(graph, oldest, "FLOAT32" if variant == "fp32" else "FLOAT16")
            if variant == "w8a8":
                plain = Path(scratch) / "plain.mlpackage"
                model.save(str(plain))
                ranges = calibration.ranges(plain, options.calibration[: rounding.PHOTOGRAPHS], contract)
                model = compression.eight_bit_activations(model, ranges)
            if variant in ("int8", "w8a8"):
                model = compression.eight_bit_weights(model)
            if variant in _PALETTES:
                model = compression.palettised(model, _PALETTES[variant])
            if variant not in _STORED and options.leave_out_zeros:
                model = compression.without_zeros(model)
            model = compression.tidied(model)
        except LeafportError:
            raise
        except Exception as problem:  # coremltools raises many kinds; they all mean that it cannot.
            raise ConversionError(f"coremltools cannot convert {contract.name!r} to Core ML: {problem}") from problem
    _describe(model, contract)
    with files.staged(path) as staging:
        written = staging.with_name(f"{staging.name}.mlpackage")  # coremltools insists on the suffix.
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
    extra[_CONTRACT_KEY], extra[_CONTRACT_HASH_KEY] = _carried(contract)
    files.write_bytes(model_path, model.SerializeToString(deterministic=True))


def inspect(path: Path) -> Facts:
    """What a saved package holds, read from its own files.

    ``notes`` has the specification version, the deployment target it means, the opset, and how many values of the
    program, constants included, have each dtype.

    Raises:
        ModelError: it is not a classifier package, or damaged.
    """
    from leafport.targets.coreml.program import read

    program = read(path)
    metadata = program.description.metadata
    described = {
        "author": metadata.author,
        "license": metadata.license,
        "version": metadata.versionString,
        "description": metadata.shortDescription,
    }
    extra = {key: value for key, value in metadata.userDefined.items() if key != _CONTRACT_KEY}
    labels = _labels(program)
    targets = {version: name for name, version in DEPLOYMENT_TARGETS.items()}
    return Facts(
        inputs=tuple(_feature(feature, None) for feature in program.description.input),
        outputs=tuple(_feature(feature, labels) for feature in program.description.output),
        ops=program.ops,
        weights=program.weights,
        labels=labels,
        contract=_carried_contract(path, metadata.userDefined),
        metadata={key: value for key, value in {**described, **extra}.items() if value},
        notes={
            "specification_version": program.specification_version,
            "minimum_deployment_target": targets.get(program.specification_version, "unknown"),
            "opset": program.opset,
            "dtypes": dict(program.dtypes),
            "largest_float": program.largest_float,
        },
    )


def broken_claims(variant: str, facts: Facts, contract: Contract | None) -> list[str]:
    """Why a package is not what its name claims.

    fp32 allows no float16 anywhere. fp16 allows float32 for at most 1 % of the weights: coremltools leaves an operation
    in float32 when float16 cannot hold its constants (above 65,504). The others allow floats for small layers only.
    """
    broken: list[str] = carried_claims(facts, contract)
    float16, float32 = facts.weights.get("float16", 0), facts.weights.get("float32", 0)
    packed = _STORED.get(variant)
    allowed = {"float16", "float32", packed, "int8" if variant in _PALETTES else "uint1"}
    if other := sorted(set(facts.weights) - allowed):
        broken.append(f"it holds weights of type {', '.join(other)}")
    if packed and (packed not in facts.weights or facts.notes["largest_float"] > SMALL):
        broken.append(f"it has layers of up to {facts.notes['largest_float']:,} weights that are floats")
    if ("quantize" in facts.ops) != (variant == "w8a8"):
        broken.append(f"{facts.ops.get('quantize', 0)} of its results are quantised to 8 bits")
    if variant == "fp32" and "float16" in facts.notes["dtypes"]:
        broken.append(f"{facts.notes['dtypes']['float16']} of its values are float16")
    if variant == "fp16" and (float16 == 0 or float32 > _FLOAT32_SHARE * (float16 + float32)):
        broken.append(f"{float32:,} of its {float16 + float32:,} weights are float32")
    if contract is None:
        return broken
    image = TensorFacts(INPUT, "RGB image", (1, contract.image.height, contract.image.width, 3))
    if facts.inputs != (image,):
        broken.append(f"its input is not the one image the contract says ({INPUT}, RGB, {image.shape})")
    if tuple(output.name for output in facts.outputs) != (LABEL_OUTPUT, PROBABILITIES_OUTPUT):
        broken.append(f"its outputs are not {LABEL_OUTPUT} and {PROBABILITIES_OUTPUT}")
    if facts.labels is None:
        broken.append("it carries no labels")
    if facts.contract is None:
        broken.append("it carries no contract")
    return broken


def _deployment_target(variant: str, options: Options) -> str:
    """The oldest iOS that a package is written for."""
    asked = options.minimum_deployment_target or _OLDEST[variant]
    if asked not in DEPLOYMENT_TARGETS:
        raise TargetError(
            f"There is no deployment target {asked!r} for Core ML packages. There are: {', '.join(DEPLOYMENT_TARGETS)}."
        )
    oldest = "iOS16" if options.leave_out_zeros and variant not in _STORED else _OLDEST[variant]
    if DEPLOYMENT_TARGETS[asked] >= DEPLOYMENT_TARGETS[oldest]:
        return asked
    if options.minimum_deployment_target:
        raise TargetError(f"{asked} cannot read coreml-{variant} as asked for: that takes {oldest} or later.")
    return oldest


def _program(graph: ServingGraph, deployment_target: str, precision: str) -> Any:
    """The graph as coremltools' MLModel: an mlprogram that classifies an image."""
    coremltools, contract = _coremltools(), graph.contract
    image = coremltools.ImageType(
        name=INPUT,
        shape=(1, contract.image.height, contract.image.width, 3),
        color_layout=coremltools.colorlayout.RGB,
    )
    return coremltools.convert(
        [graph.function(1)],
        source="tensorflow",
        convert_to="mlprogram",
        inputs=[image],
        classifier_config=coremltools.ClassifierConfig(list(contract.labels)),
        minimum_deployment_target=getattr(coremltools.target, deployment_target),
        compute_precision=getattr(coremltools.precision, precision),
        skip_model_load=True,
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
    extra[_CONTRACT_KEY], extra[_CONTRACT_HASH_KEY] = _carried(contract)


def _carried(contract: Contract) -> tuple[str, str]:
    """What a package carries of the contract: its JSON and its hash."""
    return json.dumps(contract.to_json(), ensure_ascii=False), contract.sha256


def _carried_contract(path: Path, user_defined: Mapping[str, str]) -> Contract | None:
    """The contract a package carries; None if it carries none."""
    if _CONTRACT_KEY not in user_defined:
        return None
    carried = Contract.from_text(user_defined[_CONTRACT_KEY], where=path)
    if user_defined.get(_CONTRACT_HASH_KEY) != carried.sha256:
        raise ModelError(f"{path} carries a contract that was altered: its hash does not match. Export it again.")
    return carried


def _feature(feature: Any, labels: tuple[str, ...] | None) -> TensorFacts:
    """An input or output as the package describes it to apps; an image's shape is [1, height, width, 3]."""
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        space = {10: "greyscale", 20: "RGB", 30: "BGR", 40: "greyscale float16"}.get(image.colorSpace, "unknown")
        size = (image.height, image.width) if image.WhichOneof("SizeFlexibility") is None else (None, None)
        return TensorFacts(feature.name, f"{space} image", (1, *size, 3 if space in ("RGB", "BGR") else 1))
    if kind == "dictionaryType":
        return TensorFacts(feature.name, "probability by label", (len(labels or ()),))
    if kind == "multiArrayType":
        return TensorFacts(feature.name, "array", tuple(feature.type.multiArrayType.shape))
    return TensorFacts(feature.name, (kind or "unknown").removesuffix("Type"), ())


def _labels(program: Program) -> tuple[str, ...] | None:
    """The classes, in the order of the probabilities, from the program's last step."""
    classes = program.steps[-1].arguments.get("classes") if program.steps else None
    if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
        return None
    return tuple(classes)
