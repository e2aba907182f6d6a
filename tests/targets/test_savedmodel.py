from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from leafport.classifier import Classifier
from leafport.errors import ModelError
from leafport.export.graph import ServingGraph
from leafport.targets import savedmodel


@pytest.fixture(scope="module")
def written(serving_graph: ServingGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return savedmodel.convert(serving_graph, "", tmp_path_factory.mktemp("savedmodel"), savedmodel.Options())


def test_it_answers_as_the_classifier_for_any_batch(written: Path, classifier: Classifier, pixels: np.ndarray) -> None:
    runner = savedmodel.runner(written, classifier.contract, threads=1)
    for count in (1, len(pixels)):
        np.testing.assert_allclose(runner.predict(pixels[:count]), classifier.predict(pixels[:count]), atol=1e-5)


def test_plain_tensorflow_serves_it(written: Path, classifier: Classifier, pixels: np.ndarray, tmp_path: Path) -> None:
    """In a process that never heard of leafport, by the names TensorFlow Serving uses."""
    np.save(tmp_path / "pixels.npy", pixels[:3].astype(np.float32))
    program = (
        "import numpy as np, sys, tensorflow as tf\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "answer = loaded.signatures['serving_default'](image=tf.constant(np.load(sys.argv[2])))\n"
        "np.save(sys.argv[3], answer['probabilities'])\n"
        "assert 'leafport' not in sys.modules\n"
    )
    arguments = [str(written / "1"), str(tmp_path / "pixels.npy"), str(tmp_path / "answer.npy")]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, cwd=tmp_path, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), classifier.predict(pixels[:3]), atol=1e-5)


def test_facts(written: Path, classifier: Classifier) -> None:
    facts = savedmodel.inspect(written)
    assert savedmodel.broken_claims("", facts, classifier.contract) == []
    assert facts.labels == classifier.contract.labels
    assert facts.contract == classifier.contract
    assert facts.inputs[0].name == "image"
    other = classifier.contract.model_copy(update={"image": classifier.contract.image.model_copy(update={"width": 64})})
    assert savedmodel.broken_claims("", facts, other)


def test_a_damaged_model_is_refused(written: Path, classifier: Classifier, tmp_path: Path) -> None:
    copy = shutil.copytree(written, tmp_path / "copy")
    graph = copy / "1" / savedmodel.GRAPH_FILE
    graph.write_bytes(graph.read_bytes()[:500])
    with pytest.raises(ModelError, match="damaged"):
        savedmodel.inspect(copy)
    with pytest.raises(ModelError, match="cannot be loaded"):
        savedmodel.runner(copy, classifier.contract, 1)
    with pytest.raises(ModelError, match="SavedModel"):
        savedmodel.inspect(tmp_path)
