"""Core ML packages: what is written, what is read back, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leafport.classifier import Classifier
from leafport.contract import Contract, ImageInput
from leafport.errors import ConversionError, LeafportError, ModelError, TargetError
from leafport.export import graph
from leafport.targets import coreml, registry
from leafport.targets.base import TensorFacts
from leafport.targets.coreml import device

pytest.importorskip("coremltools", reason="the [coreml] extra is not installed")

LABELS = ("amanita", "boletus", "chanterelle", "death cap", "ink cap: grün")
HEIGHT, WIDTH = 40, 48


def make_images(count: int) -> np.ndarray:
    """Flat colours under noise, so that classes differ: uint8 [count, H, W, 3]."""
    random = np.random.default_rng(count)
    colours = random.integers(0, 256, (count, 1, 1, 3))
    noise = random.integers(-60, 60, (count, HEIGHT, WIDTH, 3))
    return (colours + noise).clip(0, 255).astype(np.uint8)


def make_classifier() -> Classifier:
    """A small network with what MobileNets and ResNets are made of, its statistics as uneven as after training."""
    import keras

    keras.utils.set_random_seed(7)
    layers = keras.layers
    image = keras.Input((HEIGHT, WIDTH, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = layers.Conv2D(16, 3, strides=2, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    shortcut = x
    x = layers.Conv2D(16, 3, padding="same", dilation_rate=2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(layers.Add()([x, shortcut]))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = layers.Conv2D(32, 1, activation="relu")(x)
    x = layers.AveragePooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(len(LABELS), activation="softmax")(x)
    model = keras.Model(image, x)
    random = np.random.default_rng(7)
    for variable in model.variables:
        if "gamma" in variable.path or "variance" in variable.path:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif "beta" in variable.path or "mean" in variable.path or "bias" in variable.path:
            variable.assign(random.normal(0, 0.3, variable.shape))
    # Logits that differ from image to image: a head on standardised features.
    dense = model.layers[-1]
    features = np.asarray(keras.Model(image, dense.input)(make_images(64).astype(np.float32)))
    spread = np.maximum(features.std(axis=0), features.std(axis=0).mean())
    kernel = random.normal(0, 0.2, dense.kernel.shape) / spread[:, None]
    dense.kernel.assign(kernel)
    dense.bias.assign(-features.mean(axis=0) @ kernel)
    contract = Contract(
        name="fungi",
        version="2.1",
        description="Five fungi.",
        author="A. Mycologist",
        license="CC-BY-4.0",
        task="class",
        labels=LABELS,
        image=ImageInput(height=HEIGHT, width=WIDTH, fit="crop"),
    )
    return Classifier(model, contract)


@dataclasses.dataclass(frozen=True)
class Exported:
    classifier: Classifier
    graph: graph.ServingGraph
    packages: dict[str, Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("coreml")
    classifier = make_classifier()
    serving = graph.build(classifier, folder / "graph")
    photographs = tuple(folder / f"{index}.png" for index in range(24))
    for path, pixels in zip(photographs, make_images(24), strict=True):
        Image.fromarray(pixels).save(path)
    options = coreml.Options(calibration=photographs)
    packages = {variant: coreml.convert(serving, variant, folder / "coreml", options) for variant in coreml.VARIANTS}
    return Exported(classifier, serving, packages)


@pytest.fixture
def images() -> np.ndarray:
    """uint8 [37, H, W, 3]: more than the evaluator takes at once."""
    return make_images(37)


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the fp32 package, to be damaged."""
    return Path(shutil.copytree(exported.packages["fp32"], tmp_path / "copy.mlpackage"))


