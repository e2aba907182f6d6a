from __future__ import annotations

import json
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.errors import ConversionError, ModelError, UserError
from leafport.export import graph
from leafport.export.graph import ServingGraph
from leafport.targets import tftrt
from leafport.targets.tftrt import engine, nvidia, operations, reading, saved_model, segments
from tests import environments, tensorflow_operations

ENGINES = ("fp32", "fp16", "fp32-savedmodel", "fp16-savedmodel")

TENSORFLOWS = [
    pytest.param(f"tensorflow-{version}", marks=pytest.mark.environment(f"tensorflow-{version}"))
    for version in operations.versions()
]
ON_A_BOARD = Path(__file__).resolve().parents[1] / "on_a_board.py"


# Replaces the converter's constructor, which asks for TensorRT, by one that only has its signature.
ARGUMENTS = """
import importlib.util, inspect, sys, tempfile
from pathlib import Path
import tensorflow as tf
from tensorflow.python.compiler.tensorrt import trt_convert

spec = importlib.util.spec_from_file_location("nvidia", sys.argv[1])
nvidia = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nvidia)
signature = inspect.signature(trt_convert.TrtGraphConverter.__init__)

def stand_in(self, **given):
    self.given = signature.bind(self, **given).arguments
stand_in.__signature__ = signature

class Converter:
    __init__ = stand_in
    def convert(self):
        return self.given["input_graph_def"]

trt_convert.TrtGraphConverter = Converter
with tempfile.TemporaryDirectory() as folder:
    source, target = Path(folder) / "source.pb", Path(folder) / "target.pb"
    source.write_bytes(tf.compat.v1.GraphDef().SerializeToString())
    settings = {"precision": "FP16", "batch": 0, "workspace_bytes": 1, "max_cached_engines": 1}
    nvidia.main(str(source), str(target), dict(settings, minimum_segment_size=3, outputs=["probabilities"]))
    assert target.is_file()
"""


