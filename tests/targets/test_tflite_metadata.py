from __future__ import annotations

import importlib.util
import random
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pytest

from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.export.graph import ServingGraph
from leafport.targets import tflite
from leafport.targets.tflite import metadata
from tests import environments, mediapipe_tasks


def test_a_file_says_whose_it_is_and_that_it_takes_raw_pixels(
    tflite_files: dict[str, Path], serving_graph: ServingGraph
) -> None:
    contract = serving_graph.contract
    for path in tflite_files.values():
        facts = tflite.inspect(path)
        assert facts.metadata == {
            "name": contract.name,
            "description": contract.description,
            "version": contract.version,
            "author": contract.author,
            "license": contract.license,
        }
        assert facts.notes["normalisation"] == ((0.0,), (1.0,))
        assert facts.labels == contract.labels


def test_what_was_written_is_read(serving_graph: ServingGraph) -> None:
    bare = serving_graph.contract.model_copy(update={"author": "", "description": "Ünïcödé — 植物", "license": ""})
    found = metadata.read(metadata._metadata(bare))
    assert found.texts == {"name": bare.name, "description": "Ünïcödé — 植物", "version": bare.version}
    assert found.normalisation == ((0.0,), (1.0,))
    assert found.label_files == ("labels.txt",)


@pytest.mark.environment(mediapipe_tasks.NAME)
def test_the_schema_s_own_code_reads_the_same(serving_graph: ServingGraph) -> None:
    """MediaPipe carries the code that flatc made of metadata_schema.fbs."""
    python = environments.required(mediapipe_tasks.NAME)
    folder = next(python.parent.parent.glob("lib/*/site-packages/mediapipe/tasks/metadata"))
    loader = SourceFileLoader("schema", str(folder / "metadata_schema_py_generated.py"))
    spec = importlib.util.spec_from_loader("schema", loader)
    assert spec is not None
    schema = importlib.util.module_from_spec(spec)
    loader.exec_module(schema)
    contract: Contract = serving_graph.contract.model_copy(update={"locale": "pt-BR"})
    model = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(metadata._metadata(contract), 0))
    (subgraph,) = model.subgraphMetadata
    (image,), (answer,) = subgraph.inputTensorMetadata, subgraph.outputTensorMetadata
    assert (model.name, model.author) == (contract.name.encode(), contract.author.encode())
    assert contract.sha256.encode() in model.associatedFiles[0].description
    content = image.content.contentProperties
    assert content.colorSpace == schema.ColorSpaceType.RGB
    assert (content.defaultSize.width, content.defaultSize.height) == (contract.image.width, contract.image.height)
    assert (image.stats.min.tolist(), image.stats.max.tolist()) == ([0], [255])
    assert image.processUnits[0].optionsType == schema.ProcessUnitOptions.NormalizationOptions
    assert answer.associatedFiles[0].locale == b"pt-BR"
    assert answer.associatedFiles[0].type == schema.AssociatedFileType.TENSOR_AXIS_LABELS


def test_scaling_that_is_part_of_the_model_must_not_be_asked_of_clients(
    tflite_files: dict[str, Path], serving_graph: ServingGraph
) -> None:
    facts = tflite.inspect(tflite_files["float32"])
    halved = type(facts)(**{**vars(facts), "notes": {**facts.notes, "normalisation": ((127.5,), (127.5,))}})
    (broken,) = tflite.broken_claims("float32", halved, serving_graph.contract)
    assert "takes them raw" in broken


def test_damaged_metadata_are_an_error_and_nothing_worse(serving_graph: ServingGraph) -> None:
    sound = metadata._metadata(serving_graph.contract)
    chance = random.Random(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(sound[: chance.randint(8, len(sound))] if chance.random() < 0.3 else sound)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            metadata.read(bytes(damaged))
        except ValueError:
            refused += 1
    assert 50 < refused < 500


def test_damaged_labels_are_not_taken_for_none(tflite_files: dict[str, Path], tmp_path: Path) -> None:
    content = tflite_files["float32"].read_bytes()
    at = content.rindex(b"disc\nring")
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(content[:at] + b"dusk" + content[at + 4 :])
    with pytest.raises(ModelError, match=r"damaged\.tflite carries damaged associated files"):
        tflite.inspect(damaged)


@pytest.mark.environment(mediapipe_tasks.NAME)
@pytest.mark.parametrize("variant", tflite.VARIANTS)
def test_mediapipe_takes_scaling_and_labels_out_of_the_file(
    variant: str, tflite_files: dict[str, Path], serving_graph: ServingGraph, pixels: np.ndarray
) -> None:
    python = environments.required(mediapipe_tasks.NAME)
    labels = serving_graph.contract.labels
    found = mediapipe_tasks.answers(python, tflite_files[variant], pixels)
    assert all(set(answer) == set(labels) for answer in found)
    theirs = np.array([[answer[label] for label in labels] for answer in found])
    ours = tflite.runner(tflite_files[variant], serving_graph.contract, threads=1).predict(pixels)
    np.testing.assert_allclose(theirs, ours, atol=0.05 if tflite.VARIANTS[variant].refit else 1e-3)
    assert (theirs.argmax(axis=1) == ours.argmax(axis=1)).mean() >= 0.99
