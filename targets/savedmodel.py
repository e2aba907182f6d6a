"""A TensorFlow SavedModel, for servers (TensorFlow Serving) and anything that starts from one."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import files
from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.export.graph import constants
from leafport.targets.base import Facts, TensorFacts, Variant, carried_claims

if TYPE_CHECKING:
    from leafport.export.graph import ServingGraph

NAME = "savedmodel"
GRAPH_FILE = "saved_model.pb"
SUFFIX = GRAPH_FILE
VARIANTS = {"": Variant("32-bit floats, any batch size, the signature serving_default")}
RUNTIME = "TensorFlow"
SIGNATURE = "serving_default"
CONTRACT_FILE = "contract.json"
EXTRA = "assets.extra"  # SavedModel's own folder for files that go along unread.
MAX_GRAPH_BYTES = 2**31 - 1


@dataclass(frozen=True)
class Options:
    """A SavedModel has no settings."""


def available(variant: str) -> str | None:
    return None


def convert(graph: ServingGraph, variant: str, out_dir: Path, options: Options) -> Path:
    """Write the folder ``out_dir/NAME``: a servable whose only version is 1, as TensorFlow Serving wants it.

    ``serving_default`` maps image (float32 [N, H, W, 3], RGB 0..255) to probabilities (float32 [N, classes]).
    The contract's JSON lies in ``assets.extra``.
    """
    import tensorflow as tf

    module = graph.module(batch=None)
    path = out_dir / graph.contract.name
    with files.staged(path) as staging:
        version = staging / "1"
        tf.saved_model.save(module, str(version), signatures={SIGNATURE: module.serve})
        (version / "fingerprint.pb").unlink(missing_ok=True)  # A random identity: equal models should be equal files.
        files.write_json(version / EXTRA / CONTRACT_FILE, graph.contract.to_json())
    return path


def inspect(path: Path) -> Facts:
    """Read the graph of a SavedModel without running it. Raises ModelError when it is not one, or is damaged."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.framework import dtypes, tensor_util

    version = _version(path)
    meta_graph = _read(version / GRAPH_FILE, SavedModel).meta_graphs[0]
    signature = meta_graph.signature_def.get(SIGNATURE)
    if signature is None:
        raise ModelError(f"{path} has no signature {SIGNATURE!r}, so nothing can serve it.")
    ops: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    nodes = [node for function in meta_graph.graph_def.library.function for node in function.node_def]
    for node in nodes:
        ops[node.op] += 1
        dtype = dtypes.as_dtype(node.attr["dtype"].type) if node.op == "Const" else None
        if dtype is not None and dtype.is_floating:
            shape = node.attr["value"].tensor.tensor_shape
            weights[dtype.name] += int(np.prod(tensor_util.TensorShapeProtoToList(shape)))
    contract = version / EXTRA / CONTRACT_FILE
    carried = (
        Contract.from_json(files.read_json(contract, error=ModelError), where=path) if contract.is_file() else None
    )
    return Facts(
        inputs=_tensor_facts(signature.inputs),
        outputs=_tensor_facts(signature.outputs),
        ops=dict(sorted(ops.items())),
        weights=dict(sorted(weights.items())),
        labels=carried.labels if carried else None,
        contract=carried,
        parts=constants(nodes),
        notes={"signature": SIGNATURE, "tensorflow": meta_graph.meta_info_def.tensorflow_version},
    )


def broken_claims(variant: str, facts: Facts, contract: Contract | None) -> list[str]:
    """One float32 input of the contract's size, one float32 output, any batch."""
    broken = carried_claims(facts, contract)
    expected = (None, contract.image.height, contract.image.width, 3) if contract else None
    if expected and [(tensor.dtype, tensor.shape) for tensor in facts.inputs] != [("float32", expected)]:
        broken.append(f"its input is {facts.inputs}, not one float32 {expected}")
    if [tensor.dtype for tensor in facts.outputs] != ["float32"]:
        broken.append(f"its outputs are {facts.outputs}, not one float32")
    return broken


def runner(path: Path, contract: Contract, threads: int = 1) -> SavedModelRunner:
    """Load the servable with plain TensorFlow and call its signature."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow already runs here, and keeps the threads it started with.
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        loaded = tf.saved_model.load(str(_version(path)))
        return SavedModelRunner(loaded, f"TensorFlow {tf.__version__}")
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        raise ModelError(f"{path} cannot be loaded by TensorFlow {tf.__version__}: {problem}") from None


class SavedModelRunner:
    """One SavedModel, called through its serving signature."""

    untimed = None

    def __init__(self, loaded: Any, executes: str) -> None:
        self.executes = executes
        self._loaded = loaded  # The signature alone would not keep it alive.
        self._serve = loaded.signatures[SIGNATURE]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (float32 [N, classes]) of images (uint8 [N, H, W, 3], RGB)."""
        import tensorflow as tf

        answer = self._serve(tf.constant(images.astype(np.float32)))
        return np.asarray(next(iter(answer.values())))


def _version(path: Path) -> Path:
    """The SavedModel itself: the first version of a servable, or the folder where it is no servable."""
    if path.is_file():
        return path.parent
    return path if (path / GRAPH_FILE).is_file() else path / "1"


def _read(path: Path, message: Any) -> Any:
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size > MAX_GRAPH_BYTES:
            raise ModelError(f"{path} is larger than 2 GiB: not a SavedModel.")
        return message.FromString(path.read_bytes())
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror}. Is this a SavedModel's folder?") from None
    except DecodeError as problem:
        raise ModelError(f"{path} is damaged: {problem}.") from None


def _tensor_facts(signature: Any) -> tuple[TensorFacts, ...]:
    from tensorflow.python.framework import dtypes, tensor_util

    return tuple(
        TensorFacts(
            name,
            dtypes.as_dtype(info.dtype).name,
            tuple(None if size < 0 else size for size in tensor_util.TensorShapeProtoToList(info.tensor_shape)),
        )
        for name, info in sorted(signature.items())
    )


if __name__ == "__main__":
    from leafport.cli.export import script

    script(NAME)