@pytest.fixture(scope="module")
def written(serving_graph: ServingGraph, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tftrt")
    return {variant: tftrt.convert(serving_graph, variant, folder, tftrt.Options()) for variant in tftrt.VARIANTS}


def tiny_graph(folder: Path, activation: str) -> ServingGraph:
    """Convolution, activation, pooling, dense layer."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Activation(activation)(x))
    return tiny(folder, inputs, keras.layers.Dense(2, activation="softmax")(x))


def tiny(folder: Path, inputs: Any, outputs: Any) -> ServingGraph:
    model = keras.Model(inputs, outputs)
    contract = Contract(name="tiny", task="class", labels=("a", "b"), image=ImageInput(height=8, width=8))
    return graph.build(Classifier(model, contract), folder)


@pytest.mark.parametrize("variant", tftrt.VARIANTS)
def test_the_written_file_says_what_the_classifier_says(
    variant: str, written: dict[str, Path], classifier: Classifier, pixels: np.ndarray
) -> None:
    running = tftrt.runner(written[variant], classifier.contract, threads=1)
    np.testing.assert_allclose(running.predict(pixels), classifier.predict(pixels), atol=1e-5)
    assert running.predict(pixels[:0]).shape == (0, len(classifier.contract.labels))


@pytest.mark.parametrize("variant", tftrt.VARIANTS)
def test_a_written_file_keeps_its_claims(variant: str, written: dict[str, Path], classifier: Classifier) -> None:
    facts = tftrt.inspect(written[variant])
    assert tftrt.broken_claims(variant, facts, classifier.contract) == []
    assert facts.labels == classifier.contract.labels
    assert facts.contract == classifier.contract
    assert facts.inputs[0].shape == (None, 32, 32, 3)
    assert facts.outputs[0].shape == (None, 3)
    assert written[variant].name == f"shapes-{variant}" + ("" if variant.endswith("savedmodel") else ".pb")


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_everything_is_inside_one_engine(variant: str, written: dict[str, Path], serving_graph: ServingGraph) -> None:
    facts = tftrt.inspect(written[variant])
    assert facts.notes["engines"] == 1
    assert facts.notes["outer_ops"] == {"Identity": 1, "Placeholder": 1, "TRTEngineOp": 1}
    assert facts.notes["segment_nodes"] == len(serving_graph.graph_def().node) - 1
    assert facts.notes["precision"] == variant.upper()
    assert facts.weights == tftrt.inspect(written["frozen"]).weights


@pytest.mark.parametrize("variant", ENGINES)
def test_the_segment_is_laid_out_as_tf_trt_wants_it(variant: str, written: dict[str, Path]) -> None:
    graph_def = reading.read(written[variant])
    (function,) = graph_def.library.function
    (found,) = engine.find(graph_def)
    assert found.attr["segment_func"].func.name == function.signature.name
    assert [argument.name for argument in function.signature.input_arg] == ["tensorrtinputph_0"]
    assert [argument.name for argument in function.signature.output_arg] == ["tensorrtoutputph_0"]
    defined = {"tensorrtinputph_0"}
    for node in function.node_def:
        assert {reference.split(":")[0] for reference in node.input} <= defined, "not in topological order"
        defined.add(node.name)


def test_a_runner_says_what_it_runs(written: dict[str, Path], classifier: Classifier) -> None:
    frozen, fp16 = (tftrt.runner(written[variant], classifier.contract, 1) for variant in ("frozen", "fp16"))
    assert frozen.executes.startswith("TensorFlow ")
    assert frozen.untimed is None
    assert "native segment" in fp16.executes
    assert fp16.untimed


@pytest.mark.parametrize(
    ("wanted", "actual", "complaint"),
    [("fp16", "frozen", "0 engines"), ("fp16", "fp32", "FP32"), ("frozen", "fp32", "1 engines")],
)
def test_a_file_under_another_name_is_refused(
    wanted: str, actual: str, complaint: str, written: dict[str, Path], classifier: Classifier
) -> None:
    broken = tftrt.broken_claims(wanted, tftrt.inspect(written[actual]), classifier.contract)
    assert any(complaint in sentence for sentence in broken), broken


def test_another_models_file_is_refused(written: dict[str, Path], classifier: Classifier) -> None:
    other = classifier.contract.model_copy(update={"labels": ("ring", "disc", "square")})
    assert len(tftrt.broken_claims("fp16", tftrt.inspect(written["fp16"]), other)) == 2


def test_a_fixed_batch_is_filled_up(
    serving_graph: ServingGraph, tmp_path: Path, classifier: Classifier, pixels: np.ndarray
) -> None:
    for variant in tftrt.VARIANTS:
        path = tftrt.convert(serving_graph, variant, tmp_path, tftrt.Options(batch=4))
        facts = tftrt.inspect(path)
        assert facts.inputs[0].shape == (4, 32, 32, 3)
        assert tftrt.broken_claims(variant, facts, classifier.contract) == []
        said = tftrt.runner(path, classifier.contract).predict(pixels[:6])
        np.testing.assert_allclose(said, classifier.predict(pixels[:6]), atol=1e-5)


def test_equal_graphs_are_equal_files(serving_graph: ServingGraph, written: dict[str, Path], tmp_path: Path) -> None:
    again = tftrt.convert(serving_graph, "fp16", tmp_path, tftrt.Options())
    assert again.read_bytes() == written["fp16"].read_bytes()


@pytest.mark.parametrize("wrong", [{"workspace_bytes": 5}, {"max_cached_engines": 0}, {"batch": -1}])
def test_options_out_of_range_are_refused(wrong: dict[str, int], serving_graph: ServingGraph, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        tftrt.convert(serving_graph, "fp16", tmp_path, tftrt.Options(**wrong))
    assert list(tmp_path.iterdir()) == []


def test_an_operation_tf_trt_does_not_convert_stays_between_two_engines(tmp_path: Path) -> None:
    built = tiny_graph(tmp_path, "gelu")
    facts = tftrt.inspect(tftrt.convert(built, "fp16", tmp_path, tftrt.Options(minimum_segment_size=1)))
    assert facts.notes["engines"] == 2
    assert "Erfc" in facts.notes["outer_ops"]
    assert "Erfc" not in facts.notes["segment_ops"]
    assert tftrt.broken_claims("fp16", facts, built.contract) == []
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    frozen = tftrt.convert(built, "frozen", tmp_path, tftrt.Options())
    said = [tftrt.runner(tmp_path / f"tiny-{v}.pb", built.contract).predict(pixels) for v in ("frozen", "fp16")]
    assert tftrt.inspect(frozen).notes["engines"] == 0
    np.testing.assert_array_equal(said[0], said[1])


def test_a_branch_around_a_native_operation_meets_it_in_the_second_engine(tmp_path: Path) -> None:
    """What a native operation gives goes with what the first engine gives, and no engine waits for itself."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    gate = keras.layers.Activation("gelu")(keras.layers.Conv2D(4, 1)(x))
    x = keras.layers.Multiply()([keras.layers.Activation("relu")(x), gate])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(x))
    built = tiny(tmp_path, inputs, keras.layers.Dense(2, activation="softmax")(x))
    path = tftrt.convert(built, "fp32", tmp_path, tftrt.Options(minimum_segment_size=1))
    facts = tftrt.inspect(path)
    assert facts.notes["engines"] == 2
    found = engine.find(reading.read(path))
    assert sorted(len(each.attr["InT"].list.type) > 1 for each in found) == [False, True]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    frozen = tftrt.convert(built, "frozen", tmp_path, tftrt.Options())
    said = [tftrt.runner(each, built.contract).predict(pixels) for each in (path, frozen)]
    np.testing.assert_array_equal(said[0], said[1])


