"""Several classifiers as one: their logits averaged, in a single model that trains, exports and measures like any.

Networks that were trained apart make different mistakes, which an average leaves out (Lakshminarayanan et al. 2017). It
costs a device the time and the memory of all of them. Logits are averaged and not probabilities, since that is what one
last layer over all features can do: the mean of dense layers is a dense layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leafport import classifier, files
from leafport.classifier import Classifier
from leafport.errors import ModelError
from leafport.training import origin, train
from leafport.training.data import splits
from leafport.training.data.splits import Splits
from leafport.training.evaluation.selection import SPLITS_FILE
from leafport.training.heads import PROBABILITIES
from leafport.training.loop import Progress
from leafport.training.task import Task

if TYPE_CHECKING:
    import keras


def combine(
    runs: Sequence[Path],
    data: Path,
    out: Path,
    *,
    required_recall: float | None = None,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress,
) -> Path:
    """Write the classifier that averages those in ``runs`` to ``out``, calibrated and judged anew; ``out``.

    They must answer the same question, see photographs in the same way, and have been trained on one split, so that
    what is tuned and tested on was learned by none of them.

    Args:
        data: the photographs they were trained on.
        required_recall: what the threshold should promise; None: what the first one's was chosen for.
        name: what it is called; None: as the first.

    Raises:
        ModelError: fewer than two, or they do not belong together.
        DataError: the photographs are not in ``data``.
        OutputError: ``out`` cannot be written, or is something already.
    """
    train.check_out(out, data, overwrite=overwrite)
    members = [Classifier.load(run) for run in runs]
    _check(runs, members)
    first = members[0].contract
    folder = splits.scan(
        data, progress=lambda done, total: progress("Reading photographs", done, total, ""), learn=False
    )
    known = Splits.load(runs[0] / SPLITS_FILE)
    divided = splits.apply(known, folder, label_of=known.label_of)
    asked = Task(first.task, dict(known.label_of), first.safety.positive_labels if first.safety else ())
    recall = required_recall or (first.safety.required_recall if first.safety else 0.95)
    contract = first.model_copy(update={"name": name or first.name, "safety": None})
    model = averaged([member.model for member in members])
    with files.staged(out) as staging:
        staging.mkdir()
        made, found = train.calibrated(Classifier(model, contract), divided, asked, recall, progress)
        made.save(staging)
        divided.save(staging / SPLITS_FILE)
        record = {"ensemble": [{"path": str(run.resolve()), "sha256": classifier.digest(run)} for run in runs]}
        files.write_json(staging / origin.RECORD_FILE, {**record, "calibration": dataclasses.asdict(found)})
        train.judge(made, divided, staging, progress)
    return out


def averaged(models: Sequence[keras.Model]) -> keras.Model:
    """One model of the same input and output whose logits are the mean of those of ``models``.

    Its last layer is a dense one over the features of all of them. Their layers are taken over and renamed.

    Raises:
        ModelError: one does not end in the dense softmax layer that ``training.heads`` gives it.
    """
    import keras

    image = keras.Input(models[0].input_shape[1:], name="image")
    features = [_features(model, image, f"member{number}_") for number, model in enumerate(models, 1)]
    kernels, biases = zip(*(model.layers[-1].get_weights() for model in models), strict=True)
    last = keras.layers.Dense(models[0].output_shape[-1], activation="softmax", name=PROBABILITIES)
    model = keras.Model(image, last(keras.layers.Concatenate(name="features")(features)), name="ensemble")
    last.set_weights([np.concatenate(kernels) / len(models), np.sum(biases, axis=0) / len(models)])
    return model


def _features(model: keras.Model, image: Any, prefix: str) -> Any:
    """What a model's last layer sees, for another image than its own."""
    import keras

    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is not keras.activations.softmax:
        raise ModelError(f"The model {model.name!r} ends in {last.name!r}, which is no dense softmax layer.")

    def renamed(layer: Any) -> Any:
        layer.name = f"{prefix}{layer.name}"
        return layer

    def call(layer: Any, *inputs: Any, **settings: Any) -> Any:
        return inputs[0] if layer is last else layer(*inputs, **settings)

    return keras.models.clone_model(model, input_tensors=image, clone_function=renamed, call_function=call).outputs[0]


def _check(runs: Sequence[Path], members: Sequence[Classifier]) -> None:
    """Raise ModelError where classifiers cannot be averaged."""
    if len(runs) < 2:
        raise ModelError("An ensemble takes two classifiers or more.")
    first, photographs = members[0].contract, _photographs(runs[0])
    for run, member in zip(runs[1:], members[1:], strict=True):
        contract = member.contract
        positives = [set(each.safety.positive_labels) if each.safety else set() for each in (first, contract)]
        if (contract.labels, contract.task) != (first.labels, first.task) or positives[0] != positives[1]:
            raise ModelError(f"{run} does not tell the same labels apart as {runs[0]}, or not the same are positive.")
        if contract.image != first.image:
            raise ModelError(f"{run} sees photographs in another size or shape than {runs[0]}: train both with one.")
        if _photographs(run) != photographs:
            raise ModelError(
                f"{run} was trained on another split than {runs[0]}, so one has learned what the other is tested on. "
                f"Train it with --splits {runs[0] / SPLITS_FILE}."
            )


def _photographs(run: Path) -> list[set[str]]:
    return [{photo.sha256 for photo in photos} for photos in Splits.load(run / SPLITS_FILE).sides.values()]
