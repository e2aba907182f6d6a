"""Calling NVIDIA's converter where it lives: in another Python, whose TensorFlow still has TF-TRT, beside a GPU."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from leafport.errors import ConversionError, UserError
from leafport.export.graph import OUTPUT, read_graph_def
from leafport.targets.tftrt import nvidia
from leafport.targets.tftrt.engine import Settings

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef


def by_nvidia(python: str, graph_def: GraphDef, settings: Settings, batch: int) -> GraphDef:
    """What the converter of the TensorFlow that ``python`` has makes of a frozen graph; ``batch`` 0: any.

    Raises:
        UserError: there is no such program.
        ConversionError: it fails, or leaves nothing. Without TensorRT, TensorFlow aborts.
    """
    with tempfile.TemporaryDirectory(prefix="leafport-") as scratch:
        source, target = Path(scratch) / "source.pb", Path(scratch) / "target.pb"
        source.write_bytes(graph_def.SerializeToString(deterministic=True))
        given = json.dumps({**dataclasses.asdict(settings), "batch": batch, "outputs": [OUTPUT]})
        command = [python, str(Path(nvidia.__file__)), str(source), str(target), given]
        # Nothing of this environment goes along: its packages are for another Python.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        try:
            finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        except OSError as problem:
            raise UserError(
                f"{python} cannot be run: {problem.strerror}. Name a Python: --tftrt-with-tensorrt."
            ) from None
        if finished.returncode or not target.is_file():
            said = finished.stderr.strip().splitlines()[-1:] or [f"it ended with {finished.returncode}"]
            raise ConversionError(
                f"NVIDIA's converter in {python} made no graph: {said[0]}. It needs TensorFlow 1.15 to 2.17 built with "
                "TensorRT, whose libraries must be found, and a GPU. Without --tftrt-with-tensorrt none is needed."
            )
        return read_graph_def(target)