def segment_sizes(built: ServingGraph, minimum: int) -> list[int]:
    path = tftrt.convert(built, "fp16", built.path.parent, tftrt.Options(minimum_segment_size=minimum))
    sizes: list[int] = tftrt.inspect(path).notes["segment_operations"]
    return sizes


def test_segments_that_are_too_small_stay_native(tmp_path: Path) -> None:
    built = tiny_graph(tmp_path, "gelu")
    sizes = segment_sizes(built, 1)
    assert sizes[0] != sizes[1]
    assert segment_sizes(built, max(sizes)) == [max(sizes)]
    with pytest.raises(ConversionError, match="at least 99"):
        tftrt.convert(built, "fp16", tmp_path, tftrt.Options(minimum_segment_size=99))


@pytest.mark.parametrize("version", operations.versions())
def test_the_table_of_operations_knows_what_a_tensorflow_lacks(version: str, serving_graph: ServingGraph) -> None:
    nodes = list(serving_graph.graph_def().node)
    assert operations.unknown(nodes, version) == []
    pool = next(node for node in nodes if node.op == "Conv2D")
    pool.op = "MaxPool"
    del pool.attr["strides"]
    pool.attr["padding"].s = b"EXPLICIT"
    pool.attr["surprise"].i = 3
    complaints = " ".join(operations.unknown(nodes, version))
    assert "no attribute surprise" in complaints
    assert "needs the attribute ksize" in complaints
    assert ("cannot be EXPLICIT" in complaints) == (version == "1.15")
    pool.op = "Conv9D"
    assert f"TensorFlow {version} has no operation Conv9D" in " ".join(operations.unknown(nodes, version))


def test_what_an_old_tensorflow_cannot_read_is_not_written(serving_graph: ServingGraph, tmp_path: Path) -> None:
    graph_def = serving_graph.graph_def()
    next(node for node in graph_def.node if node.op == "Softmax").op = "Erfinv"
    path = tmp_path / "newer.pb"
    path.write_bytes(graph_def.SerializeToString())
    newer = ServingGraph(path, serving_graph.contract)
    with pytest.raises(ConversionError, match=r"TensorFlow 1\.15 has no operation Erfinv"):
        tftrt.convert(newer, "frozen", tmp_path, tftrt.Options())
    assert [each.name for each in tmp_path.iterdir()] == ["newer.pb"]
    written = tftrt.convert(newer, "frozen", tmp_path, tftrt.Options(tensorflow="2.13"))
    assert tftrt.inspect(written).notes["oldest_tensorflow"] == "2.7"
    with pytest.raises(UserError, match=r"2\.14"):
        tftrt.convert(newer, "frozen", tmp_path, tftrt.Options(tensorflow="2.14"))


def test_control_inputs_make_no_circle(tmp_path: Path) -> None:
    """An order that computes nothing must not make a native operation wait for the engine that waits for it."""
    built = tiny_graph(tmp_path, "gelu")
    graph_def = built.graph_def()
    nodes = {node.name: node for node in graph_def.node}
    (native,) = (node for node in nodes.values() if node.op == "Erfc")
    (convolution,) = (node for node in nodes.values() if node.op == "Conv2D")
    native.input.append(f"^{convolution.name}")
    built.path.write_bytes(graph_def.SerializeToString())
    path = tftrt.convert(built, "fp16", tmp_path, tftrt.Options(minimum_segment_size=1))
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    assert tftrt.runner(path, built.contract).predict(pixels).shape == (1, 2)
    assert not [each for node in reading.read(path).node for each in node.input if each.startswith("^")]


def test_a_graph_that_ends_in_an_engine_is_inspected(written: dict[str, Path], tmp_path: Path) -> None:
    graph_def = graph.read_graph_def(written["fp16"])
    kept = [node for node in graph_def.node if node.name != "probabilities"]
    del graph_def.node[:]
    graph_def.node.extend(kept)
    (tmp_path / "ends.pb").write_bytes(graph_def.SerializeToString())
    facts = tftrt.inspect(tmp_path / "ends.pb")
    assert facts.notes["engines"] == 1
    assert [tensor.shape for tensor in facts.outputs] == [(None, 3)]


