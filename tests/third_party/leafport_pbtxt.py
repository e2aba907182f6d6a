"""A third party's target: the serving graph as a text-format protocol buffer, executed by TensorFlow."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from leafport import files
from leafport.targets.base import Facts, TensorFacts, Variant, option

NAME = "pbtxt"
SUFFIX = ".pbtxt"
VARIANTS = {"text": Variant("the serving graph, readable by people")}
RUNTIME = "TensorFlow"


@dataclass(frozen=True)
class Options:
    comment: str = option("", "A first line for the file.")


def available(variant):
    return None


def convert(graph, variant, out_dir, options):
    from google.protobuf import text_format

    path = out_dir / f"{graph.contract.name}.pbtxt"
    files.write_text(path, f"# {options.comment}\n{text_format.MessageToString(graph.graph_def())}")
    return path


def inspect(path):
    graph_def = _read(path)
    tensor = TensorFacts("image", "float32", (None, None, None, 3))
    ops = Counter(node.op for node in graph_def.node)
    notes = {"comment": path.read_text().splitlines()[0]}
    return Facts(inputs=(tensor,), outputs=(), ops=ops, weights={}, notes=notes)


def broken_claims(variant, facts, contract):
    return []


def runner(path, contract, threads=1):
    return _Runner(_read(path))


class _Runner:
    executes = "TensorFlow, from text"
    untimed = None

    def __init__(self, graph_def):
        import tensorflow as tf

        imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
        self._call = imported.prune("image:0", "probabilities:0")

    def predict(self, images):
        import tensorflow as tf

        return np.asarray(self._call(tf.constant(images.astype(np.float32))))


def _read(path):
    from google.protobuf import text_format
    from tensorflow.core.framework.graph_pb2 import GraphDef

    return text_format.Parse(path.read_text(), GraphDef())
