"""The operations that each TensorFlow knows, as TensorFlow itself tells: what ``targets/tftrt/operations.json`` holds.

    python tests/tensorflow_operations.py

asks the TensorFlows in ``.envs`` (``make environments``) and writes that file anew. A test asks again and compares.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from leafport.targets.tftrt import segments  # noqa: E402
from tests import environments  # noqa: E402

TABLE = ROOT / "targets" / "tftrt" / "operations.json"
VERSIONS = ("1.15", "2.7", "2.13", "2.17")
NOT_COMPUTING = ("Grad", "Backprop", "Apply", "Ref", "Xla", "TPU", "Mkl", "Sdca", "BoostedTrees", "Cudnn", "Debug")

# Runs in each TensorFlow, so in Python 3.6 too. Attributes: name, "!" where it must be given, "=" and what it may be.
ASK = """
import json, sys
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2, types_pb2
try:
    import tensorflow.python.compiler.tensorrt.trt_convert  # In 1.15 this registers TRTEngineOp.
except Exception:
    pass
try:
    from tensorflow.python.client import pywrap_tf_session as session
except ImportError:  # 1.15
    from tensorflow.python import pywrap_tensorflow as session
every = op_def_pb2.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList()))
NO_NUMBERS = {types_pb2.DT_STRING, types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT}

def computes(op):
    types = {argument.type for argument in list(op.input_arg) + list(op.output_arg)}
    functions = any(attr.type in ("func", "list(func)") for attr in op.attr)
    return not (op.is_stateful or types & NO_NUMBERS or functions or op.name.startswith("_"))

def described(attr):
    allowed = "|".join(value.decode() for value in attr.allowed_values.list.s)
    required = "" if attr.HasField("default_value") else "!"
    return attr.name + required + ("=" + allowed if allowed else "")

def attributes(op):
    return " ".join(sorted(described(attr) for attr in op.attr))

found = {op.name: attributes(op) for op in every.op if computes(op) or op.name == "TRTEngineOp"}
json.dump({"version": tf.__version__, "operations": found}, open(sys.argv[1], "w"))
"""


def asked(version: str, scratch: Path) -> dict[str, Any]:
    """The full version, and the operations that only compute, with their attributes, of one of ``VERSIONS``."""
    python = environments.interpreter(f"tensorflow-{version}")
    if python is None:
        raise RuntimeError(f"It needs the environment tensorflow-{version}: make environments.")
    answer = scratch / f"{version}.json"
    subprocess.run([str(python), "-c", ASK, str(answer)], check=True, capture_output=True)
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def wanted(operation: str) -> bool:
    """Whether a classifier could hold it: gradients and optimisers never come to a board."""
    return operation in segments.TAKEN or not any(word in operation for word in NOT_COMPUTING)


def table(scratch: Path) -> dict[str, Any]:
    """For each operation the attributes, by the version they came with; None from where it is gone."""
    answers = {version: asked(version, scratch) for version in VERSIONS}
    names = sorted({name for answer in answers.values() for name in answer["operations"] if wanted(name)})
    operations: dict[str, dict[str, str | None]] = {}
    for name in names:
        before: str | None = None
        for version in VERSIONS:
            now = answers[version]["operations"].get(name)
            if now != before:
                operations.setdefault(name, {})[version] = now
            before = now
    releases = [answers[version]["version"] for version in VERSIONS]
    return {
        "origin": f"asked of TensorFlow {', '.join(releases)} (TF_GetAllOpList) by tests/tensorflow_operations.py",
        "versions": list(VERSIONS),
        "operations": operations,
    }


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        TABLE.write_text(json.dumps(table(Path(folder)), indent=1) + "\n")
