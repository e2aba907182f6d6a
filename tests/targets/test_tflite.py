from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from leafport.classifier import Classifier
from leafport.errors import ConversionError, ModelError
from leafport.export.graph import ServingGraph
from leafport.targets import tflite
from leafport.targets.base import Facts


@pytest.fixture(scope="module")
def facts(tflite_files: dict[str, Path]) -> dict[str, Facts]:
    return {variant: tflite.inspect(path) for variant, path in tflite_files.items()}


@pytest.mark.parametrize(
    ("variant", "tolerance"), [("float32", 1e-5), ("float16", 5e-3), ("dynamic", 0.15), ("int8", 0.2)]
)
def test_answers(
    tflite_files: dict[str, Path], classifier: Classifier, pixels: np.ndarray, variant: str, tolerance: float
) -> None:
    runner = tflite.runner(tflite_files[variant], classifier.contract, threads=1)
    found, expected = runner.predict(pixels), classifier.predict(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=tolerance)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_each_file_is_what_its_name_says(facts: dict[str, Facts], classifier: Classifier) -> None:
    for variant, found in facts.items():
        assert tflite.broken_claims(variant, found, classifier.contract) == []
    for variant, other in (("int8", "dynamic"), ("int8", "float32"), ("float16", "float32"), ("dynamic", "float16")):
        assert tflite.broken_claims(variant, facts[other], classifier.contract)
    assert any(
        "int8 weights" in reason for reason in tflite.broken_claims("float32", facts["int8"], classifier.contract)
    )


def test_int8_takes_raw_pixels_and_has_no_floats(facts: dict[str, Facts]) -> None:
    (image,), (probabilities,) = facts["int8"].inputs, facts["int8"].outputs
    assert (image.dtype, image.scale, image.zero_point, image.shape) == ("uint8", 1.0, 0, (1, 32, 32, 3))
    assert (probabilities.dtype, probabilities.shape) == ("uint8", (1, 3))
    assert facts["int8"].notes["float_ops"] == []
    assert "FULLY_CONNECTED" in facts["float32"].notes["float_ops"]


def test_labels_and_contract_travel_in_the_file(facts: dict[str, Facts], classifier: Classifier) -> None:
    for found in facts.values():
        assert found.labels == classifier.contract.labels
        assert found.contract == classifier.contract


def test_another_models_contract_is_noticed(facts: dict[str, Facts], classifier: Classifier) -> None:
    other = classifier.contract.model_copy(update={"labels": ("ring", "disc", "square")})
    broken = tflite.broken_claims("float32", facts["float32"], other)
    assert any("labels" in reason for reason in broken)
    assert any("another model's contract" in reason for reason in broken)


def test_int8_without_photographs_is_refused(serving_graph: ServingGraph, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="calibrate"):
        tflite.convert(serving_graph, "int8", tmp_path, tflite.Options())
    assert list(tmp_path.iterdir()) == []


def test_old_runtimes_can_read_the_dense_layer(tflite_files: dict[str, Path]) -> None:
    """A dense layer quantised per channel is FULLY_CONNECTED version 12, which tflite-runtime 2.14 does not know."""
    from tensorflow.lite.python import schema_py_generated as schema

    for variant in ("dynamic", "int8"):
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite_files[variant].read_bytes(), 0))
        versions = {
            code.version for code in model.operatorCodes if code.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED
        }
        assert versions and max(versions) < 12


def test_an_operation_without_a_builtin_is_refused(unconvertible_graph: ServingGraph, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="refused"):
        tflite.convert(unconvertible_graph, "float32", tmp_path, tflite.Options())


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tflite_files: dict[str, Path], tmp_path: Path, keep: float) -> None:
    content = tflite_files["float32"].read_bytes()
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ModelError, match=r"cut\.tflite"):
        tflite.inspect(cut)


def test_something_else_is_refused(tflite_files: dict[str, Path], tmp_path: Path, classifier: Classifier) -> None:
    photograph = tmp_path / "photograph.tflite"
    shutil.copyfile(__file__, photograph)
    for use in (tflite.inspect, lambda path: tflite.runner(path, classifier.contract, 1)):
        with pytest.raises(ModelError, match="not a TFLite file"):
            use(photograph)


@pytest.mark.plants
def test_a_file_made_by_others(shared: Path) -> None:
    facts = tflite.inspect(shared / "reference" / "mobilenet_v2_1.0_224_quant.tflite")
    assert facts.inputs[0].dtype == "uint8"
    assert facts.inputs[0].shape == (1, 224, 224, 3)
    assert facts.outputs[0].shape == (1, 1001)
    assert facts.notes["float_ops"] == []
    assert facts.contract is None