def static(graph_def: Any) -> None:
    """TensorFlow's default for an attribute that is not there is true."""
    del engine.find(graph_def)[0].attr["static_engine"]


def renamed_input(graph_def: Any) -> None:
    function = graph_def.library.function[0]
    function.signature.input_arg[0].name = "x"
    for node in function.node_def:
        node.input[:] = ["x" if each == "tensorrtinputph_0" else each for each in node.input]


@pytest.mark.parametrize("damage", [static, renamed_input])
def test_an_engine_that_no_board_would_build_is_refused(
    damage: Callable[[Any], None], written: dict[str, Path], tmp_path: Path, classifier: Classifier
) -> None:
    graph_def = graph.read_graph_def(written["fp16"])
    damage(graph_def)
    (tmp_path / "wrong.pb").write_bytes(graph_def.SerializeToString())
    broken = tftrt.broken_claims("fp16", tftrt.inspect(tmp_path / "wrong.pb"), classifier.contract)
    assert any("a board builds" in sentence for sentence in broken), broken


def test_a_savedmodel_that_points_elsewhere_is_refused(written: dict[str, Path], tmp_path: Path) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    whole = (written["fp16-savedmodel"] / saved_model.FILE).read_bytes()
    for damage in ("tag", "signature"):
        saved = SavedModel.FromString(whole)
        (meta_graph,) = saved.meta_graphs
        if damage == "tag":
            meta_graph.meta_info_def.tags[0] = "other"
        else:
            meta_graph.signature_def["serving_default"].outputs["probabilities"].name = "image:0"
        folder = tmp_path / damage
        folder.mkdir()
        (folder / saved_model.FILE).write_bytes(saved.SerializeToString())
        with pytest.raises(ModelError, match="damaged"):
            tftrt.inspect(folder)


def test_anybodys_graph_is_inspected(tmp_path: Path) -> None:
    import tensorflow as tf

    with tf.Graph().as_default() as foreign:
        photo = tf.compat.v1.placeholder(tf.float32, (1, 4, 4, 3), "input_1")
        name = tf.io.read_file(tf.constant("/etc/hostname"))
        tf.nn.softmax(tf.reshape(photo, (1, 48)), name="Identity")
        tf.strings.length(name, name="length")
    path = tmp_path / "theirs.pb"
    path.write_bytes(foreign.as_graph_def().SerializeToString())
    facts = tftrt.inspect(path)
    assert [tensor.name for tensor in facts.inputs] == ["input_1"]
    assert [(tensor.name, tensor.shape) for tensor in facts.outputs] == [("Identity", (1, 48)), ("length", ())]
    assert facts.ops["Softmax"] == 1
    assert "does more than compute: Const, ReadFile" in " ".join(tftrt.broken_claims("frozen", facts, None))


