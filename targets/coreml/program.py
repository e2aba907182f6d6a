"""A saved .mlpackage or .mlmodel, read back from disk: its description, its steps and its constants.

An .mlpackage is a folder: Manifest.json names the model file (a protocol buffer, ``Model`` of Core ML's published
.proto files), which refers to weights in a blob file by offset. An .mlmodel is a model file by itself. They are read
here without the libraries that wrote them, so that what is inspected and executed is the file, and a damaged file is an
error, not a crash.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leafport import files
from leafport.errors import ModelError, UserError
from leafport.targets.coreml.blob import NUMPY_TYPES, Blob

MANIFEST_FILE = "Manifest.json"
MAX_MODEL_BYTES = 2**31 - 1  # A protocol buffer's own limit.
MAX_STEPS = 100_000
BGR = 30  # ImageFeatureType.ColorSpace
_MODEL_PATH = "@model_path/"


@dataclass(frozen=True)
class Reference:
    """A step's argument that is the result of an earlier step, or the program's input."""

    name: str


@dataclass(frozen=True)
class Output:
    """One result of a step. ``dtype`` and ``shape`` are None where it is no tensor (a dictionary of probabilities)."""

    name: str
    dtype: str | None
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Step:
    """One operation. An argument is a Reference, a constant (array, number, bool, str, list of str), or a tuple."""

    type: str
    arguments: Mapping[str, Any]
    outputs: tuple[Output, ...]

    @property
    def name(self) -> str:
        """Its first result's name, for messages."""
        return self.outputs[0].name if self.outputs else self.type


@dataclass(frozen=True)
class Program:
    """The one function of a saved model.

    Attributes:
        path: the package or file.
        format: ``mlprogram``, or ``neuralnetwork``, the older one.
        description: Core ML's ModelDescription message: inputs, outputs, metadata.
        specification_version: which Core ML can read it; 6 is iOS 15 and macOS 12.
        opset: the version of the operations' definitions ("CoreML5").
        inputs: the function's inputs, as tensors.
        steps: every operation but constants, in the order of execution.
        results: the names of the function's results.
        ops: how often each operation occurs, constants included.
        weights: values stored in each dtype: everything in the blob file, and every float array outside it. Places in a
            table of 64 values are uint6.
        largest_float: the values of the largest float array that has more than one axis longer than 1.
        dtypes: how many results of operations, constants included, have each dtype.
    """

    path: Path
    format: Literal["mlprogram", "neuralnetwork"]
    description: Any
    specification_version: int
    opset: str
    inputs: tuple[Output, ...]
    steps: tuple[Step, ...]
    results: tuple[str, ...]
    ops: Mapping[str, int]
    weights: Mapping[str, int]
    largest_float: int
    dtypes: Mapping[str, int]

    @property
    def shapes(self) -> dict[str, tuple[int | None, ...] | None]:
        """The shape that the program declares for each step's results."""
        return {output.name: output.shape for step in self.steps for output in step.outputs}


def read(path: Path) -> Program:
    """Read a package or file. Blobs are mapped into memory, not copied.

    Raises:
        ModelError: it holds no network, or is damaged.
    """
    from leafport.targets.coreml import neuralnetwork  # It is made of this module's classes.

    model_path, model = read_model(path)
    kind = model.WhichOneof("Type")
    if kind in neuralnetwork.FORMATS:
        return neuralnetwork.program(path, model)
    if kind != "mlProgram":
        raise ModelError(f"{path} holds no network that leafport knows: {kind or 'no model'}.")
    if list(model.mlProgram.functions) != ["main"]:
        raise ModelError(f"{path} has not one function called main: not a package leafport wrote, or damaged.")
    function = model.mlProgram.functions["main"]
    block = function.block_specializations.get(function.opset)
    if block is None or len(block.operations) > MAX_STEPS:
        raise damaged(path, f"its program is missing or has more than {MAX_STEPS:,} steps")

    reader = _Reader(path, model_path.parent)
    inputs = tuple(reader.output(value) for value in function.inputs)
    known: dict[str, Any] = {value.name: Reference(value.name) for value in inputs}
    steps = list(reader.steps(block, known))
    if missing := [name for name in block.outputs if name not in known]:
        raise damaged(path, f"nothing calculates its result {missing[0]!r}")
    return Program(
        path=path,
        format="mlprogram",
        description=model.description,
        specification_version=model.specificationVersion,
        opset=function.opset,
        inputs=inputs,
        steps=tuple(steps),
        results=tuple(block.outputs),
        ops=dict(sorted(Counter(operation.type for operation in block.operations).items())),
        weights=dict(sorted((+reader.weights).items())),
        largest_float=reader.largest_float,
        dtypes=dict(sorted(reader.dtypes.items())),
    )


