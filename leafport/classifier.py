"""A trained classifier: a Keras model and its contract, in one folder; and how it is quantised, if it learned that."""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from leafport import files, quantisation
from leafport.contract import Contract
from leafport.errors import ModelError
from leafport.quantisation import Quantisation

if TYPE_CHECKING:
    import keras

MODEL_FILE = "model.keras"
CONTRACT_FILE = "classifier.json"
MAX_MODEL_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Classifier:
    """A Keras model that takes raw RGB (float32 [N, H, W, 3], 0..255) and gives probabilities (float32 [N, classes]).

    Any scaling of the pixels is a layer of the model, so nothing outside it can get the scaling wrong. ``quantisation``
    has the ranges of its activations, where training found them.
    """

    model: keras.Model
    contract: Contract
    quantisation: Quantisation | None = None

    def __post_init__(self) -> None:
        image, labels = self.contract.image, self.contract.labels
        expected = ((None, image.height, image.width, 3), (None, len(labels)))
        found = (tuple(self.model.input_shape), tuple(self.model.output_shape))
        if found != expected:
            raise ModelError(
                f"The model of {self.contract.name!r} maps {found[0]} to {found[1]}, its contract says {expected[0]} "
                f"to {expected[1]}: they do not belong together."
            )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a classifier's folder. Nothing in it is executed: Keras's safe mode is on.

        Raises:
            ModelError: the folder is not a classifier, or its files do not belong together.
        """
        path = Path(path)
        contract = load_contract(path)
        model_file = path / MODEL_FILE
        _refuse_oversized(model_file)
        import keras

        try:
            model = keras.saving.load_model(model_file, compile=False, safe_mode=True)
        except Exception as problem:  # Keras raises many kinds; to the user they all mean the same.
            raise ModelError(f"{model_file} cannot be loaded: {problem}") from problem
        return cls(model, contract, _load_quantisation(path / quantisation.FILE))

    def save(self, path: Path | str) -> Path:
        """Write ``model.keras``, ``classifier.json`` and any ranges into the folder ``path``. Raises OutputError."""
        path = Path(path)
        with files.staged(path / MODEL_FILE) as staging:
            written = staging.with_suffix(".keras")  # Keras insists on the suffix.
            try:
                self.model.save(written)
                written.replace(staging)
            finally:
                files.remove(written)
        files.write_json(path / CONTRACT_FILE, self.contract.to_json())
        if self.quantisation is not None:
            files.write_json(path / quantisation.FILE, self.quantisation.model_dump(mode="json"))
        else:
            files.remove(path / quantisation.FILE)
        return path

    @functools.cached_property
    def _infer(self) -> Any:
        """The model as one graph: called eagerly, Keras would hold every layer's result until the last is computed."""
        import tensorflow as tf

        image = self.contract.image
        signature = tf.TensorSpec((None, image.height, image.width, 3), tf.float32)
        return tf.function(lambda images: self.model(images, training=False), input_signature=[signature])

    def predict(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Probabilities (float32 [N, classes]) of images (uint8 [N, H, W, 3], RGB)."""
        chunks = [
            np.asarray(self._infer(images[start : start + batch_size].astype(np.float32)))
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(chunks) if chunks else np.empty((0, len(self.contract.labels)), np.float32)


def load_contract(path: Path) -> Contract:
    """The contract of the classifier in the folder ``path``, without loading its model. Raises ModelError."""
    for name in (CONTRACT_FILE, MODEL_FILE):
        if not (path / name).is_file():
            raise ModelError(f"{path} is not a classifier: it has no {name}. Give the folder `leafport train` wrote.")
    return Contract.from_json(files.read_json(path / CONTRACT_FILE, error=ModelError), where=path / CONTRACT_FILE)


def digest(path: Path) -> str:
    """The identity of the classifier in the folder ``path``: a hash over its model, its contract and any ranges."""
    names = (MODEL_FILE, CONTRACT_FILE, quantisation.FILE)
    return files.sha256_json([files.sha256(path / name) for name in names if (path / name).is_file()])


def _load_quantisation(file: Path) -> Quantisation | None:
    if not file.is_file():
        return None
    return Quantisation.from_json(files.read_json(file, error=ModelError), where=file)


def _refuse_oversized(model_file: Path) -> None:
    try:
        with zipfile.ZipFile(model_file) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile) as problem:
        raise ModelError(f"{model_file} is not a Keras model file: {problem}.") from None
    if total > MAX_MODEL_BYTES:
        raise ModelError(f"{model_file} would unpack to {total:,} bytes, more than {MAX_MODEL_BYTES:,}: refused.")