def model_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def weights_file(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def rewrite(package: Path, change: Any) -> None:
    """Let ``change`` edit the package's model message in place."""
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model.FromString(model_file(package).read_bytes())
    change(model)
    model_file(package).write_bytes(model.SerializeToString())


def operations(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def test_the_registry_finds_a_whole_target() -> None:
    assert registry.load("coreml").NAME == "coreml"
    assert [artifact.name for artifact in registry.select(["coreml"])] == [
        f"coreml-{variant}" for variant in ("fp16", "fp32", "int8", "pal6")
    ]
    assert all(coreml.available(variant) is None for variant in coreml.VARIANTS)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, exported: Exported) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'leafport[coreml]'" in (coreml.available("fp16") or "")
    with pytest.raises(TargetError, match="pip install"):
        coreml.runner(exported.packages["fp16"], exported.classifier.contract, 1)


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [
        *(("fp32", 1e-5), ("fp16", 1e-2), ("neuralnetwork", 1e-2), ("int8", 0.03)),
        *(("w8a8", 0.15), ("pal6", 0.1), ("pal4", 0.3)),
    ],
)
def test_the_saved_package_says_what_the_classifier_says(
    exported: Exported, images: np.ndarray, variant: str, tolerance: float
) -> None:
    expected = exported.classifier.predict(images)
    assert len(set(expected.argmax(axis=1))) > 2, "images that all fall into one class prove nothing"
    run = coreml.runner(exported.packages[variant], exported.classifier.contract, threads=1)
    found = run.predict(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=tolerance)
    np.testing.assert_array_equal(found[:1], run.predict(images[:1]))
    assert run.predict(images[:0]).shape == (0, len(LABELS))
    if not device.present():
        assert "not Core ML" in run.executes
        assert run.untimed


@pytest.mark.skipif(device.present(), reason="Core ML rounds as it likes")
def test_float16_is_rounded_not_only_named(exported: Exported, images: np.ndarray) -> None:
    contract = exported.classifier.contract
    half = coreml.runner(exported.packages["fp16"], contract, 1).predict(images)
    assert np.array_equal(half, half.astype(np.float16).astype(np.float32))
    assert not np.array_equal(half, coreml.runner(exported.packages["fp32"], contract, 1).predict(images))


@pytest.mark.parametrize("variant", coreml.VARIANTS)
def test_inspect_finds_what_apps_need(exported: Exported, variant: str) -> None:
    contract = exported.classifier.contract
    path = exported.packages[variant]
    facts = coreml.inspect(path)
    suffix = ".mlmodel" if variant == "neuralnetwork" else ".mlpackage"
    assert path.name == f"fungi-{variant}{suffix}"
    assert facts.inputs == (TensorFacts("image", "RGB image", (1, HEIGHT, WIDTH, 3)),)
    assert {output.name for output in facts.outputs} == {"classLabel", "classLabel_probs"}
    assert facts.labels == LABELS
    assert facts.contract == contract
    assert facts.ops["convolution" if variant == "neuralnetwork" else "conv"] == 4
    packed = {"int8": "int8", "w8a8": "int8", "pal6": "uint6", "pal4": "uint4"}.get(variant)
    if packed:  # The one layer of more than 512 weights; the table, the scales and others' weights are floats.
        assert 0 <= facts.weights[packed] - 3 * 3 * 16 * 16 <= 16  # Zero points of channels are 8-bit numbers too.
    assert set(facts.weights) - {packed} == {"float32" if variant == "fp32" else "float16"}
    convolutions_and_dense = 3 * 3 * 3 * 16 + 3 * 3 * 16 + 3 * 3 * 16 * 16 + 16 * 32 + 32 * len(LABELS)
    assert convolutions_and_dense < sum(facts.weights.values()) < convolutions_and_dense + 300
    oldest = {"fp16": "iOS15", "fp32": "iOS15", "w8a8": "iOS17", "neuralnetwork": "iOS11.2"}.get(variant, "iOS16")
    assert facts.notes["minimum_deployment_target"] == oldest
    assert {"author", "license", "version", "description"} <= set(facts.metadata)
    assert (facts.metadata["author"], facts.metadata["version"]) == ("A. Mycologist", "2.1")
    assert coreml.broken_claims(variant, facts, contract) == []


