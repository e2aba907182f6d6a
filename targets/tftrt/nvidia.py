"""NVIDIA's own TF-TRT converter, in the Python of an environment that has it, with the same graph and settings.

This file runs there by itself, in Python 3.6 too: ``PYTHON nvidia.py GRAPH.pb OUT.pb SETTINGS``, settings as JSON.
"""

import inspect
import json
import sys


def main(source, target, settings):
    """Convert the frozen graph in the file ``source``, and write the result into the file ``target``."""
    import tensorflow as tf
    from tensorflow.python.compiler.tensorrt import trt_convert

    tf.compat.v1.disable_eager_execution()
    graph_def = tf.compat.v1.GraphDef()
    with open(source, "rb") as file:
        graph_def.ParseFromString(file.read())
    arguments = inspect.signature(trt_convert.TrtGraphConverter.__init__).parameters
    kept = "nodes_denylist" if "nodes_denylist" in arguments else "nodes_blacklist"  # Older ones say so.
    converter = trt_convert.TrtGraphConverter(
        input_graph_def=graph_def,
        precision_mode=settings["precision"],
        max_batch_size=settings["batch"] or 1,
        max_workspace_size_bytes=settings["workspace_bytes"],
        maximum_cached_engines=settings["max_cached_engines"],
        minimum_segment_size=settings["minimum_segment_size"],
        is_dynamic_op=True,  # Engines are built on the board.
        use_calibration=False,
        **{kept: settings["outputs"]},
    )
    converted = converter.convert()
    with open(target, "wb") as file:
        file.write(converted.SerializeToString())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