def damaged(path: Path, why: str) -> ModelError:
    """The error for a package or file that contradicts itself."""
    return ModelError(f"{path} is damaged: {why}. Export it again.")


def read_model(path: Path) -> tuple[Path, Any]:
    """The model file of a package and the message it holds. Raises ModelError where either is missing or damaged."""
    model_path = _model_path(path)
    return model_path, _parse(model_path)


def _model_path(path: Path) -> Path:
    """The model file that the package's manifest names, or an .mlmodel itself."""
    if path.suffix == ".mlmodel" and path.is_file():
        return path
    if not path.is_dir():
        raise ModelError(
            f"{path} is not a Core ML package: an .mlpackage is a folder, an .mlmodel a file. Check the path."
        )
    manifest = files.read_json(path / MANIFEST_FILE, error=ModelError)
    try:
        relative = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (KeyError, TypeError):
        relative = None
    if not isinstance(relative, str) or not relative:
        raise ModelError(f"{path / MANIFEST_FILE} names no model: not a Core ML package, or damaged.")
    return _file_inside(path / "Data", relative)


def _file_inside(root: Path, relative: str) -> Path:
    try:
        found = files.inside(root, relative)
        if not found.is_file():
            raise ModelError(f"{found} does not exist: the package is not whole. Export it again.")
    except ModelError:
        raise
    except (UserError, OSError, ValueError) as problem:
        raise ModelError(f"{root} names a file that cannot be used: {problem}") from None
    return found


def _parse(model_path: Path) -> Any:
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    try:
        if model_path.stat().st_size > MAX_MODEL_BYTES:
            raise ModelError(f"{model_path} is larger than 2 GiB: not a Core ML model.")
        return Model_pb2.Model.FromString(model_path.read_bytes())
    except OSError as problem:
        raise ModelError(f"{model_path} cannot be read: {problem.strerror}.") from None
    except (DecodeError, RecursionError) as problem:
        raise ModelError(f"{model_path} is not a Core ML model, or damaged: {problem}.") from None