def test_xcode_and_vision_find_a_classifier(exported: Exported) -> None:
    """What Xcode generates for a file, and what makes Vision answer with VNClassificationObservations."""
    for variant, path in exported.packages.items():
        notes = coreml.inspect(path).notes
        assert notes["swift"] == {
            "class": f"fungi_{variant}",
            "inputs": {"image": "CVPixelBuffer"},
            "outputs": {"classLabel": "String", "classLabel_probs": "[String: Double]"},
        }
        assert notes["vision"] == ["classLabel", "classLabel_probs"]


def test_a_model_that_vision_would_not_know_for_a_classifier_is_refused(exported: Exported, copy: Path) -> None:
    rewrite(copy, lambda model: model.description.ClearField("predictedProbabilitiesName"))
    broken = coreml.broken_claims("fp32", coreml.inspect(copy), exported.classifier.contract)
    assert [why for why in broken if "Vision" in why]


@pytest.mark.parametrize("variant", sorted({*coreml.VARIANTS} - {"neuralnetwork"}))
def test_names_are_short_and_equal_constants_one(exported: Exported, variant: str) -> None:
    from coremltools.proto import Model_pb2

    steps = operations(Model_pb2.Model.FromString(model_file(exported.packages[variant]).read_bytes()))
    names = [output.name for step in steps for output in step.outputs]
    assert len(set(names)) == len(names)
    assert all(len(name) < 50 for name in names)
    values = [step.attributes["val"].SerializeToString(deterministic=True) for step in steps if step.type == "const"]
    assert len(set(values)) == len(values)


def test_vision_is_told_how_to_crop(exported: Exported) -> None:
    from leafport.targets.coreml.program import read

    (image,) = read(exported.packages["fp16"]).description.input
    assert "centerCrop" in image.shortDescription


@pytest.mark.parametrize("really", coreml.VARIANTS)
@pytest.mark.parametrize("named", coreml.VARIANTS)
def test_a_package_under_another_variants_name_is_refused(exported: Exported, named: str, really: str) -> None:
    broken = coreml.broken_claims(named, coreml.inspect(exported.packages[really]), exported.classifier.contract)
    assert bool(broken) == (named != really), broken


def test_another_contract_takes_the_place_of_the_first(exported: Exported, copy: Path, images: np.ndarray) -> None:
    other = exported.classifier.contract.model_copy(update={"version": "2.2"})
    before = coreml.runner(copy, other, 1).predict(images)
    coreml.restate(copy, other)
    assert coreml.inspect(copy).contract == other
    np.testing.assert_array_equal(coreml.runner(copy, other, 1).predict(images), before)
    assert coreml.broken_claims("fp32", coreml.inspect(copy), other) == []
    assert coreml.broken_claims("fp32", coreml.inspect(copy), exported.classifier.contract) != []


