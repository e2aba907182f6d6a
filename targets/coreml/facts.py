"""What a Core ML package or file holds, and whether that is what its name claims."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.export.graph import INPUT
from leafport.targets.base import Facts, TensorFacts, carried_claims, part
from leafport.targets.coreml.compression import SMALL
from leafport.targets.coreml.conversion import (
    CONTRACT_HASH_KEY,
    CONTRACT_KEY,
    DEPLOYMENT_TARGETS,
    LABEL_OUTPUT,
    NEURALNETWORK_SUFFIX,
    PACKAGE_SUFFIX,
    PALETTES,
    PROBABILITIES_OUTPUT,
    STORED,
)
from leafport.targets.coreml.program import Program, read

_FLOAT32_SHARE = 0.01


def inspect(path: Path) -> Facts:
    """What a saved package or file holds, read from its own files.

    ``notes`` has the format, the specification version, the deployment target it means, the opset, how many values of
    the program, constants included, have each dtype, and what apps find: the ``swift`` names that Xcode generates, and
    which results Vision takes for the class and its probabilities.

    Raises:
        ModelError: it is not a classifier package, or damaged.
    """
    program = read(path)
    metadata = program.description.metadata
    described = {
        "author": metadata.author,
        "license": metadata.license,
        "version": metadata.versionString,
        "description": metadata.shortDescription,
    }
    extra = {key: value for key, value in metadata.userDefined.items() if key != CONTRACT_KEY}
    labels = _labels(program)
    targets = {version: name for name, version in DEPLOYMENT_TARGETS.items()}
    return Facts(
        inputs=tuple(_feature(feature, program, labels) for feature in program.description.input),
        outputs=tuple(_feature(feature, program, labels) for feature in program.description.output),
        ops=program.ops,
        weights=program.weights,
        labels=labels,
        contract=_carried_contract(path, metadata.userDefined),
        parts=_parts(program),
        metadata={key: value for key, value in {**described, **extra}.items() if value},
        notes={
            "format": program.format,
            "specification_version": program.specification_version,
            "minimum_deployment_target": targets.get(program.specification_version, "unknown"),
            "opset": program.opset,
            "dtypes": dict(program.dtypes),
            "largest_float": program.largest_float,
            "swift": _swift(path, program.description),
            "vision": [program.description.predictedFeatureName, program.description.predictedProbabilitiesName],
        },
    )


def broken_claims(variant: str, facts: Facts, contract: Contract | None) -> list[str]:
    """Why a package is not what its name claims.

    fp32 allows no float16 anywhere. fp16 allows float32 for at most 1 % of the weights: coremltools leaves an operation
    in float32 when float16 cannot hold its constants (above 65,504). The others allow floats for small layers only.
    """
    broken: list[str] = carried_claims(facts, contract)
    float16, float32 = facts.weights.get("float16", 0), facts.weights.get("float32", 0)
    packed = STORED.get(variant)
    allowed = {"float16", "float32", packed, "int8" if variant in PALETTES else "uint1"}
    if other := sorted(set(facts.weights) - allowed):
        broken.append(f"it holds weights of type {', '.join(other)}")
    if packed and (packed not in facts.weights or facts.notes["largest_float"] > SMALL):
        broken.append(f"it has layers of up to {facts.notes['largest_float']:,} weights that are floats")
    if ("quantize" in facts.ops) != (variant == "w8a8"):
        broken.append(f"{facts.ops.get('quantize', 0)} of its results are quantised to 8 bits")
    if variant == "fp32" and "float16" in facts.notes["dtypes"]:
        broken.append(f"{facts.notes['dtypes']['float16']} of its values are float16")
    if variant == "neuralnetwork" and contract is not None and float16 < float32:
        broken.append(f"{float32:,} of its {float16 + float32:,} weights are float32")
    if variant == "fp16" and (float16 == 0 or float32 > _FLOAT32_SHARE * (float16 + float32)):
        broken.append(f"{float32:,} of its {float16 + float32:,} weights are float32")
    if contract is None:
        return broken
    if (facts.notes["format"] == "neuralnetwork") != (variant == "neuralnetwork"):
        broken.append(f"it has the format {facts.notes['format']}")
    image = TensorFacts(INPUT, "RGB image", (1, contract.image.height, contract.image.width, 3))
    if facts.inputs != (image,):
        found = ", ".join(f"{tensor.name}, {tensor.dtype} {list(tensor.shape)}" for tensor in facts.inputs)
        broken.append(f"its input is {found}, not {INPUT}, {image.dtype} {list(image.shape)}")
    outputs = (LABEL_OUTPUT, PROBABILITIES_OUTPUT)
    if {output.name for output in facts.outputs} != {*outputs} or tuple(facts.notes["vision"]) != outputs:
        broken.append(f"its outputs are not {' and '.join(outputs)}, by which Vision knows a classifier")
    if facts.labels is None:
        broken.append("it carries no labels")
    if facts.contract is None:
        broken.append("it carries no contract")
    return broken


def _carried_contract(path: Path, user_defined: Mapping[str, str]) -> Contract | None:
    """The contract a package carries; None if it carries none."""
    if CONTRACT_KEY not in user_defined:
        return None
    carried = Contract.from_text(user_defined[CONTRACT_KEY], where=path)
    if user_defined.get(CONTRACT_HASH_KEY) != carried.sha256:
        raise ModelError(f"{path} carries a contract that was altered: its hash does not match. Export it again.")
    return carried


def _parts(program: Program) -> dict[str, str]:
    """The constants of each step; those before the first convolution make the network's values of pixels."""
    found = {}
    place = "the scaling of pixels, "
    for step in program.steps:
        if step.type in ("conv", "linear", "matmul"):
            place = ""
        for name, value in step.arguments.items():
            constant = np.asarray(value) if isinstance(value, np.ndarray | int | float | list) else None
            if constant is not None and constant.dtype.kind in "fiu":
                found[f"{place}{step.name}.{name}"] = part(constant)
    return found


def _swift(path: Path, description: Any) -> dict[str, Any]:
    """The class that Xcode generates for a model file, and the Swift types of its inputs and outputs.

    Source: Apple, "Integrating a Core ML model into your app"; images also come as CGImage or URL.
    """
    types = {"imageType": "CVPixelBuffer", "stringType": "String", "dictionaryType": "[String: Double]"}
    types |= {"multiArrayType": "MLMultiArray", "int64Type": "Int64"}
    name = re.sub(r"\W", "_", path.name.removesuffix(PACKAGE_SUFFIX).removesuffix(NEURALNETWORK_SUFFIX), flags=re.ASCII)

    def swift(features: Any) -> dict[str, str]:
        return {feature.name: types.get(feature.type.WhichOneof("Type"), "unknown") for feature in features}

    return {
        "class": f"_{name}" if name[:1].isdigit() else name,
        "inputs": swift(description.input),
        "outputs": swift(description.output),
    }


def _feature(feature: Any, program: Program, labels: tuple[str, ...] | None) -> TensorFacts:
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
        shape = tuple(feature.type.multiArrayType.shape) or program.shapes.get(feature.name) or ()
        return TensorFacts(feature.name, "array", shape)
    return TensorFacts(feature.name, (kind or "unknown").removesuffix("Type"), ())


def _labels(program: Program) -> tuple[str, ...] | None:
    """The classes, in the order of the probabilities, from the program's last step."""
    classes = program.steps[-1].arguments.get("classes") if program.steps else None
    if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
        return None
    return tuple(classes)
