"""Everything that decides what a training makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leafport.contract import Fit
from leafport.training import backbones
from leafport.training.backbones import BACKBONES, Recipe, Which
from leafport.training.data.augment import Augmentation
from leafport.training.heads import Head

FINE_TUNING_RECIPE = Recipe(epochs=10, learning_rate=3e-5)
QUANTISING_RECIPE = Recipe(epochs=3, learning_rate=1e-5)


@dataclass(frozen=True)
class Config:
    """Everything that decides what a training makes.

    Attributes:
        data: a folder of class folders of photographs.
        out: the classifier's folder to write.
        positive: a file with the names of the positive (dangerous) class folders; needed for a binary task.
        weights: ``imagenet``, ``none`` (from scratch) or a file.
        image_size: the side of the model's square input in pixels; the backbone's own if None.
        fine_tuning_size: the side of the photographs that the backbone is fine-tuned with; None: ``image_size``. A
            smaller one takes less time; the head is fitted at full size afterwards.
        resize: ``squash`` the whole photograph or ``crop`` its centre.
        head: what stands on the backbone, but for its dropout.
        dropout: the head's; None: 0.5, or the backbone's own from scratch.
        source: the folder of a finished classifier to go on from (``training.origin``); then ``weights`` is its model.
        quantise: learn to be rounded as an int8 file rounds (``training.fake_quantisation``); takes a ``source``.
        sparsity: the share of weights that become zeros (``training.pruning``), in the layers that learn.
        clusters: how many values the weights of such a layer share (``training.clustering``); 0: none.
        splits: a splits file made by ``leafport data split``; None: the photographs are split by their content, with
            ``validation``, ``test`` and ``seed``, and those that show the same picture stay on one side.
        head_epochs: most epochs of the head alone; unused from scratch.
        unfreeze: which of the backbone's layers fine-tuning changes: ``none`` of them, the ``late`` ones, the last so
            many blocks, or ``all``. The early ones see edges and textures, which all photographs share, and cost
            half the time.
        epochs: most epochs of fine-tuning or from scratch; None: 10 of fine-tuning, 3 of learning to be rounded, or the
            backbone's own from scratch; 0 trains the head only.
        learning_rate: its peak in that stage; None: 3e-5 for fine-tuning, 1e-5 for learning to be rounded, or the
            backbone's own.
        schedule: how it falls, see ``loop.Stage``.
        patience: epochs without a better validation loss before that stage stops; None: 6 on a plateau schedule, and
            never from scratch or along a cosine, where most is learned at the end, when the rate has fallen.
        max_steps: most steps of each stage, for trials.
        augmentation: how photographs are varied after the head's stage; None leaves them as they are.
        label_smoothing: the share of each label that is spread over all of them.
        focus: gamma of the focal loss; 0 is plain cross-entropy.
        safety_loss: the weight of a second loss, that of taking a positive photograph for a negative one or the other
            way round, see ``loss.Loss``; only for class tasks, with ``positive``.
        balance: what is done about rare labels: ``none``, ``weights`` in the loss, or ``over`` or ``under``-sampling;
            None: weights for binary tasks.
        precision: ``mixed`` computes in bfloat16, which accelerators do faster; ``auto`` does so where there is one.
        cache: keep decoded photographs on disk while training.
        required_recall: what the decision threshold should promise for positive photographs.
        name, version, description, author, license, locale: go into the contract.
        overwrite: replace ``out`` where it is a classifier already, and drop an unfinished training of other settings.
    """

    data: Path
    out: Path
    task: Literal["class", "binary"] = "class"
    positive: Path | None = None
    positive_name: str | None = None
    negative_name: str | None = None
    backbone: str = "resnet50"
    weights: str = backbones.IMAGENET
    image_size: int | None = None
    fine_tuning_size: int | None = None
    resize: Fit = "squash"
    head: Head = field(default_factory=Head)
    dropout: float | None = None
    head_epochs: int = 30
    unfreeze: Which = "late"
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    schedule: Literal["cosine", "plateau"] = "cosine"
    patience: int | None = None
    max_steps: int | None = None
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    label_smoothing: float = 0.0
    focus: float = 0.0
    safety_loss: float = 0.0
    balance: Literal["none", "weights", "over", "under"] | None = None
    precision: Literal["auto", "float32", "mixed"] = "auto"
    cache: bool = True
    source: Path | None = None
    quantise: bool = False
    sparsity: float = 0.0
    clusters: int = 0
    splits: Path | None = None
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    required_recall: float = 0.95
    name: str | None = None
    version: str = "1.0.0"
    description: str = ""
    author: str = ""
    license: str = ""
    locale: str | None = None
    overwrite: bool = False

    @property
    def scratch(self) -> bool:
        return self.weights == backbones.NO_WEIGHTS

    @property
    def fine_tunes(self) -> bool:
        """Whether a pretrained backbone learns too."""
        return not self.scratch and self.unfreeze != "none" and self.epochs != 0

    @property
    def recipe(self) -> Recipe:
        """What is done where nothing else was asked for."""
        if self.quantise:
            return QUANTISING_RECIPE
        return BACKBONES[self.backbone].from_scratch if self.scratch else FINE_TUNING_RECIPE
