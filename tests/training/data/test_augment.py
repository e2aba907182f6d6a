from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leafport import images
from leafport.contract import ImageInput
from leafport.demo import plants
from leafport.errors import UserError
from leafport.training.data.augment import NONE, PRESETS, Augmentation, augment, kernels, mix

RULE = ImageInput(height=24, width=32)
SEED = np.array([1, 2])


@pytest.fixture(scope="module")
def pixels(photos: Path) -> np.ndarray:
    """Forty photographs: float32 [40, 24, 32, 3]."""
    return np.stack([images.read(path, RULE) for path in sorted(photos.glob("*/*.png"))[:40]]).astype(np.float32)


def test_augmentation_varies_and_stays_in_range(pixels: np.ndarray) -> None:
    for strength in (*PRESETS.values(), Augmentation.parse("strong, randaugment=3, magnitude=1")):
        varied = augment(pixels, SEED, strength).numpy()
        assert varied.shape == pixels.shape
        assert varied.dtype == np.float32
        assert varied.min() >= 0
        assert varied.max() <= 255
        if strength != NONE:
            assert np.abs(varied - pixels).mean() > 5
            again = augment(pixels, np.array([1, 3]), strength).numpy()
            assert np.abs(varied - again).mean() > 5


def test_augmentation_of_strength_zero_changes_nothing(pixels: np.ndarray) -> None:
    assert np.array_equal(augment(pixels, SEED, NONE).numpy(), pixels)
    assert np.array_equal(augment(pixels.astype(np.uint8), SEED, NONE).numpy(), pixels)


