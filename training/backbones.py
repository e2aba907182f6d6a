"""The networks a classifier can stand on, and where their weights come from.

Each is a row of ``BACKBONES``. Its preprocessing becomes a layer of the model, which therefore takes raw RGB 0..255.

ResNet50's published weights want BGR minus a mean. Turning RGB into BGR would cost an operation on every device and
trip converters, so the input channels of its first kernel are reversed once, when weights are loaded, and the mean is
subtracted in RGB order: the same function, without the flip.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leafport.classifier import Classifier
from leafport.errors import ModelError
from leafport.training import heads, small_cnn, squeezenet
from leafport.training.heads import Head

if TYPE_CHECKING:
    import keras

SUFFIXES = (".weights.h5", ".h5", ".hdf5")
MIN_IMAGE_SIZE = 32
NO_WEIGHTS = "none"
IMAGENET = "imagenet"

Which = Literal["none", "late", "all"] | int
"""What of a backbone is unfrozen: nothing, its late blocks, everything, or that many blocks at its end."""

AVERAGE = Head()
_STEM = "stem"


@dataclass(frozen=True)
class Recipe:
    """How a whole network is trained where nothing else is asked for: most epochs, peak learning rate, dropout."""

    epochs: int = 60
    learning_rate: float = 1e-3
    dropout: float = 0.5


@dataclass(frozen=True)
class Pixels:
    """What weights expect: RGB 0..255, times ``scale``, plus ``offset`` (for each channel, or one number for all).

    ``bgr`` says that they were trained on blue, green, red; also then scale and offset are those of red, green, blue.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    bgr: bool = False


@dataclass(frozen=True)
class Backbone:
    """A network of ``keras.applications``, named ``builder`` there, or the project's own, made by that function.

    ``block`` is a pattern that the names of the layers in blocks begin with; its match, or its group where it has one,
    names the block. A layer without such a name belongs to the block before it, and those before the first block are
    the stem. ``late`` is how many blocks at the end are fine-tuned where nothing else is asked for. Those before see
    edges and textures, which are alike in all photographs, and take half the time of a training step, since they work
    at the highest resolution.

    ``branch_end`` is how the names of the normalisations end with which its residual branches do. ``preprocesses``
    says that its builder would scale pixels by itself if it were not told otherwise.
    """

    builder: str | Callable[[int], keras.Model]
    pixels: Pixels
    block: str
    late: int
    branch_end: str | None = None
    preprocesses: bool = False
    image_size: int = 224
    from_scratch: Recipe = Recipe()

    def network(self, image_size: int, weights: str | None = None) -> keras.Model:
        """The network without its top: float32 [N, image_size, image_size, 3], scaled, to its last feature map."""
        if callable(self.builder):
            return self.builder(image_size)
        import keras

        build: Callable[..., keras.Model] = getattr(keras.applications, self.builder)
        settings = {"include_preprocessing": False} if self.preprocesses else {}
        return build(include_top=False, weights=weights, input_shape=(image_size, image_size, 3), **settings)


_TO_ONE = Pixels((1 / 127.5,), (-1.0,))
_CAFFE = Pixels((1.0,), (-123.68, -116.779, -103.939), bgr=True)
_CAFFE_ROUNDED = Pixels((1.0,), (-123.0, -117.0, -104.0), bgr=True)
_STANDARDISED = Pixels(
    tuple(1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225)),
    tuple(-mean / deviation for mean, deviation in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))),
)
_RESIDUAL_BLOCK = r"conv\d+_block\d+"
_INVERTED_BLOCK = r"expanded_conv(?:_\d+)?(?=_)"

BACKBONES = {
    "resnet50": Backbone("ResNet50", _CAFFE, _RESIDUAL_BLOCK, late=13, branch_end="_3_bn"),
    "resnet50v2": Backbone("ResNet50V2", _TO_ONE, _RESIDUAL_BLOCK, late=13),
    "resnet101": Backbone("ResNet101", _CAFFE, _RESIDUAL_BLOCK, late=30, branch_end="_3_bn"),
    "vgg16": Backbone("VGG16", _CAFFE, r"block\d", late=3, from_scratch=Recipe(learning_rate=1e-4)),
    "mobilenet": Backbone("MobileNet", _TO_ONE, r"conv_(?:pad|dw|pw)_(\d+)", late=10),
    "mobilenetv2": Backbone("MobileNetV2", _TO_ONE, r"expanded_conv|block_\d+", late=14),
    "mobilenetv3large": Backbone("MobileNetV3Large", _TO_ONE, _INVERTED_BLOCK, late=12, preprocesses=True),
    "mobilenetv3small": Backbone("MobileNetV3Small", _TO_ONE, _INVERTED_BLOCK, late=10, preprocesses=True),
    "efficientnetv2b0": Backbone("EfficientNetV2B0", _STANDARDISED, r"block\d[a-z]", late=18, preprocesses=True),
    "squeezenet": Backbone(squeezenet.build, _CAFFE_ROUNDED, r"fire\d", late=6),
    "small": Backbone(
        small_cnn.build,
        _TO_ONE,
        r"stage\d",
        late=5,
        image_size=small_cnn.IMAGE_SIZE,
        from_scratch=Recipe(epochs=16, learning_rate=4e-3, dropout=0.3),
    ),
}


