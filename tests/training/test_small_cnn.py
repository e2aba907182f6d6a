"""The small network: what it is made of, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest

from leafport import images
from leafport.contract import ImageInput
from leafport.demo import plants
from leafport.training import small_cnn


@pytest.mark.parametrize(("image_size", "side"), [(96, 6), (64, 4), (32, 2)])
def test_it_maps_an_image_to_features_a_sixteenth_of_its_size(image_size, side):
    model = small_cnn.build(image_size)
    assert model.input_shape == (None, image_size, image_size, 3)
    assert model.output_shape == (None, side, side, 160)
    assert model.name == "small"


def test_it_exercises_what_exporters_meet_in_large_networks_and_stays_small():
    model = small_cnn.build()
    kinds = {type(layer).__name__ for layer in model.layers}
    assert {"Conv2D", "DepthwiseConv2D", "BatchNormalization", "Add", "MaxPooling2D", "ReLU"} <= kinds
    assert model.count_params() < 150_000


def test_it_learns_two_plants_from_a_few_photographs(tmp_path):
    """Held-out photographs of two easy species: chance is 0.5."""
    import keras

    keras.utils.set_random_seed(0)
    data = plants.draw(tmp_path / "demo", photographs_per_species=36, size=64)
    rule = ImageInput(height=48, width=48)
    kinds = ("Chalk_Bell", "Gouache_Rosette")
    x = np.concatenate([next(images.batches(sorted((data.images / kind).iterdir()), rule, 36)) for kind in kinds])
    y = np.repeat([0, 1], 36)
    learned = np.arange(72) % 36 < 24
    image = keras.Input((48, 48, 3))
    backbone = small_cnn.build(48)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(keras.layers.Rescaling(1 / 127.5, -1)(image)))
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(pooled))
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(x[learned].astype(np.float32), y[learned], batch_size=8, epochs=12, verbose=0)
    predicted = model.predict(x[~learned].astype(np.float32), verbose=0).argmax(axis=1)
    assert (predicted == y[~learned]).mean() > 0.7
