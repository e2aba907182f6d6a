"""Core ML packages that coremltools writes from PyTorch, without leafport."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from leafport.export import inspection
from leafport.targets import coreml
from tests import environments, torch_package

pytest.importorskip("coremltools", reason="the [coreml] extra is not installed")
pytestmark = pytest.mark.environment(torch_package.NAME)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what ``torch_package`` writes."""
    python = environments.required(torch_package.NAME)
    out = tmp_path_factory.mktemp("torch")
    subprocess.run([python, torch_package.__file__, out], check=True, capture_output=True)
    return out


def test_a_package_with_labels_answers_as_pytorch_does(packages: Path) -> None:
    path = packages / "torch.mlpackage"
    found = inspection.inspect(path)
    contract = found.contract()
    assert contract.labels == torch_package.LABELS
    assert (contract.image.height, contract.image.width) == (torch_package.SIZE, torch_package.SIZE)
    assert found.scaling() is None
    with np.load(packages / "answers.npz") as known:
        photographs, wanted = known["photographs"], known["answers"]
    assert len({*wanted.argmax(axis=1).tolist()}) > 1
    answers = coreml.runner(path, contract, 1).predict(photographs)
    np.testing.assert_allclose(answers, wanted, atol=0.01)  # The package calculates in float16.
    np.testing.assert_array_equal(answers.argmax(axis=1), wanted.argmax(axis=1))


def test_a_package_without_labels_gives_its_one_result(packages: Path, tmp_path: Path) -> None:
    path = packages / "logits.mlpackage"
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(torch_package.LABELS))
    contract = inspection.inspect(path).contract(labels)
    with np.load(packages / "answers.npz") as known:
        photographs, wanted = known["photographs"], known["logits"]
    np.testing.assert_allclose(coreml.runner(path, contract, 1).predict(photographs), wanted, atol=1e-4)