@pytest.mark.parametrize("variant", ["frozen", "fp16"])
def test_damaged_files_are_refused(variant: str, tmp_path: Path, classifier: Classifier) -> None:
    contract = classifier.contract
    path = tftrt.convert(tiny_graph(tmp_path, "relu"), variant, tmp_path, tftrt.Options())
    whole = path.read_bytes()
    for damaged in (b"", b"not a graph", whole[: len(whole) // 2], zlib.compress(whole)):
        path.write_bytes(damaged)
        for opened in (tftrt.inspect, lambda path: tftrt.runner(path, contract)):
            with pytest.raises(ModelError, match=r"tiny-.*\.pb"):
                opened(path)
    generator = np.random.default_rng(0)
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[generator.integers(len(flipped))] ^= 1 << generator.integers(8)
        path.write_bytes(flipped)
        try:  # A flip in a weight leaves a graph; anything else must be refused, and in no other way.
            tftrt.broken_claims(variant, tftrt.inspect(path), contract)
            tftrt.runner(path, contract)
        except ModelError:
            pass
    path.unlink()
    with pytest.raises(ModelError, match="No such file"):
        tftrt.inspect(path)


def test_a_graph_that_does_more_than_compute_is_not_run(
    written: dict[str, Path], tmp_path: Path, classifier: Classifier
) -> None:
    graph_def = graph.read_graph_def(written["frozen"])
    name = graph_def.node.add(name="path", op="Const")
    name.attr["dtype"].type = 7
    name.attr["value"].tensor.dtype = 7
    name.attr["value"].tensor.tensor_shape.SetInParent()
    name.attr["value"].tensor.string_val.append(b"/etc/hostname")
    graph_def.node.add(name="stolen", op="ReadFile", input=["path"])
    path = tmp_path / "evil.pb"
    path.write_bytes(graph_def.SerializeToString())
    with pytest.raises(ModelError, match="Do not use it"):
        tftrt.runner(path, classifier.contract)


@pytest.mark.parametrize("name", TENSORFLOWS)
def test_the_tensorflows_of_boards_run_the_graphs(
    name: str, written: dict[str, Path], tmp_path: Path, classifier: Classifier, pixels: np.ndarray
) -> None:
    python = environments.required(name)
    np.save(tmp_path / "pixels.npy", pixels)
    for path in written.values():
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, tmp_path / path.name)
    command = [str(python), str(ON_A_BOARD), "pixels.npy", *(path.name for path in written.values())]
    finished = subprocess.run(command, text=True, capture_output=True, check=False, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr[-2000:]
    found = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert [row["engines"] for row in found] == [int(variant != "frozen") for variant in written]
    assert [row["unknown"] for row in found] == [[]] * len(written)
    said = {variant: np.load(tmp_path / f"{path.name}.npy") for variant, path in written.items()}
    np.testing.assert_allclose(said["frozen"], classifier.predict(pixels), atol=1e-5)
    for variant in ENGINES:
        np.testing.assert_array_equal(said[variant], said["frozen"])


def test_the_table_holds_all_that_an_engine_may() -> None:
    for version in operations.versions():
        assert all(operations.attributes(name, version) is not None for name in segments.TAKEN), version


@pytest.mark.environment("tensorflow-1.15")
def test_the_table_of_operations_is_what_the_tensorflows_say(tmp_path: Path) -> None:
    for version in tensorflow_operations.VERSIONS:
        environments.required(f"tensorflow-{version}")
    assert tensorflow_operations.table(tmp_path) == json.loads(tensorflow_operations.TABLE.read_text())


@pytest.mark.environment("tensorflow-2.17")
def test_nvidias_converter_without_tensorrt_is_an_error_that_says_so(
    serving_graph: ServingGraph, tmp_path: Path
) -> None:
    """TensorFlow 2.17 has the converter, and aborts the process where it finds no TensorRT."""
    options = tftrt.Options(with_tensorrt=str(environments.required("tensorflow-2.17")))
    with pytest.raises(ConversionError, match=r"made no graph.*TensorRT"):
        tftrt.convert(serving_graph, "fp16", tmp_path, options)
    with pytest.raises(UserError, match="nowhere cannot be run"):
        tftrt.convert(serving_graph, "fp16", tmp_path, tftrt.Options(with_tensorrt=str(tmp_path / "nowhere")))
    assert list(tmp_path.iterdir()) == []


def test_nvidias_converter_is_given_the_graph_and_the_settings(
    serving_graph: ServingGraph, written: dict[str, Path], tmp_path: Path
) -> None:
    """A program stands in for a Python with TensorRT: it keeps what it is told, and hands out a graph."""
    stand_in = tmp_path / "python"
    kept = f'cp "$2" {tmp_path}/given.pb; echo "$4" > {tmp_path}/told'
    stand_in.write_text(f'#!/bin/sh\n{kept}; cp {written["fp32"]} "$3"\n')
    stand_in.chmod(0o755)
    options = tftrt.Options(with_tensorrt=str(stand_in), workspace_bytes=2**27, batch=2)
    path = tftrt.convert(serving_graph, "fp32", tmp_path, options)
    assert tftrt.broken_claims("fp32", tftrt.inspect(path), serving_graph.contract) == []
    assert tftrt.inspect(tmp_path / "given.pb").inputs[0].shape == (2, 32, 32, 3)
    assert json.loads((tmp_path / "told").read_text()) == {
        "precision": "FP32",
        "workspace_bytes": 2**27,
        "max_cached_engines": 1,
        "minimum_segment_size": 3,
        "batch": 2,
        "outputs": ["probabilities"],
    }


@pytest.mark.parametrize("name", TENSORFLOWS)
def test_nvidias_converter_takes_what_it_is_given(name: str) -> None:
    """It cannot run without TensorRT; but its arguments are looked up in each TensorFlow."""
    command = [str(environments.required(name)), "-c", ARGUMENTS, nvidia.__file__]
    finished = subprocess.run(command, text=True, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
