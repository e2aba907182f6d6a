"""Runs in a TensorFlow as boards have it, in Python 3.6: imports graphs, looks up what is in them, and runs them.

    python on_a_board.py PIXELS.npy GRAPH…

A graph is a .pb file or a SavedModel's folder. It is imported as it is; each operation and attribute is looked up in
this TensorFlow; and it is run with every engine swapped for a call of its native segment, as there is no TensorRT. The
probabilities go to GRAPH.npy, and what was found to the standard output, a line of JSON for each graph.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

with contextlib.suppress(Exception):  # In 1.15 this registers TRTEngineOp; whether it did shows below.
    import tensorflow.python.compiler.tensorrt.trt_convert
try:
    from tensorflow.python.client import pywrap_tf_session as session
except ImportError:  # 1.15
    from tensorflow.python import pywrap_tensorflow as session

EVERY = op_def_pb2.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList())).op
KNOWN = {op.name: {attribute.name for attribute in op.attr} for op in EVERY}


def unknown(graph_def):
    nodes = list(graph_def.node) + [node for function in graph_def.library.function for node in function.node_def]
    for node in nodes:
        if node.op not in KNOWN:
            yield node.op
        else:
            names = {name for name in node.attr if not name.startswith("_")}
            for name in names - KNOWN[node.op]:
                yield f"{node.op}.{name}"


def swap(graph_def):
    engines = [node for node in graph_def.node if node.op == "TRTEngineOp"]
    for node in engines:
        copy = type(node)()
        copy.CopyFrom(node)
        node.Clear()
        node.name, node.op = copy.name, "PartitionedCall"
        node.input.extend(copy.input)
        for ours, theirs in (("Tin", "InT"), ("Tout", "OutT"), ("f", "segment_func")):
            node.attr[ours].CopyFrom(copy.attr[theirs])
    return len(engines)


def run_graph(path, pixels):
    graph_def = tf.compat.v1.GraphDef()
    graph_def.ParseFromString(path.read_bytes())
    found = sorted(set(unknown(graph_def)))
    with tf.Graph().as_default():
        tf.import_graph_def(graph_def, name="")
    engines = swap(graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    with tf.compat.v1.Session(graph=graph) as running:
        return found, engines, running.run("probabilities:0", {"image:0": pixels})


def run_saved_model(path, pixels):
    if tf.__version__ >= "2":
        tf.saved_model.load(str(path))
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    found = sorted(set(unknown(saved.meta_graphs[0].graph_def)))
    engines = swap(saved.meta_graphs[0].graph_def)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "saved_model.pb").write_bytes(saved.SerializeToString())
        if tf.__version__ >= "2":
            loaded = tf.saved_model.load(folder)
            answer = loaded.signatures["serving_default"](image=tf.constant(pixels))
            return found, engines, answer["probabilities"].numpy()
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as running:
            tf.compat.v1.saved_model.load(running, ["serve"], folder)
            return found, engines, running.run("probabilities:0", {"image:0": pixels})


def main(pixels, paths):
    pixels = np.load(pixels).astype(np.float32)
    for path in map(Path, paths):
        run = run_saved_model if path.is_dir() else run_graph
        found, engines, answers = run(path, pixels)
        np.save(str(path) + ".npy", answers)
        print(json.dumps({"graph": path.name, "engines": engines, "unknown": found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