@dataclass
class _Reader:
    """Turns messages into steps and constants, and counts what they hold."""

    package: Path
    model_folder: Path
    weights: Counter[str] = field(default_factory=Counter)
    largest_float: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)
    blobs: dict[str, Blob] = field(default_factory=dict)

    def steps(self, block: Any, known: dict[str, Any]) -> Iterator[Step]:
        """The block's operations but constants; ``known`` gathers what each name stands for."""
        for operation in block.operations:
            outputs = tuple(self.output(value) for value in operation.outputs)
            self.dtypes.update(output.dtype for output in outputs if output.dtype)
            attributes = {key: self.value(value) for key, value in operation.attributes.items()}
            if operation.type == "const":
                if len(outputs) != 1 or "val" not in attributes:
                    raise self._damaged("a constant has no value")
                known[outputs[0].name] = attributes["val"]
                continue
            arguments = {key: self._argument(argument, known) for key, argument in operation.inputs.items()}
            if operation.type.startswith("constexpr_"):  # In iOS16 their constants are attributes, as a const's is.
                arguments = {**{key: value for key, value in attributes.items() if key != "name"}, **arguments}
                self._count_packed(arguments)
            known.update({output.name: Reference(output.name) for output in outputs})
            yield Step(operation.type, arguments, outputs)

    def output(self, named: Any) -> Output:
        if named.type.WhichOneof("type") != "tensorType":
            return Output(named.name, None, None)
        return Output(named.name, *self._tensor_type(named.type.tensorType))

    def value(self, value: Any) -> Any:
        """A constant: array, number, bool, str, list, dict."""
        stored = value.WhichOneof("value")
        if stored == "blobFileValue":
            return self._blob_value(value)
        kind = value.immediateValue.WhichOneof("value")
        if kind == "list":
            return [self.value(item) for item in value.immediateValue.list.values]
        if kind == "dictionary":
            pairs = value.immediateValue.dictionary.values
            return {str(self.value(pair.key)): self.value(pair.value) for pair in pairs}
        if kind != "tensor" or value.type.WhichOneof("type") != "tensorType":
            raise self._damaged("a constant has no value")
        return self._immediate_tensor(value)

    def _argument(self, argument: Any, known: Mapping[str, Any]) -> Any:
        bindings = [
            self.value(binding.value) if binding.WhichOneof("binding") == "value" else known.get(binding.name)
            for binding in argument.arguments
        ]
        if not bindings or any(binding is None for binding in bindings):
            names = ", ".join(repr(binding.name) for binding in argument.arguments)
            raise self._damaged(f"a step refers to {names or 'nothing'}, which no step before it calculates")
        return bindings[0] if len(bindings) == 1 else tuple(bindings)

    def _tensor_type(self, tensor_type: Any) -> tuple[str, tuple[int | None, ...]]:
        from coremltools.proto import MIL_pb2

        try:
            dtype = MIL_pb2.DataType.Name(tensor_type.dataType).lower()
        except ValueError:
            raise self._damaged(f"it has values of an unknown type ({tensor_type.dataType})") from None
        shape = tuple(
            dimension.constant.size if dimension.WhichOneof("dimension") == "constant" else None
            for dimension in tensor_type.dimensions
        )
        return dtype, shape

    def _constant_type(self, value: Any) -> tuple[str, tuple[int, ...]]:
        dtype, shape = self._tensor_type(value.type.tensorType)
        if any(size is None for size in shape):
            raise self._damaged("a constant has no fixed shape")
        return dtype, tuple(size for size in shape if size is not None)

    def _immediate_tensor(self, value: Any) -> Any:
        dtype, shape = self._constant_type(value)
        tensor = value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        values: Any = getattr(tensor, kind).values if kind else ()
        if dtype == "string":
            if kind != "strings" or len(values) != math.prod(shape):
                raise self._damaged("a text constant is not whole")
            return list(values) if shape else values[0]
        numpy_type = NUMPY_TYPES.get(dtype)
        if numpy_type is None:
            raise self._damaged(f"it has a constant of type {dtype}, which leafport does not write")
        try:  # Small types are packed bytes, the others a list of numbers.
            array: np.ndarray = np.frombuffer(values, numpy_type) if kind == "bytes" else np.array(values, numpy_type)
        except (ValueError, TypeError, OverflowError) as problem:
            raise self._damaged(f"a constant of type {dtype} cannot be read ({problem})") from None
        if array.size != math.prod(shape):
            raise self._damaged(f"a constant of shape {shape} holds {array.size} values")
        array = array.reshape(shape)
        if shape and dtype.startswith("float"):
            self._count(array, dtype)
        return array if shape else array.item()

    def _blob_value(self, value: Any) -> np.ndarray:
        dtype, shape = self._constant_type(value)
        name, offset = value.blobFileValue.fileName, value.blobFileValue.offset
        if name not in self.blobs:
            self.blobs[name] = Blob(_file_inside(self.model_folder, name.removeprefix(_MODEL_PATH)))
        array = self.blobs[name].read(offset, dtype, math.prod(shape)).reshape(shape)
        self._count(array, dtype)
        return array

    def _count(self, array: np.ndarray, dtype: str) -> None:
        self.weights[dtype] += array.size
        if sum(size > 1 for size in array.shape) > 1 and dtype.startswith("float"):
            self.largest_float = max(self.largest_float, array.size)

    def _count_packed(self, arguments: Mapping[str, Any]) -> None:
        """Values that iOS16 packs into bytes count as what they are."""
        shape, table = arguments.get("shape"), arguments.get("lut")
        bits = {"mask": 1, "indices": len(table).bit_length() - 1 if isinstance(table, np.ndarray) else 0}
        for name, packed in arguments.items():
            if isinstance(shape, np.ndarray) and isinstance(packed, np.ndarray) and 0 < bits.get(name, 0) < 8:
                self.weights["uint8"] -= packed.size
                self.weights[f"uint{bits[name]}"] += math.prod(shape.tolist())

    def _damaged(self, why: str) -> ModelError:
        return damaged(self.package, why)
