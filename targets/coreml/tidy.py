"""What coremltools leaves behind in a program: long names, equal constants, small ones that lie apart.

In a small model that is a tenth of the package.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leafport.targets.coreml.blob import Blob, BlobWriter

WEIGHTS_FILE = "weight.bin"
INLINE_BYTES = 512
"""Constants of no more bytes stand in the program; in the weights file each takes 64 more, and up to 63 to the next."""
_INLINE = {1, 3, 4}  # float16, uint8 and int8: the program stores them as bytes too.


def tidied(model: Any) -> Any:
    """An MLModel with short names, one constant for all equal ones, and small constants in the program itself."""
    import coremltools

    spec = model.get_spec()
    with tempfile.TemporaryDirectory(prefix="leafport-") as scratch:
        weights = Path(model.weights_dir) / WEIGHTS_FILE
        if weights.is_file():
            _compact(spec, Blob(weights), Path(scratch) / WEIGHTS_FILE)
        _shorten(spec)
        return coremltools.models.MLModel(spec, weights_dir=scratch, skip_model_load=True)


def block(spec: Any) -> Any:
    """The steps of a program's one function."""
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def _compact(spec: Any, weights: Blob, path: Path) -> None:
    """Move small constants into the program, and what is left into a weights file without gaps."""
    writer = BlobWriter()
    for value in _values(spec):
        if value.WhichOneof("value") != "blobFileValue":
            continue
        record = weights.record(value.blobFileValue.offset)
        if record.kind in _INLINE and len(record.data) <= INLINE_BYTES:
            value.immediateValue.tensor.bytes.values = record.data
        else:
            value.blobFileValue.offset = writer.add(record)
    writer.write(path)


def _values(spec: Any) -> Iterator[Any]:
    for operation in block(spec).operations:
        yield from operation.attributes.values()
        for argument in operation.inputs.values():
            yield from (binding.value for binding in argument.arguments if binding.WhichOneof("binding") == "value")


def _shorten(spec: Any) -> None:
    """Give steps names by their kind and number, and let equal constants be one."""
    steps = block(spec)
    kept = {value.name for value in spec.mlProgram.functions["main"].inputs} | set(steps.outputs)
    names: dict[str, str] = {}
    constants: dict[bytes, str] = {}
    counts: Counter[str] = Counter()
    operations = list(steps.operations)
    del steps.operations[:]
    for operation in operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = names.get(binding.name, binding.name)
        if operation.type == "const":
            value = operation.attributes["val"].SerializeToString(deterministic=True)
            if value in constants:
                names[operation.outputs[0].name] = constants[value]
                continue
        kind = operation.type.removeprefix("constexpr_")
        for output in operation.outputs:
            if output.name not in kept:
                counts[kind] += 1
                names[output.name] = f"{kind}_{counts[kind]}"
                output.name = names[output.name]
        if operation.type == "const":
            constants[value] = operation.outputs[0].name
        if "name" in operation.attributes:
            operation.attributes["name"].immediateValue.tensor.strings.values[:] = [operation.outputs[0].name]
        steps.operations.append(operation)