def test_rounding_keeps_answers_nearer(exported: Exported, images: np.ndarray, tmp_path: Path) -> None:
    """Than choosing each weight by itself does."""
    true = exported.classifier.predict(images)
    plain = coreml.convert(exported.graph, "pal4", tmp_path, coreml.Options())
    errors = [
        np.abs(coreml.runner(path, exported.classifier.contract, 1).predict(images) - true).mean()
        for path in (exported.packages["pal4"], plain)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_clustered_weights_lose_nothing_in_a_palette(exported: Exported, images: np.ndarray, tmp_path: Path) -> None:
    from leafport.training.clustering import assigned, shared

    clustered = Classifier(make_classifier().model, exported.classifier.contract)
    for variable in clustered.model.trainable_variables:
        if variable.path.endswith("/kernel") and len(variable.shape) == 4 and variable.shape[-1] > 1:
            value = np.asarray(variable)
            variable.assign(shared(value, assigned(value, 16)))
    serving = graph.build(clustered, tmp_path / "graph")
    photographs = tuple(tmp_path / f"{index}.png" for index in range(len(images)))
    for path, pixels in zip(photographs, images, strict=True):
        Image.fromarray(pixels).save(path)
    options = coreml.Options(calibration=photographs)
    whole, packed = (
        coreml.runner(coreml.convert(serving, variant, tmp_path, options), clustered.contract, 1).predict(images)
        for variant in ("fp16", "pal4")
    )
    np.testing.assert_allclose(packed, whole, atol=0.01)


def test_zeros_are_left_out(exported: Exported, images: np.ndarray, tmp_path: Path) -> None:
    pruned = Classifier(make_classifier().model, exported.classifier.contract)
    for variable in pruned.model.trainable_variables:
        if variable.path.endswith("/kernel"):
            value = np.array(variable)
            variable.assign(np.where(np.abs(value) < np.quantile(np.abs(value), 0.6), 0, value))
    serving = graph.build(pruned, tmp_path / "graph")
    whole, sparse = (
        coreml.convert(serving, "fp16", tmp_path / name, coreml.Options(leave_out_zeros=leave_out))
        for name, leave_out in (("whole", False), ("sparse", True))
    )
    facts = coreml.inspect(sparse)
    assert facts.ops["constexpr_sparse_to_dense"] == 1
    assert facts.weights["uint1"] == 3 * 3 * 16 * 16
    assert facts.notes["minimum_deployment_target"] == "iOS16"
    assert coreml.broken_claims("fp16", facts, pruned.contract) == []
    np.testing.assert_array_equal(
        *(coreml.runner(path, pruned.contract, 1).predict(images) for path in (whole, sparse))
    )


def test_what_a_variant_needs_is_said(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="w8a8 needs photographs"):
        coreml.convert(exported.graph, "w8a8", tmp_path, coreml.Options())
    with pytest.raises(TargetError, match=r"iOS15 cannot read coreml-pal6 .* iOS16 or later"):
        coreml.convert(exported.graph, "pal6", tmp_path, coreml.Options(minimum_deployment_target="iOS15"))


def test_another_models_contract_is_refused(exported: Exported) -> None:
    other = exported.classifier.contract.model_copy(
        update={"labels": LABELS[::-1], "image": ImageInput(height=HEIGHT, width=HEIGHT)}
    )
    broken = " ".join(coreml.broken_claims("fp16", coreml.inspect(exported.packages["fp16"]), other))
    assert "labels" in broken
    assert "another model's contract" in broken
    assert "input" in broken
    with pytest.raises(ModelError, match="contract"):
        coreml.runner(exported.packages["fp16"], other, 1)


def test_swapped_labels_are_found_and_do_not_swap_probabilities_silently(
    exported: Exported, copy: Path, images: np.ndarray
) -> None:
    def swap(model: Any) -> None:
        classes = operations(model)[-1].inputs["classes"].arguments[0].value.immediateValue.list.values
        first, second = (item.immediateValue.tensor.strings for item in classes[:2])
        first.values[0], second.values[0] = second.values[0], first.values[0]

    rewrite(copy, swap)
    contract = exported.classifier.contract
    assert any("labels" in why for why in coreml.broken_claims("fp32", coreml.inspect(copy), contract))
    expected = exported.classifier.predict(images)[:, [1, 0, 2, 3, 4]]
    np.testing.assert_allclose(coreml.runner(copy, contract, 1).predict(images), expected, atol=1e-5)


def test_a_renamed_label_is_refused(exported: Exported, copy: Path) -> None:
    def rename(model: Any) -> None:
        classes = operations(model)[-1].inputs["classes"].arguments[0].value.immediateValue.list.values
        classes[0].immediateValue.tensor.strings.values[0] = "edible"

    rewrite(copy, rename)
    contract = exported.classifier.contract
    assert any("labels" in why for why in coreml.broken_claims("fp32", coreml.inspect(copy), contract))
    with pytest.raises(ModelError, match="other classes"):
        coreml.runner(copy, contract, 1)


def test_an_altered_contract_is_refused(copy: Path) -> None:
    def alter(model: Any) -> None:
        carried = model.description.metadata.userDefined
        carried["leafport.contract"] = carried["leafport.contract"].replace("A. Mycologist", "Nobody")

    rewrite(copy, alter)
    with pytest.raises(ModelError, match="altered"):
        coreml.inspect(copy)


def test_an_unknown_operation_is_named(exported: Exported, copy: Path) -> None:
    def rename(model: Any) -> None:
        next(step for step in operations(model) if step.type == "max_pool").type = "fractal_pool"

    rewrite(copy, rename)
    assert coreml.inspect(copy).ops["fractal_pool"] == 1
    with pytest.raises(TargetError, match="fractal_pool"):
        coreml.runner(copy, exported.classifier.contract, 1)


def test_an_unknown_setting_is_named(exported: Exported, copy: Path) -> None:
    def add(model: Any) -> None:
        step = next(step for step in operations(model) if step.type == "max_pool")
        step.inputs["wobble"].CopyFrom(step.inputs["strides"])

    rewrite(copy, add)
    with pytest.raises(TargetError, match=r"max_pool.*wobble"):
        coreml.runner(copy, exported.classifier.contract, 1)


def test_changed_weights_change_the_answer(exported: Exported, copy: Path, images: np.ndarray) -> None:
    """The evaluator reads the file, not the graph it came from."""
    blob = bytearray(weights_file(copy).read_bytes())
    blob[-256:] = np.ones(64, np.float32).tobytes()
    weights_file(copy).write_bytes(blob)
    found = coreml.runner(copy, exported.classifier.contract, 1).predict(images)
    assert np.abs(found - exported.classifier.predict(images)).max() > 1e-3


def _truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


DAMAGES: dict[str, Any] = {
    "an empty folder": _empty,
    "no manifest": lambda package: (package / "Manifest.json").unlink(),
    "a manifest that is no JSON": lambda package: (package / "Manifest.json").write_text("{"),
    "a manifest of another kind": lambda package: (package / "Manifest.json").write_text('["model"]'),
    "no model": lambda package: model_file(package).unlink(),
    "an empty model": lambda package: model_file(package).write_bytes(b""),
    "half a model": lambda package: _truncate(model_file(package), 0.5),
    "nearly all of a model": lambda package: _truncate(model_file(package), 0.99),
    "a model of noise": lambda package: model_file(package).write_bytes(np.random.default_rng(0).bytes(9999)),
    "no weights": lambda package: weights_file(package).unlink(),
    "empty weights": lambda package: weights_file(package).write_bytes(b""),
    "half the weights": lambda package: _truncate(weights_file(package), 0.5),
    "weights of noise": lambda package: weights_file(package).write_bytes(np.random.default_rng(0).bytes(99_999)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_told_with_its_place(exported: Exported, copy: Path, damage: Any) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=r"copy\.mlpackage"):
        coreml.inspect(copy)
    with pytest.raises(ModelError, match=r"copy\.mlpackage"):
        coreml.runner(copy, exported.classifier.contract, 1)


def test_a_manifest_cannot_lead_out_of_the_package(copy: Path, exported: Exported) -> None:
    manifest = json.loads((copy / "Manifest.json").read_text())
    outside = model_file(exported.packages["fp16"])
    for item in manifest["itemInfoEntries"].values():
        item["path"] = str(outside)
    (copy / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="outside"):
        coreml.inspect(copy)


def test_a_claimed_size_is_not_believed(copy: Path) -> None:
    def inflate(model: Any) -> None:
        constants = (step.attributes["val"] for step in operations(model) if step.type == "const")
        value = next(value for value in constants if value.HasField("blobFileValue"))
        value.type.tensorType.dimensions[0].constant.size = 2**60

    rewrite(copy, inflate)
    with pytest.raises(ModelError, match="not whole"):
        coreml.inspect(copy)


def test_flipped_bits_never_crash(exported: Exported, copy: Path) -> None:
    """Any bit of the model file may flip: the package is then refused, or read as something else, but never crashes."""
    whole = model_file(copy).read_bytes()
    random = np.random.default_rng(1)
    refused = 0
    for position in random.integers(0, len(whole), 150):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(random.integers(0, 8))
        model_file(copy).write_bytes(flipped)
        try:
            coreml.broken_claims("fp32", coreml.inspect(copy), exported.classifier.contract)
        except LeafportError:
            refused += 1
    assert refused > 0


def test_a_file_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"TFL3")
    for path in (tmp_path / "model.tflite", tmp_path / "nothing.mlpackage"):
        with pytest.raises(ModelError, match="not a Core ML package"):
            coreml.inspect(path)


@pytest.mark.parametrize("target", ["iOS16", "iOS17", "iOS18"])
def test_newer_deployment_targets_say_the_same(
    exported: Exported, images: np.ndarray, tmp_path: Path, target: str
) -> None:
    package = coreml.convert(exported.graph, "fp16", tmp_path, coreml.Options(minimum_deployment_target=target))
    facts = coreml.inspect(package)
    assert facts.notes["minimum_deployment_target"] == target
    assert coreml.broken_claims("fp16", facts, exported.classifier.contract) == []
    found = coreml.runner(package, exported.classifier.contract, 1).predict(images)
    np.testing.assert_allclose(found, exported.classifier.predict(images), atol=1e-2)


def test_an_unknown_deployment_target_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="iOS15"):
        coreml.convert(exported.graph, "fp16", tmp_path, coreml.Options(minimum_deployment_target="iOS3"))
    assert list(tmp_path.iterdir()) == []


