"""The networks a classifier can stand on, and where their weights come from.

Each is a row of ``BACKBONES``. Its preprocessing becomes a layer of the model, which therefore takes raw RGB 0..255.

ResNet50's published weights want BGR minus a mean. Turning RGB into BGR would cost an operation on every device and
trip converters, so the input channels of its first kernel are reversed once, when weights are loaded, and the mean is
subtracted in RGB order: the same function, without the flip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leafport.errors import ModelError
from leafport.training import small_cnn

if TYPE_CHECKING:
    import keras

SUFFIXES = (".weights.h5", ".h5", ".hdf5")
MIN_IMAGE_SIZE = 32
NO_WEIGHTS = "none"
IMAGENET = "imagenet"


@dataclass(frozen=True)
class Recipe:
    """How a whole network is trained where nothing else is asked for: most epochs, peak learning rate, dropout."""

    epochs: int = 60
    learning_rate: float = 1e-3
    dropout: float = 0.5


@dataclass(frozen=True)
class Backbone:
    """A network of ``keras.applications``, named ``builder`` there, or the project's own where that is None.

    ``scale`` and ``offset`` (per channel, RGB) map 0..255 to what its weights expect; ``bgr`` says that they were
    trained on blue, green, red. ``early`` is the last of the layers that see edges and textures: alike in all
    photographs, and half the time of a training step, since they work at the highest resolution. ``branch_end`` is
    how the names of the normalisations end with which its residual branches do.
    """

    builder: str | None
    scale: float
    offset: tuple[float, ...]
    bgr: bool = False
    early: str | None = None
    branch_end: str | None = None
    image_size: int = 224
    from_scratch: Recipe = Recipe()

    def network(self, image_size: int, weights: str | None = None, name: str | None = None) -> keras.Model:
        """The network without its top: float32 [N, image_size, image_size, 3], scaled, to its last feature map."""
        if self.builder is None:
            return small_cnn.build(image_size)
        import keras

        shape = (image_size, image_size, 3)
        build: Callable[..., keras.Model] = getattr(keras.applications, self.builder)
        return build(include_top=False, weights=weights, input_shape=shape, **({"name": name} if name else {}))


BACKBONES = {
    "resnet50": Backbone(
        "ResNet50",
        scale=1.0,
        offset=(-123.68, -116.779, -103.939),
        bgr=True,
        early="conv2_block3_out",
        branch_end="_3_bn",
    ),
    "resnet50v2": Backbone("ResNet50V2", scale=1 / 127.5, offset=(-1.0,), early="conv2_block3_out"),
    "mobilenet": Backbone("MobileNet", scale=1 / 127.5, offset=(-1.0,), early="conv_pw_3_relu"),
    "mobilenetv2": Backbone("MobileNetV2", scale=1 / 127.5, offset=(-1.0,), early="block_2_add"),
    "small": Backbone(
        None,
        scale=1 / 127.5,
        offset=(-1.0,),
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
        features: the same input to the pooled features, float32 [N, channels].
        head: features to probabilities; shares its layers with ``model``.
        backbone: the network in the middle, whose layers ``model`` and ``features`` share.
    """

    model: keras.Model
    features: keras.Model
    head: keras.Model
    backbone: keras.Model


def build(name: str, *, classes: int, image_size: int, weights: str, dropout: float = 0.5) -> Network:
    """A backbone with a new head: global average pooling, dropout, a dense layer.

    With pretrained weights the backbone's batch normalisation stays in inference mode, also while it is fine-tuned;
    with ``none`` it learns its statistics.

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
    backbone = row.network(image_size, name=name)
    scratch = weights == NO_WEIGHTS
    if scratch:
        _follow_statistics_fast(backbone)
        _close_branches(backbone, row.branch_end)
    else:
        _load(backbone, name, weights)
        if row.bgr:
            _reverse_input_channels(backbone)
    offset: Any = row.offset[0] if len(row.offset) == 1 else list(row.offset)
    image = keras.Input((image_size, image_size, 3), name="image")
    scaled = keras.layers.Rescaling(row.scale, offset, name="normalisation")(image)
    maps = backbone(scaled) if scratch else backbone(scaled, training=False)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(maps)
    drop = keras.layers.Dropout(dropout, name="dropout")
    dense = keras.layers.Dense(classes, activation="softmax", dtype="float32", name="probabilities")
    pooled_input = keras.Input(pooled.shape[1:], name="features")
    return Network(
        model=keras.Model(image, dense(drop(pooled)), name=f"{name}_classifier"),
        features=keras.Model(image, pooled, name=f"{name}_features"),
        head=keras.Model(pooled_input, dense(drop(pooled_input)), name="head"),
        backbone=backbone,
    )


def freeze_early(network: Network, name: str) -> None:
    """Keep the early layers of a network that ``build`` made with pretrained weights as they are."""
    early = BACKBONES[name].early
    if early is None:
        return
    for layer in network.backbone.layers:
        layer.trainable = False
        if layer.name == early:
            return
    raise AssertionError(f"{name} has no layer {early}")


def _load(backbone: keras.Model, name: str, weights: str) -> None:
    row = BACKBONES[name]
    if weights == IMAGENET:
        if row.builder is None:
            raise ModelError(f"Nobody has trained {name} on ImageNet. Train it from scratch with --weights none.")
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
    wanted = sum(weight.shape.num_elements() for weight in backbone.weights)
    found = _stored_values(path)
    fault = f"it holds {found:,} values, {name} without its top has {wanted:,}" if found != wanted else None
    if fault is None:
        try:
            backbone.load_weights(path)
        except Exception as problem:  # ValueError, KeyError, OSError: whatever does not fit.
            fault = str(problem).splitlines()[0]
    if fault:
        raise ModelError(
            f"{path} does not hold the weights of {name} without its classification layer ({fault}). "
            f"Give a file of keras.applications.{row.builder}(include_top=False), or another --backbone."
        )


def _stored_values(path: Path) -> int:
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
