from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.errors import ConversionError, ModelError, UserError
from leafport.export import graph
from leafport.export.graph import ServingGraph
from leafport.targets import tftrt
from leafport.targets.tftrt import engine
from tests import environments

ENGINES = ("fp32", "fp16")

# Runs in an old TensorFlow: imports each graph as it is, then runs it with its engines' native segments instead.
IMPORT_AND_RUN = """
import sys
import numpy as np, tensorflow as tf
pixels, *graphs = sys.argv[1:]
for path in graphs:
    graph_def = tf.compat.v1.GraphDef.FromString(open(path, "rb").read())
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph_def, name="")
    print([operation.type for operation in imported.get_operations()])
    for node in graph_def.node:
        if node.op == "TRTEngineOp":
            copy = type(node)(); copy.CopyFrom(node)
            node.Clear()
            node.name, node.op = copy.name, "PartitionedCall"
            node.input.extend(copy.input)
            for ours, theirs in (("Tin", "InT"), ("Tout", "OutT"), ("f", "segment_func")):
                node.attr[ours].CopyFrom(copy.attr[theirs])
    with tf.Graph().as_default() as runnable:
        tf.import_graph_def(graph_def, name="")
    with tf.compat.v1.Session(graph=runnable) as session:
        np.save(path + ".npy", session.run("probabilities:0", {"image:0": np.load(pixels).astype("float32")}))
"""


@pytest.fixture(scope="module")
def written(serving_graph: ServingGraph, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tftrt")
    return {variant: tftrt.convert(serving_graph, variant, folder, tftrt.Options()) for variant in tftrt.VARIANTS}


def tiny_graph(folder: Path, activation: str) -> ServingGraph:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation=activation)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
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
    assert written[variant].name == f"shapes-{variant}.pb"


@pytest.mark.parametrize("variant", ENGINES)
def test_everything_is_inside_one_engine(variant: str, written: dict[str, Path], serving_graph: ServingGraph) -> None:
    facts = tftrt.inspect(written[variant])
    assert facts.notes["engines"] == 1
    assert facts.notes["outer_ops"] == {"Identity": 1, "Placeholder": 1, "TRTEngineOp": 1}
    assert facts.notes["segment_nodes"] == len(serving_graph.graph_def().node) - 1
    assert facts.notes["precision"] == variant.upper()
    assert facts.weights == tftrt.inspect(written["frozen"]).weights


@pytest.mark.parametrize("variant", ENGINES)
def test_the_segment_is_laid_out_as_tf_trt_wants_it(variant: str, written: dict[str, Path]) -> None:
    graph_def = graph.read_graph_def(written[variant])
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
    [("fp16", "frozen", "0 operations TRTEngineOp"), ("fp16", "fp32", "FP32"), ("frozen", "fp32", "1 operations")],
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


def test_an_operation_tf_trt_does_not_convert_is_named(tmp_path: Path) -> None:
    refused = tiny_graph(tmp_path / "graph", "gelu")
    with pytest.raises(ConversionError, match="Erf"):
        tftrt.convert(refused, "fp16", tmp_path, tftrt.Options())
    assert not (tmp_path / "tiny-fp16.pb").exists()
    assert tftrt.inspect(tftrt.convert(refused, "frozen", tmp_path, tftrt.Options())).notes["engines"] == 0


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


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.environment(name)) for name in ("tensorflow-2.17", "tensorflow-1.15")],
)
def test_tensorflow_with_tf_trt_imports_the_graphs(
    name: str, written: dict[str, Path], tmp_path: Path, classifier: Classifier, pixels: np.ndarray
) -> None:
    python = environments.required(name)
    np.save(tmp_path / "pixels.npy", pixels)
    paths = {variant: tmp_path / f"{variant}.pb" for variant in written}
    for variant, path in paths.items():
        path.write_bytes(written[variant].read_bytes())
    command = [str(python), "-c", IMPORT_AND_RUN, str(tmp_path / "pixels.npy"), *map(str, paths.values())]
    finished = subprocess.run(command, text=True, capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("'TRTEngineOp'") == len(ENGINES)
    said = {variant: np.load(f"{path}.npy") for variant, path in paths.items()}
    np.testing.assert_allclose(said["frozen"], classifier.predict(pixels), atol=1e-5)
    for variant in ENGINES:
        np.testing.assert_array_equal(said[variant], said["frozen"])
