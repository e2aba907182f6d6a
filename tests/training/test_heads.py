"""Heads: what each is made of, what it refuses, and that it learns and fits its backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from leafport.errors import ModelError
from leafport.training.backbones import build
from leafport.training.heads import KINDS, Head, apply

if TYPE_CHECKING:
    import keras

HEADS = {
    "gap": Head(),
    "gap with a layer": Head(units=(6,), activation="tanh"),
    "dense": Head("dense", units=(8, 6), activation="selu", dropout=0.2),
    "conv": Head("conv", units=(6,), blocks=2, filters=5),
    "residual": Head("residual", blocks=2, filters=5, activation="silu"),
}


def alone(head: Head, shape: tuple[int, ...] = (4, 4, 16)) -> keras.Model:
    import keras

    features = keras.Input(shape[-1:] if head.pools_first else shape)
    return keras.Model(features, apply(head, features, classes=3))


def test_the_parts_of_each() -> None:
    last = ["Dropout", "Dense"]
    expected = {
        "gap": last,
        "gap with a layer": [*last, *last],
        "dense": ["Flatten", *last, *last, *last],
        "conv": ["Conv2D", "Conv2D", "GlobalAveragePooling2D", *last, *last],
        "residual": [
            *("Conv2D", "Conv2D", "Conv2D", "Add", "Activation", "Conv2D", "Conv2D", "Add", "Activation"),
            *("GlobalAveragePooling2D", *last),
        ],
    }
    assert {head.kind for head in HEADS.values()} == set(KINDS)
    for name, head in HEADS.items():
        model = alone(head)
        assert [type(layer).__name__ for layer in model.layers[1:]] == expected[name], name
        assert {layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"} == {head.dropout}
        hidden = [layer for layer in model.layers[:-1] if type(layer).__name__ in ("Dense", "Activation")]
        assert {layer.activation.__name__ for layer in hidden} <= {head.activation}
        sizes = [layer.units for layer in hidden if type(layer).__name__ == "Dense"]
        assert sizes == list(head.units)
        widths = [layer.filters for layer in model.layers if type(layer).__name__ == "Conv2D"]
        assert set(widths) <= {5}


@pytest.mark.parametrize("name", HEADS)
def test_features_and_head_make_the_model(name: str) -> None:
    network = build("small", classes=3, image_size=64, weights="none", head=HEADS[name])
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype(np.float32)
    features = np.asarray(network.features(pixels, training=False))
    assert features.shape == ((4, 160) if HEADS[name].kind == "gap" else (4, 4, 4, 160))
    probabilities = np.asarray(network.model(pixels, training=False))
    np.testing.assert_allclose(network.head(features, training=False), probabilities, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)

    before = probabilities
    network.head.compile("adam", "sparse_categorical_crossentropy")
    history = network.head.fit(features, np.arange(4) % 3, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    after = np.asarray(network.model(pixels, training=False))
    assert not np.allclose(before, after, atol=1e-4)  # They share their weights.
    last = network.model.get_layer("probabilities")
    assert last is network.head.get_layer("probabilities")
    assert last is network.model.layers[-1]


def test_a_penalty_counts_every_kernel_of_the_head_and_no_other() -> None:
    network = build(
        "small", classes=3, image_size=32, weights="none", head=Head("residual", units=(4,), filters=5, l2=0.01)
    )
    kernels = [weight for weight in network.head.weights if weight.name == "kernel"]
    assert len(kernels) == 5
    expected = 0.01 * sum(float(np.square(kernel).sum()) for kernel in kernels)
    assert float(sum(network.model.losses)) == pytest.approx(expected, rel=1e-5)
    assert float(sum(network.head.losses)) == pytest.approx(expected, rel=1e-5)
    assert build("small", classes=3, image_size=32, weights="none").model.losses == []


def test_residual_blocks_begin_as_the_identity() -> None:
    """Blocks at first change nothing, where the activation leaves its own results as they are."""
    import keras

    model = alone(Head("residual", blocks=3, filters=5))
    maps = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype(np.float32)
    narrow, pooled = (model.get_layer(name).output for name in ("head_narrow", "head_pool"))
    before, after = (np.asarray(value) for value in keras.Model(model.input, [narrow, pooled])(maps))
    np.testing.assert_allclose(after, before.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": "crown"}, "no head 'crown'. There are: gap, dense"),
        ({"activation": "gelu"}, "no activation 'gelu' for heads. There are: relu, "),
        ({"kind": "dense", "units": (8, 0)}, r"\(8, 0\) units"),
        ({"dropout": 1.0}, "drop 1 of its features"),
        ({"dropout": -0.1}, "drop -0.1"),
        ({"l2": -1e-4}, "cannot be -0.0001"),
        ({"l2": float("nan")}, "cannot be nan"),
        ({"kind": "conv", "blocks": 0}, "a block and a filter"),
        ({"kind": "residual", "filters": 0}, "a block and a filter"),
        ({"kind": "gap", "blocks": 2}, "gap head has no blocks"),
        ({"kind": "dense", "filters": 64}, "dense head has no blocks and filters"),
    ],
)
def test_what_makes_no_head(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Head(**wrong)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy: str) -> None:
    import keras

    keras.config.set_dtype_policy(policy)
    try:
        network = build("small", classes=3, image_size=32, weights="none", head=Head("residual", units=(4,), filters=4))
    finally:
        keras.config.set_dtype_policy("float32")
    assert network.backbone.layers[1].compute_dtype == policy.removeprefix("mixed_")
    assert network.model.get_layer("probabilities").compute_dtype == "float32"
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    probabilities = np.asarray(network.model(pixels, training=False))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    if policy == "mixed_float16":
        network.model.compile("adam", "sparse_categorical_crossentropy")
        loss = network.model.fit(pixels, np.array([0, 1]), verbose=0).history["loss"]
        assert np.isfinite(loss).all()
