"""Files that stand alone: leafport's own, other people's, and damaged ones."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from leafport.benchmarks import verdict
from leafport.benchmarks.bench import bench
from leafport.classifier import Classifier
from leafport.cli.inspect import command as inspect_command
from leafport.cli.predict import command as predict_command
from leafport.errors import ModelError
from leafport.export import inspection, manifest
from leafport.export.inspection import Scaling
from leafport.targets import registry, tflite

MUTATIONS = 500


@pytest.fixture(scope="module")
def plain(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier as anybody would write it: TensorFlow's converter with its defaults. It takes raw pixels."""
    import tensorflow as tf

    path = tmp_path_factory.mktemp("plain") / "Shapes v1.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(classifier.model).convert())
    return path


@pytest.fixture
def tflite_of_another_size(tmp_path: Path) -> Path:
    import keras
    import tensorflow as tf

    layers = keras.layers
    model = keras.Sequential([keras.Input((24, 24, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")])
    path = tmp_path / "another.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


@pytest.fixture
def labels(classifier: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(classifier.contract.labels))
    return path


def test_a_file_of_every_target_knows_itself(exports: Path, classifier: Classifier) -> None:
    for path in ("tflite/shapes-int8.tflite", "onnx/shapes-float32.onnx", "tftrt/shapes-fp16.pb", "savedmodel/shapes"):
        found = inspection.inspect(exports / path)
        assert found.target == Path(path).parts[0]
        assert found.variant == ("" if found.target == "savedmodel" else Path(path).stem.removeprefix("shapes-"))
        assert found.broken == ()
        own = found.contract().safety if found.variant == "int8" else classifier.contract.safety
        assert found.contract() == classifier.contract.model_copy(update={"safety": own})
        assert found.scaling() is None


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("plants-int8.tflite", "int8"),
        ("plants-int8-qat.tflite", "int8-qat"),
        ("mobilenet_v2_1.0_224_quant.tflite", "int8"),
        ("best_full_integer_quant.tflite", "int8"),
        ("model_dynamic_range_quant.tflite", "dynamic"),
        ("model_float16_quant.tflite", "float16"),
        ("Net-FP32.tflite", "float32"),
        ("quantum.tflite", None),
        ("model.tflite", None),
    ],
)
def test_what_a_name_claims(name: str, variant: str | None) -> None:
    assert registry.claimed(tflite, Path(name)) == variant


def test_a_name_that_claims_what_the_file_does_not_hold_is_refused(exports: Path, tmp_path: Path) -> None:
    liar = tmp_path / "shapes_int8.tflite"
    shutil.copyfile(exports / "tflite" / "shapes-dynamic.tflite", liar)
    done = CliRunner().invoke(inspect_command, [str(liar)])
    assert done.exit_code == 1
    assert "Refused: Its name says int8, but it has float operations" in done.output
    with pytest.raises(ModelError, match="is not what its name claims"):
        bench(liar, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inspect_shows_what_a_file_holds(exports: Path, classifier: Classifier, labels: Path) -> None:
    path = exports / "tflite" / "shapes-int8.tflite"
    text = CliRunner().invoke(inspect_command, [str(path)]).output
    assert re.search(r"^float share +0 %|^float share +0.%", text, re.M)
    assert re.search(r"^normalisation +0, 1 ", text, re.M)
    own = manifest.read(exports).contract_of("tflite-int8").safety
    assert own is not None and own.threshold < 0.3
    tensor = "uint8 [1, 32, 32, 3], scale 1, zero point 0"
    for part in ("int8, by its name", tensor, "3: disc", f"dangerous from {own.threshold:g}"):
        assert part in text
    value = json.loads(CliRunner().invoke(inspect_command, [str(path), "--json"]).output)
    assert value["target"] == "tflite"
    assert value["broken_claims"] == []
    assert tuple(value["labels"]) == classifier.contract.labels
    assert value["notes"]["float_share"] == 0
    assert value["notes"]["quantised_per"]
    assert value["notes"]["min_runtime_version"]
    assert value["notes"]["op_versions"]["CONV_2D"] >= 1
    assert value["contract"]["name"] == "shapes"


def test_what_another_file_does_not_say_must_be_said(plain: Path, classifier: Classifier, labels: Path) -> None:
    found = inspection.inspect(plain)
    assert found.variant is None
    with pytest.raises(ModelError, match=r"3 outputs mean: --labels FILE"):
        found.contract()
    with pytest.raises(ModelError, match=r"takes float32.*--scaling MEAN,STD"):
        found.scaling()
    made = found.contract(labels)
    assert (made.name, made.labels, made.safety) == ("shapes-v1", classifier.contract.labels, None)
    assert (made.image.height, made.image.width) == (32, 32)
    labels.write_text("disc\nring\n")
    with pytest.raises(ModelError, match=r"3 outputs, and .*labels\.txt names 2 labels"):
        found.contract(labels)
    labels.write_text("crane\nring\ncrane\n")
    assert found.contract(labels).labels == ("crane", "ring", "crane (2)")
    labels.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="no text in UTF-8"):
        found.contract(labels)


@pytest.mark.parametrize(
    ("said", "scaling"),
    [
        ([[127.5], [127.5]], Scaling((127.5,), (127.5,))),
        ([[1.0, 2.0, 3.0], [1.0]], Scaling((1.0, 2.0, 3.0), (1.0,))),
        ([[0.0], [0.0]], None),
        ([[0.0], []], None),
        ([[0.0, 0.0], [1.0, 1.0]], None),
    ],
)
def test_scaling_in_the_metadata(plain: Path, said: list[list[float]], scaling: Scaling | None) -> None:
    found = inspection.inspect(plain)
    found = dataclasses.replace(found, facts=dataclasses.replace(found.facts, notes={"normalisation": said}))
    if scaling:
        assert found.scaling() == scaling
    else:
        with pytest.raises(ModelError, match="no sensible scaling"):
            found.scaling()


def test_bytes_are_never_scaled(exports: Path) -> None:
    found = inspection.inspect(exports / "tflite" / "shapes-int8.tflite")
    with pytest.raises(ModelError, match="nothing to scale"):
        found.scaling(Scaling((127.5,), (127.5,)))


def test_another_file_is_measured_and_asked(
    plain: Path, labels: Path, photo_folder: Path, tmp_path: Path, classifier: Classifier, photographs: tuple[Path, ...]
) -> None:
    report = bench(plain, photo_folder, tmp_path / "out", labels=labels, scaling=Scaling((0.0,), (1.0,)))
    (row,) = report.artifacts
    assert (row.name, row.target, row.variant, row.valid) == ("Shapes v1", "tflite", "", True)
    assert row.accuracy is not None
    assert row.accuracy.top1 > 0.9
    assert row.agreement is None
    assert row.latency_ms is not None
    assert report.data.split == "unknown"
    assert verdict.sentence(report).startswith("Shapes v1: ")
    assert verdict.findings(report) == []
    assert (tmp_path / "out" / "report.html").exists()

    arguments = [str(plain), str(photographs[0]), "--labels", str(labels), "--scaling", "0,1", "--json"]
    (answer,) = json.loads(CliRunner().invoke(predict_command, arguments).output)
    from leafport import images

    expected = classifier.predict(images.read(photographs[0], classifier.contract.image)[None])[0]
    assert answer["top"][0]["label"] == classifier.contract.labels[expected.argmax()]
    assert answer["top"][0]["probability"] == pytest.approx(expected.max(), abs=1e-4)


def test_other_files_are_measured_beside_ours(
    exports: Path, plain: Path, tmp_path: Path, tflite_of_another_size: Path
) -> None:
    report = bench(
        exports,
        None,
        tmp_path / "out",
        artifacts=["tflite-int8"],
        peers=[plain, exports / "tflite" / "shapes-dynamic.tflite", tflite_of_another_size],
        scaling=Scaling((0.0,), (1.0,)),
    )
    assert [row.name for row in report.artifacts] == ["keras", "tflite-int8"]
    ours, dynamic, other = report.peers
    assert (ours.name, dynamic.name) == ("Shapes v1", "shapes-dynamic")
    assert ours.agreement and ours.agreement.top1 == 1
    assert ours.latency_ms and dynamic.latency_ms
    assert not other.valid
    assert other.invalid_reason and "takes 24 x 24 pixels and has 3 outputs, not 32 x 32 and 3" in other.invalid_reason
    for view in ("report.md", "report.html"):
        text = (tmp_path / "out" / view).read_text()
        assert "Shapes v1" in text and "for comparison" in text


def test_scaling_is_what_the_file_is_fed_with(
    plain: Path, labels: Path, classifier: Classifier, pixels: np.ndarray
) -> None:
    contract = inspection.inspect(plain).contract(labels)
    plainly = inspection.open_runner("tflite", plain, contract, 1, None)
    scaled = inspection.open_runner("tflite", plain, contract, 1, Scaling((10.0,), (0.5,)))
    np.testing.assert_allclose(
        scaled.predict(pixels[:4] // 3), plainly.predict((pixels[:4] // 3 - 10.0) * 2), atol=1e-6
    )


def test_a_lone_artifact_brings_its_contract_along(
    exports: Path, tmp_path: Path, photographs: tuple[Path, ...]
) -> None:
    lone = tmp_path / "plants.tflite"
    shutil.copyfile(exports / "tflite" / "shapes-float32.tflite", lone)
    (answer,) = json.loads(CliRunner().invoke(predict_command, [str(lone), str(photographs[0]), "--json"]).output)
    assert answer["threshold"] == 0.3
    assert answer["top"][0]["label"] in ("disc", "ring", "square")


def test_whatever_is_done_to_a_file_it_is_read_or_refused(exports: Path, tmp_path: Path) -> None:
    """Cut, with bits and bytes changed, near the front where the tables are and anywhere."""
    content = (exports / "tflite" / "shapes-int8.tflite").read_bytes()
    dice = random.Random(0)
    path = tmp_path / "mutated.tflite"
    read = 0
    for index in range(MUTATIONS):
        path.write_bytes(_mutated(content, index, dice))
        try:
            tflite.inspect(path)
            read += 1
        except ModelError as problem:
            assert "mutated.tflite" in str(problem)
    assert 0 < read < MUTATIONS


def test_a_reader_that_dies_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\0\0\0\0TFL3")
    monkeypatch.setattr(inspection, "_MEMORY_BYTES", 1)
    monkeypatch.setattr(inspection, "_MEMORY_PER_BYTE", 0)
    with pytest.raises(ModelError, match=r"model\.tflite cannot be read, most likely it is damaged: stopped: it used"):
        inspection.inspect(path)


def _mutated(content: bytes, index: int, dice: random.Random) -> bytes:
    changed = bytearray(content)
    start = dice.randrange(len(changed))
    match index % 4:
        case 0:
            del changed[start:]
        case 1:
            for _ in range(dice.choice((1, 8, 64))):
                changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        case 2:
            for _ in range(dice.choice((1, 4))):
                changed[dice.randrange(min(len(changed), 4096))] = dice.randrange(256)
        case 3:
            end = min(len(changed), start + dice.randrange(1, 4096))
            changed[start:end] = dice.randbytes(end - start)
    return bytes(changed)


@pytest.mark.plants
def test_a_file_made_by_others_names_what_is_on_photographs(shared: Path, tmp_path: Path) -> None:
    reference = shared / "reference"
    model = reference / "mobilenet_v2_1.0_224_quant.tflite"
    labels = tmp_path / "labels.txt"
    labels.write_text("background\n" + (shared / "weights" / "imagenet_labels.txt").read_text())
    names = labels.read_text().splitlines()
    for photograph, name in (("cat.jpg", "Egyptian cat"), ("parrot.jpg", "macaw"), ("hot_dog.jpg", "hotdog")):
        folder = tmp_path / "photographs" / next(label for label in names if label.startswith(name))
        folder.mkdir(parents=True)
        shutil.copyfile(reference / photograph, folder / photograph)
    report = bench(model, tmp_path / "photographs", tmp_path / "out", labels=labels)
    assert report.artifacts[0].accuracy is not None
    assert report.artifacts[0].accuracy.top1 == 1