def find(name: str) -> Backbone:
    """The backbone called ``name``. Raises ModelError if there is none."""
    if name not in BACKBONES:
        raise ModelError(f"There is no backbone {name!r}. There are: {', '.join(BACKBONES)}.")
    return BACKBONES[name]


@dataclass(frozen=True)
class Network:
    """A new classifier's model and the parts of it that training handles one by one.

    Attributes:
        model: float32 [N, size, size, 3] raw RGB 0..255 to float32 [N, classes] probabilities.
        features: the same input to what the head takes: pooled features, float [N, channels], or the backbone's map,
            float [N, height, width, channels].
        head: features to probabilities; shares its layers with ``model``.
        backbone: the network in the middle, whose layers ``model`` and ``features`` share.
        pretrained: whether the backbone had weights to begin with.
    """

    model: keras.Model
    features: keras.Model
    head: keras.Model
    backbone: keras.Model
    pretrained: bool


def build(name: str, *, classes: int, image_size: int, weights: str, head: Head = AVERAGE) -> Network:
    """A backbone with a new head.

    Everything in it may change, but for the batch normalisation of a pretrained backbone (see ``unfreeze``).

    Args:
        name: a key of BACKBONES.
        weights: ``imagenet``, ``none``, or the path of a file with the weights of this network without its top.

    Raises:
        ModelError: no such backbone, or weights that are missing, cannot be downloaded, or are another network's.
    """
    import keras

    row = find(name)
    if image_size < MIN_IMAGE_SIZE:
        raise ModelError(f"Images of {image_size} pixels are too small for {name}: it takes {MIN_IMAGE_SIZE} or more.")
    backbone = row.network(image_size)
    backbone.name = name  # Some builders take none, or look their parts up by it.
    scratch = weights == NO_WEIGHTS
    if scratch:
        _follow_statistics_fast(backbone)
        _close_branches(backbone, row.branch_end)
    else:
        _load(backbone, name, weights)
        if row.pixels.bgr:
            _reverse_input_channels(backbone)
    scale, offset = ([*values] if len(values) > 1 else values[0] for values in (row.pixels.scale, row.pixels.offset))
    image = keras.Input((image_size, image_size, 3), name="image")
    # In float32 whatever the rest calculates in: pixels times 1 / 127.5 would be rounded twice.
    scaled = keras.layers.Rescaling(scale, offset, dtype="float32", name="normalisation")(image)
    features = backbone(scaled)
    if head.pools_first:
        features = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    probabilities = heads.apply(head, features, classes)
    network = Network(
        model=keras.Model(image, probabilities, name=f"{name}_classifier"),
        features=keras.Model(image, features, name=f"{name}_features"),
        head=keras.Model(features, probabilities, name="head"),
        backbone=backbone,
        pretrained=not scratch,
    )
    unfreeze(network, name, "all")
    return network


def taken_over(network: Network, source: Path) -> Network:
    """The same network with the weights of the classifier in the folder ``source``, which it then is.

    Raises:
        ModelError: ``source`` is no classifier, or another network.
    """
    model = Classifier.load(source).model
    if [weight.shape for weight in model.weights] != [weight.shape for weight in network.model.weights]:
        raise ModelError(f"The model in {source} is not the network that its training.json describes.")
    network.model.set_weights(model.get_weights())
    return replace(network, pretrained=True)


def blocks(backbone: keras.Model, name: str) -> tuple[tuple[keras.layers.Layer, ...], ...]:
    """The layers of the backbone called ``name``, block by block from the image on; every layer is in one."""
    found: dict[str, list[keras.layers.Layer]] = {_STEM: []}
    current = _STEM
    for layer in backbone.layers:
        if match := re.match(BACKBONES[name].block, layer.name):
            current = match[match.lastindex or 0]
        found.setdefault(current, []).append(layer)
    if not any(layer.weights for layer in found[_STEM]):  # A network may begin with its first block.
        stem = found.pop(_STEM)
        next(iter(found.values()))[:0] = stem
    return tuple(tuple(layers) for layers in found.values())