def test_what_coremltools_cannot_express_is_a_conversion_error(exported: Exported, tmp_path: Path) -> None:
    import tensorflow as tf

    with tf.Graph().as_default() as unusual:
        image = tf.compat.v1.placeholder(tf.float32, (None, HEIGHT, WIDTH, 3), name="image")
        numbers = tf.strings.to_number(tf.strings.as_string(tf.reduce_mean(image, [1, 2])))
        tf.identity(numbers, name="probabilities")
    path = tmp_path / "serving.pb"
    path.write_bytes(unusual.as_graph_def().SerializeToString())
    contract = exported.classifier.contract.model_copy(update={"labels": LABELS[:3]})
    with pytest.raises(ConversionError, match="coremltools"):
        coreml.convert(graph.ServingGraph(path, contract), "fp16", tmp_path / "out", coreml.Options())
    assert not (tmp_path / "out").exists()


def test_on_a_mac_probabilities_follow_the_contracts_order(
    exported: Exported, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core ML answers with a dictionary in an order of its own. A fake stands in for it."""
    import coremltools

    class FakeModel:
        def __init__(self, path: str, compute_units: Any):
            assert compute_units == coremltools.ComputeUnit.ALL

        def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
            assert all(item["image"].size == (WIDTH, HEIGHT) and item["image"].mode == "RGB" for item in batch)
            answer = {label: place / 10 for place, label in enumerate(LABELS)}
            return [{"classLabel": LABELS[-1], "classLabel_probs": dict(sorted(answer.items(), reverse=True))}] * len(
                batch
            )

    monkeypatch.setattr(device, "present", lambda: True)
    monkeypatch.setattr(coremltools.models, "MLModel", FakeModel)
    run = coreml.runner(exported.packages["fp16"], exported.classifier.contract, 1)
    assert run.untimed is None
    np.testing.assert_allclose(run.predict(images[:2]), [[0, 0.1, 0.2, 0.3, 0.4]] * 2)
    assert run.predict(images[:0]).shape == (0, len(LABELS))