def test_a_seed_gives_the_same_photographs_in_a_graph_and_out_of_it(pixels: np.ndarray) -> None:
    import tensorflow as tf

    strength = Augmentation.parse("strong,randaugment=2,mixup=0.4,cutmix=1,probability=0.7")
    truth = np.eye(40, dtype=np.float32)

    def vary(batch: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return mix(augment(batch, SEED, strength), labels, SEED, strength)

    plain = vary(pixels, truth)
    graph = next(iter(tf.data.Dataset.from_tensor_slices((pixels, truth)).batch(40).map(vary)))
    for one, other in zip(plain, graph, strict=True):
        assert np.allclose(one, other, atol=1e-3)


def test_mirroring_mirrors_half(pixels: np.ndarray) -> None:
    mirrored = augment(pixels, SEED, replace(NONE, flip=True)).numpy()
    same = (mirrored == pixels).all(axis=(1, 2, 3))
    turned = (mirrored == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ turned).all()
    assert 8 < same.sum() < 32


def test_the_probability_is_the_share_of_photographs_that_are_varied(pixels: np.ndarray) -> None:
    many = np.tile(pixels, (10, 1, 1, 1))
    for text in ("light", "none,randaugment=2"):
        # Some draws of RandAugment leave a photograph as it is.
        least = {p: augment(many, SEED, Augmentation.parse(f"{text},probability={p}")) for p in (0, 0.3, 1)}
        share = {p: float((varied.numpy() != many).any(axis=(1, 2, 3)).mean()) for p, varied in least.items()}
        assert share[0] == 0
        assert share[1] > 0.9
        assert share[0.3] == pytest.approx(0.3, abs=0.07)


def source(strength: Augmentation, count: int = 24, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of each output come from: matrices [N, 2, 2] and shifts [N, 2] from the centre, as (x, y).

    Found by varying photographs whose red and green are their pixels' own coordinates.
    """
    down, across = np.mgrid[:side, :side].astype(np.float32)
    map_ = np.stack([across, down, np.zeros_like(down)], axis=-1)
    seen = augment(np.tile(map_[None], (count, 1, 1, 1)), SEED, strength).numpy()[..., :2]
    places = np.stack([across - (side - 1) / 2, down - (side - 1) / 2, np.ones_like(down)], axis=-1)
    matrices, shifts = [], []
    for photo in seen:
        inside = ((photo > 0) & (photo < side - 1)).all(axis=-1)
        found = np.linalg.lstsq(places[inside], photo[inside] - (side - 1) / 2, rcond=None)[0]
        matrices.append(found[:2].T)
        shifts.append(found[2])
    return np.stack(matrices), np.stack(shifts)


def test_each_warp_is_what_it_is_called() -> None:
    turned, shifted = source(replace(NONE, rotation=50.0))
    angles = np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert 30 < np.abs(angles).max() <= 50
    assert angles.min() < 0 < angles.max()
    assert np.allclose(turned @ turned.transpose(0, 2, 1), np.eye(2), atol=1e-3)
    assert np.allclose(shifted, 0, atol=1e-2)

    zoomed, _ = source(replace(NONE, zoom=0.5))
    sizes = zoomed[:, 0, 0]
    assert np.allclose(zoomed, sizes[:, None, None] * np.eye(2), atol=1e-3)
    assert 0.5 <= sizes.min() < 0.8
    assert 1.2 < sizes.max() <= 1.5

    leaning, _ = source(replace(NONE, shear=30.0))
    assert np.allclose(leaning[:, [0, 1, 1], [0, 0, 1]], (1, 0, 1), atol=1e-3)
    assert 15 < np.degrees(np.arctan(np.abs(leaning[:, 0, 1]).max())) <= 30

    straight, moved = source(replace(NONE, shift=0.25))
    assert np.allclose(straight, np.eye(2), atol=1e-3)
    assert (np.abs(moved) <= 16.01).all()
    assert (np.abs(moved).max(axis=0) > 8).all()
    assert np.abs(np.corrcoef(moved.T)[0, 1]) < 0.6


def warped(photo: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What scipy makes of a photograph, given where its pixels come from."""
    from scipy import ndimage

    middle = (np.array(photo.shape[:2]) - 1) / 2
    rows_first = matrix[::-1, ::-1]
    offset = middle + shift[::-1] - rows_first @ middle
    channels = np.moveaxis(photo, -1, 0)
    seen = [ndimage.affine_transform(channel, rows_first, offset, order=1, mode="nearest") for channel in channels]
    return np.stack(seen, axis=-1)


def test_everything_at_once_is_one_warp_whose_edges_are_repeated() -> None:
    strength = replace(NONE, flip=True, rotation=30.0, zoom=0.3, shear=15.0, shift=0.15)
    photographs = np.random.default_rng(0).uniform(0, 255, (24, 64, 64, 3)).astype(np.float32)
    found = augment(photographs, SEED, strength).numpy()
    for photo, matrix, shift, varied in zip(photographs, *source(strength), found, strict=True):
        assert np.abs(varied - warped(photo, matrix, shift)).max() < 1


def test_randaugment_turns_leans_and_moves() -> None:
    photo = np.random.default_rng(0).uniform(0, 255, (40, 40, 3)).astype(np.float32)
    found = augment(np.tile(photo[None], (200, 1, 1, 1)), SEED, replace(NONE, randaugment=1, magnitude=1.0)).numpy()
    turn, lean, move = np.pi / 6, 0.3, 40 * 150 / 331
    for sign in (1, -1):
        cos, sin = np.cos(turn), np.sin(sign * turn)
        for matrix, shift in (
            ([[cos, -sin], [sin, cos]], (0, 0)),
            ([[1, sign * lean], [0, 1]], (0, 0)),
            ([[1, 0], [sign * lean, 1]], (0, 0)),
            (np.eye(2), (sign * move, 0)),
            (np.eye(2), (0, sign * move)),
        ):
            expected = warped(photo, np.array(matrix), np.array(shift))
            assert np.abs(found - expected).max(axis=(1, 2, 3)).min() < 1


def test_light_and_colour() -> None:
    grey = np.full((200, 4, 4, 3), 128.0, np.float32)
    grey[:, :2] = 100
    lit = augment(grey, SEED, replace(NONE, brightness=0.1)).numpy()
    assert np.allclose(np.ptp(lit - grey, axis=(1, 2, 3)), 0, atol=1e-3)
    assert 20 < np.abs(lit - grey).max() <= 25.6
    tinted = augment(grey, SEED, replace(NONE, channel_shift=0.1)).numpy() - grey
    assert np.allclose(np.ptp(tinted, axis=(1, 2)), 0, atol=1e-3)
    assert np.abs(np.corrcoef(tinted[:, 0, 0].T) - np.eye(3)).max() < 0.3
    harsh = augment(grey, SEED, replace(NONE, contrast=0.5)).numpy()
    assert np.allclose(harsh.mean(axis=(1, 2, 3)), 114, atol=1e-2)
    spread = (harsh[:, 3] - harsh[:, 0]).mean(axis=(1, 2)) / 28
    assert 0.5 <= spread.min() < 0.6
    assert 1.4 < spread.max() <= 1.5


def flat(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Photographs of one value each, that of a photograph and the one before it always differing, and their truth."""
    values = np.random.default_rng(1).permutation(count).astype(np.float32)
    return np.tile(values[:, None, None, None], (1, side, side, 3)), np.eye(count, dtype=np.float32)


def shares(pixels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How much of each photograph's label is its own, once it is certain that the rest is the one before's."""
    own = np.diagonal(truth)
    assert np.allclose(own + np.diagonal(np.roll(truth, 1, axis=1)), 1, atol=1e-5)
    return own


def test_mixup_blends_labels_as_pixels_by_shares_from_a_beta_distribution() -> None:
    from scipy import stats

    pixels, truth = flat(1500, 2)
    mixed, labels = (part.numpy() for part in mix(pixels, truth, SEED, replace(NONE, mixup=0.4)))
    own = shares(mixed, labels)
    expected = own[:, None, None, None] * pixels + (1 - own)[:, None, None, None] * np.roll(pixels, 1, axis=0)
    assert np.allclose(mixed, expected, atol=0.05)
    assert stats.kstest(own, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_cutmix_pastes_a_rectangle_and_counts_its_pixels() -> None:
    pixels, truth = flat(300, 20)
    mixed, labels = (part.numpy() for part in mix(pixels, truth, SEED, replace(NONE, cutmix=1.0)))
    kept = (mixed == pixels).all(axis=-1)
    assert (kept | (mixed == np.roll(pixels, 1, axis=0)).all(axis=-1)).all()
    assert np.allclose(shares(mixed, labels), kept.mean(axis=(1, 2)), atol=1e-5)
    pasted = ~kept
    boxes = pasted.any(axis=2)[:, :, None] & pasted.any(axis=1)[:, None, :]
    assert np.array_equal(boxes, pasted)
    assert pasted.any(axis=0).all()
    assert len(np.unique(pasted.sum(axis=(1, 2)))) > 50


def test_either_mixing_and_none_by_probability() -> None:
    pixels, truth = flat(600, 12)
    mixed, labels = (part.numpy() for part in mix(pixels, truth, SEED, Augmentation(mixup=1.0, cutmix=1.0)))
    blended = ((mixed != pixels) & (mixed != np.roll(pixels, 1, axis=0))).any(axis=(1, 2, 3))
    assert blended.mean() == pytest.approx(0.5, abs=0.08)
    some = Augmentation(mixup=1.0, cutmix=0.0, probability=0.25)
    _, labels = mix(pixels, truth, SEED, some)
    assert (shares(mixed, labels.numpy()) < 1).mean() == pytest.approx(0.25, abs=0.06)
    assert mix(pixels, truth, SEED, Augmentation())[0] is pixels


def test_the_kernels_cover_what_other_scalers_do(tmp_path: Path) -> None:
    """Of any scaler of TensorFlow and Pillow, one kernel comes much nearer than the rule's comes to the farthest."""
    import tensorflow as tf

    rule = ImageInput(height=64, width=64)
    variants = kernels(rule)
    assert variants[0] == rule
    assert len(set(variants)) == len(variants) == 4
    assert set(kernels(variants[2])) == set(variants)
    plants.draw(tmp_path, photographs_per_species=1, seed=3)
    far, near = [], []
    for path in sorted(tmp_path.glob("images/*/*.jpg")):
        image = images.open_rgb(path)
        read = np.stack([images.fit(image, variant) for variant in variants]).astype(np.float32)
        others = [
            tf.image.resize(np.asarray(image), (64, 64), method, antialias=smooth).numpy()
            for method in ("bilinear", "bicubic", "lanczos3", "area", "mitchellcubic")
            for smooth in (False, True)
        ]
        others += [np.asarray(image.resize((64, 64), k)) for k in (Image.Resampling.LANCZOS, Image.Resampling.HAMMING)]
        distance = np.abs(np.stack(others).clip(0, 255)[:, None] - read).mean(axis=(2, 3, 4))
        far.append(distance[:, 0])
        near.append(distance.min(axis=1))
    assert np.mean(near, axis=0).max() < np.mean(far, axis=0).max() / 2


def test_an_augmentation_can_be_written_down() -> None:
    assert Augmentation.parse("") == Augmentation.parse("light") == Augmentation()
    assert Augmentation.parse("none") == NONE
    read = Augmentation.parse(" rotation=25, zoom = 0.3,mixup=0.2,flip=no,channel-shift=.1,kernels,randaugment=2 ")
    expected = Augmentation(
        rotation=25, zoom=0.3, mixup=0.2, flip=False, channel_shift=0.1, kernels=True, randaugment=2
    )
    assert read == expected
    assert Augmentation.parse("none,shear=3") == replace(NONE, shear=3.0)
    assert all(option.metadata["help"] for option in fields(Augmentation))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotate=3", "no 'rotate'. Did you mean rotation?"),
        ("rotation=ten", "rotation is 'ten'; it takes a number"),
        ("rotation", "it takes a number, as in rotation=VALUE"),
        ("randaugment=2.5", "takes a whole number"),
        ("flip=perhaps", "takes yes or no"),
        ("flip=0.5", "takes yes or no"),
        ("zoom=1.5", "zoom is 1.5; it must lie between 0 and 0.9"),
        ("mixup=-1", "mixup is -1"),
        ("shift=nan", "shift is nan"),
        ("zoom=0.1,none", "there is no 'none'"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match="Augmentation: ") as caught:
        Augmentation.parse(text)
    assert message in str(caught.value)