def unfreeze(network: Network, name: str, which: Which) -> None:
    """Say what of a network that ``build`` made as ``name`` may change in training; its head always may.

    The batch normalisation of a pretrained backbone is frozen whatever is asked for: then it calculates with the
    statistics it came with, not with those of a small batch. Calling the backbone with ``training=False`` would not do:
    Keras 3 lets the ``training=True`` of the model around it win.

    Args:
        which: ``none`` of the backbone, ``all`` of it, its ``late`` blocks (BACKBONES says how many these are), or a
            number of blocks at its end.

    Raises:
        ModelError: the backbone has not so many blocks.
    """
    import keras

    found = blocks(network.backbone, name)
    count = {"none": 0, "late": BACKBONES[name].late, "all": len(found)}.get(str(which), which)
    if not isinstance(count, int) or not 0 <= count <= len(found):
        raise ModelError(f"{which} blocks of {name} cannot be unfrozen: give none, late, all, or 0 to {len(found)}.")
    for index, block in enumerate(found):
        for layer in block:
            fixed = network.pretrained and isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = index >= len(found) - count and not fixed


def _load(backbone: keras.Model, name: str, weights: str) -> None:
    row = BACKBONES[name]
    if weights == IMAGENET:
        if callable(row.builder):
            raise ModelError(
                f"There are no ImageNet weights of {name} to download. Give a file you have with --weights FILE, or "
                "train from scratch with --weights none."
            )
        try:
            # At 224 pixels, the size they were published for; convolutions do not mind another afterwards.
            backbone.set_weights(row.network(224, weights="imagenet").get_weights())
        except Exception as problem:  # Keras raises a bare Exception when it cannot download.
            raise ModelError(
                f"The ImageNet weights of {name} cannot be downloaded ({problem}). Give a file you have with "
                "--weights FILE, or train from scratch with --weights none."
            ) from problem
        return
    path = Path(weights)
    if not path.is_file():
        raise ModelError(f"There is no weights file {path}. Give {IMAGENET}, {NO_WEIGHTS}, or the path of a file.")
    if not path.name.endswith(SUFFIXES):
        raise ModelError(f"{path} is not a weights file: its name must end in {', '.join(SUFFIXES)}.")
    wanted = sum(math.prod(weight.shape) for weight in backbone.weights)
    found = stored_values(path)
    fault = f"it holds {found:,} values, {name} without its top has {wanted:,}" if found != wanted else None
    if fault is None:
        try:
            backbone.load_weights(path)
        except Exception as problem:  # ValueError, KeyError, OSError: whatever does not fit.
            fault = str(problem).splitlines()[0]
    if fault:
        raise ModelError(
            f"{path} does not hold the weights of {name} without its classification layer ({fault}). "
            f"Give a file of {_origin(row)}, or another --backbone."
        )


def _origin(row: Backbone) -> str:
    """Whose weights a file should hold, for people."""
    return (
        "the weights of this network"
        if callable(row.builder)
        else f"keras.applications.{row.builder}(include_top=False)"
    )


def stored_values(path: Path) -> int:
    """How many numbers an HDF5 file holds. Keras itself would leave those it has no layer for aside, silently."""
    import h5py

    count = 0

    def add(_: str, item: Any) -> None:
        nonlocal count
        if isinstance(item, h5py.Dataset):
            count += item.size

    try:
        with h5py.File(path, "r") as stored:
            stored.visititems(add)
    except OSError as problem:
        raise ModelError(f"{path} cannot be read as a weights file ({problem}). Give another.") from None
    return count


def _reverse_input_channels(backbone: keras.Model) -> None:
    import keras

    first = next(layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, *rest = first.get_weights()
    first.set_weights([kernel[:, :, ::-1, :], *rest])


def _follow_statistics_fast(backbone: keras.Model) -> None:
    """Let batch normalisation remember about ten batches, not a hundred: short trainings must end with sane ones."""
    import keras

    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def _close_branches(backbone: keras.Model, branch_end: str | None) -> None:
    """Let every residual block begin as the identity (Goyal et al. 2017, section 5.1).

    A deep network then learns from the first step, as a shallow one does, and opens its branches as they become
    useful. Fifty layers of noise, on the other hand, amplify every rounding of a quantised file.
    """
    if branch_end is None:
        return
    for layer in backbone.layers:
        if layer.name.endswith(branch_end):
            layer.gamma.assign(layer.gamma * 0)
