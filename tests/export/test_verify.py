from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leafport import files
from leafport.errors import ModelError
from leafport.export import manifest
from leafport.export.verify import verify


@pytest.fixture
def copy(exports: Path, tmp_path: Path) -> Path:
    """An export folder with the quickest artifacts only, to be damaged."""
    copied = shutil.copytree(exports, tmp_path / "copy")
    state = manifest.read(copied)
    quick = {name: state.artifacts[name] for name in ("tflite-float32", "tflite-int8", "onnx-float32")}
    state.model_copy(update={"artifacts": quick}).save(copied)
    return copied


def problems(folder: Path) -> dict[str, str]:
    return {finding.name: finding.problem for finding in verify(folder) if finding.problem}


def test_a_fresh_export_passes(exports: Path) -> None:
    findings = verify(exports)
    assert not [finding for finding in findings if finding.problem]
    assert len(findings) == 1 + len(manifest.read(exports).artifacts)


def test_files_are_held_against_the_gate_they_were_made_for(copy: Path) -> None:
    manifest.read(copy).model_copy(update={"gate": manifest.Gate(max_flips=-1)}).save(copy)
    found = problems(copy)
    assert set(found) == {"tflite-float32", "tflite-int8", "onnx-float32"}
    assert "lets 0 photographs pass" in found["tflite-float32"]


def test_a_changed_byte_is_found(copy: Path) -> None:
    path = copy / "tflite" / "shapes-int8.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "has changed since it was exported" in problems(copy)["tflite-int8"]


def test_a_missing_file_is_found(copy: Path) -> None:
    (copy / "onnx" / "shapes-float32.onnx").unlink()
    assert problems(copy) == {"onnx-float32": "is missing: export again"}


def rewrite(folder: Path, name: str, change: Callable[[Path], object]) -> None:
    """Change an artifact and make the manifest's hash fit, as somebody would who exchanges a file knowingly."""
    state = manifest.read(folder)
    path = state.artifact_path(folder, name)
    change(path)
    entry = state.artifacts[name].model_copy(update={"sha256": files.sha256(path)})
    state.model_copy(update={"artifacts": {**state.artifacts, name: entry}}).save(folder)


def test_a_float_file_called_int8_is_found(copy: Path) -> None:
    rewrite(copy, "tflite-int8", lambda path: shutil.copyfile(copy / "tflite" / "shapes-float32.tflite", path))
    assert "not what its name claims" in problems(copy)["tflite-int8"]


def test_exchanged_weights_are_found(copy: Path) -> None:
    import onnx
    from onnx import numpy_helper

    def scramble(path: Path) -> None:
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4:
                values = numpy_helper.to_array(tensor)[::-1].copy()
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, path)

    rewrite(copy, "onnx-float32", scramble)
    assert "names another class than the classifier" in problems(copy)["onnx-float32"]


def test_permuted_labels_are_found(copy: Path) -> None:
    labels = (copy / "labels.txt").read_text().split()
    (copy / "labels.txt").write_text("\n".join(reversed(labels)) + "\n")
    found = problems(copy)
    assert found["contract"] == "labels.txt is not the contract's list of labels"
    assert "has changed" in found["labels.txt"]


def test_a_manifest_that_points_outside_is_refused(copy: Path, tmp_path: Path) -> None:
    value = json.loads((copy / manifest.FILE).read_text())
    value["artifacts"]["onnx-float32"]["path"] = "../../etc/passwd"
    (copy / manifest.FILE).write_text(json.dumps(value))
    with pytest.raises(Exception, match="points outside"):
        verify(copy)


def test_a_folder_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="leafport export"):
        verify(tmp_path)


@pytest.fixture
def coreml_copy(exports: Path, tmp_path: Path) -> Path:
    """An export folder with a Core ML package only, to be damaged."""
    pytest.importorskip("coremltools")
    copied = Path(shutil.copytree(exports, tmp_path / "copy"))
    state = manifest.read(copied)
    state.model_copy(update={"artifacts": {"coreml-fp16": state.artifacts["coreml-fp16"]}}).save(copied)
    return copied


def package_model(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"


def altered(change: Callable[[Any, Any], object]) -> Callable[[Path], None]:
    """A change of a Core ML package: ``change`` gets its model message and the steps in it."""

    def alter(package: Path) -> None:
        from coremltools.proto import Model_pb2

        model = Model_pb2.Model.FromString(package_model(package).read_bytes())
        function = model.mlProgram.functions["main"]
        change(model, function.block_specializations[function.opset].operations)
        package_model(package).write_bytes(model.SerializeToString())

    return alter


def exchange_labels(model: Any, steps: Any) -> None:
    names = next(step for step in steps if step.type == "classify").inputs["classes"].arguments[0]
    first, second = (item.immediateValue.tensor.strings for item in names.value.immediateValue.list.values[:2])
    first.values[0], second.values[0] = second.values[0], first.values[0]


def drop_scale(model: Any, steps: Any) -> None:
    place, scale = next((place, step) for place, step in enumerate(steps) if step.type == "mul")
    for step in steps:
        for argument in step.inputs.values():
            for binding in argument.arguments:
                if binding.name == scale.outputs[0].name:
                    binding.name = scale.inputs["x"].arguments[0].name
    del steps[place]


def take_bgr(model: Any, steps: Any) -> None:
    model.description.input[0].type.imageType.colorSpace = 30


def zero_weights(package: Path) -> None:
    weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 512] = bytes(512)
    weights.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (altered(exchange_labels), r"labels are not the contract's 3 in order: number 0 is 'ring', not 'disc'"),
        (altered(drop_scale), r"0 mul, and had 1; the scaling of pixels, mul_1\.y is gone \(it was 0\.0078"),
        (altered(take_bgr), r"its input is image, BGR image .*, not image, RGB image"),
        (zero_weights, r"is not what was exported: conv_\d+\.weight is float16 \[.*\] \w{12}, and was float16"),
    ],
    ids=["labels permuted", "scale dropped", "BGR", "a weight altered"],
)
def test_a_wrong_package_is_caught_and_what_is_wrong_named(
    coreml_copy: Path, change: Callable[[Path], None], named: str
) -> None:
    rewrite(coreml_copy, "coreml-fp16", change)
    problem = problems(coreml_copy)["coreml-fp16"]
    assert re.search(named, problem), problem


def test_what_is_wrong_is_named_where_the_hash_tells_too(coreml_copy: Path) -> None:
    zero_weights(manifest.read(coreml_copy).artifact_path(coreml_copy, "coreml-fp16"))
    problem = problems(coreml_copy)["coreml-fp16"]
    assert re.search(r"its hash is not the manifest's\. It is not what was exported: conv_\d+\.weight is", problem), (
        problem
    )
