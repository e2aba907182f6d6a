"""Compressed weights: unpacked as coremltools, which packs them, says; in packages of ours and of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leafport.contract import Contract
from leafport.targets import coreml
from leafport.targets.coreml import calibration, compressed

coremltools = pytest.importorskip("coremltools", reason="the [coreml] extra is not installed")
SHAPE = (64, 16, 3, 3)
LABELS = tuple("abcdefghij")


@settings(max_examples=60, deadline=None)
@given(bits=st.sampled_from([1, 2, 3, 4, 6, 8]), count=st.integers(1, 70), seed=st.integers(0, 2**16))
def test_packed_numbers_are_read_in_their_order(bits: int, count: int, seed: int) -> None:
    from coremltools.optimize import _utils

    numbers = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    packed = _utils.pack_elements_into_bits(numbers, bits)
    np.testing.assert_array_equal(compressed.unpacked(packed, bits, count), numbers)
    with pytest.raises(ValueError, match="do not take"):
        compressed.unpacked(packed, bits, count + 8)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), vector=st.sampled_from([1, 1, 2, 4]), bits=st.sampled_from([1, 2, 4]))
def test_tables_by_group_and_of_vectors(data: st.DataObject, vector: int, bits: int) -> None:
    from coremltools.converters.mil.mil.ops.defs.iOS18.compression import constexpr_lut_to_dense

    groups = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    shape = [count * data.draw(st.integers(1, 3)) for count in groups]
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    indices = random.integers(0, 2**bits, shape).astype(np.uint8)
    table = random.normal(size=(*groups, 2**bits, vector)).astype(np.float32)
    axis = data.draw(st.integers(0, len(shape) - 1)) if vector > 1 else None
    expected = constexpr_lut_to_dense.decompress(indices, table, axis)
    np.testing.assert_array_equal(compressed.lut_to_dense(indices, table, None, axis)[0], expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), offset=st.booleans())
def test_scales_by_block(data: st.DataObject, offset: bool) -> None:
    from coremltools.converters.mil.mil.ops.defs.iOS18.compression import constexpr_blockwise_shift_scale

    blocks = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    shape = [count * data.draw(st.integers(1, 3)) for count in blocks]
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    numbers = random.integers(-128, 128, shape).astype(np.int8)
    scale = random.uniform(0.1, 1, blocks).astype(np.float32)
    shift = random.integers(-128, 128, blocks).astype(np.int8) if offset else None
    expected = constexpr_blockwise_shift_scale.decompress(numbers, scale, None if shift is None else shift.astype("f4"))
    np.testing.assert_allclose(compressed.blockwise_shift_scale(numbers, scale, shift)[0], expected, rtol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        compressed.blockwise_shift_scale(np.zeros((4, 6), np.int8), np.ones((4, 4), np.float32))
    with pytest.raises(ValueError, match="an index of 3 into a table of 2"):
        compressed.lut_to_dense(np.full((2, 2), 3, np.uint8), np.ones((1, 1, 2, 1), np.float32))
    with pytest.raises(ValueError, match="a mask of 1 values for 2"):
        compressed.sparse_to_dense(np.ones(2, np.float32), np.array([1, 0], np.uint8))
    with pytest.raises(ValueError, match="more values than a model can have"):
        compressed.sparse_to_dense(np.ones(2, np.float32), np.ones(1, np.uint8), np.array([2**20, 2**20]))
    with pytest.raises(ValueError, match="more values than a model can have"):
        compressed.lut_to_dense(np.zeros((2**16, 16), np.uint8), np.zeros((1, 1, 1, 2**12), np.float16), None, 0)


def palettes(**how: Any) -> Callable[[Any], Any]:
    import coremltools.optimize.coreml as optimize

    chosen = optimize.OpPalettizerConfig(**{"mode": "kmeans", **how})
    return lambda model: optimize.palettize_weights(model, optimize.OptimizationConfig(chosen))


def numbers(**how: Any) -> Callable[[Any], Any]:
    import coremltools.optimize.coreml as optimize

    chosen = optimize.OpLinearQuantizerConfig(**how)
    return lambda model: optimize.linear_quantize_weights(model, optimize.OptimizationConfig(chosen))


def pruned(then: Callable[..., Any] | None, config: Any) -> Callable[[Any], Any]:
    import coremltools.optimize.coreml as optimize

    def apply(model: Any) -> Any:
        sparse = optimize.prune_weights(
            model, optimize.OptimizationConfig(optimize.OpMagnitudePrunerConfig(target_sparsity=0.6))
        )
        return sparse if then is None else then(sparse, optimize.OptimizationConfig(config), joint_compression=True)

    return apply


def others() -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """What coremltools can do to weights, and the oldest iOS for it."""
    import coremltools.optimize.coreml as optimize

    return {
        "8-bit": ("iOS16", numbers(mode="linear")),
        "8-bit symmetric": ("iOS18", numbers(mode="linear_symmetric")),
        "4-bit blocks": ("iOS18", numbers(dtype="int4", granularity="per_block", block_size=8)),
        "4-bit unsigned": ("iOS18", numbers(dtype="uint4", mode="linear")),
        **{f"{bits}-bit table": ("iOS16", palettes(nbits=bits)) for bits in (1, 2, 4, 6, 8)},
        **{f"{bits}-bit table of iOS18": ("iOS18", palettes(nbits=bits)) for bits in (1, 2, 3, 4, 6, 8)},
        "tables of groups": ("iOS18", palettes(nbits=4, granularity="per_grouped_channel", group_size=8)),
        "tables of vectors": ("iOS18", palettes(nbits=4, cluster_dim=4)),
        "tables and scales": ("iOS18", palettes(nbits=4, enable_per_channel_scale=True)),
        "sparse": ("iOS16", pruned(None, None)),
        "sparse of iOS18": ("iOS18", pruned(None, None)),
        "sparse 8-bit": ("iOS18", pruned(optimize.linear_quantize_weights, optimize.OpLinearQuantizerConfig())),
        "sparse table": (
            "iOS18",
            pruned(optimize.palettize_weights, optimize.OpPalettizerConfig(mode="kmeans", nbits=4)),
        ),
    }


def classifier(target: str) -> Any:
    """An MLModel whose one convolution has 9,216 weights."""
    from coremltools.converters.mil import Builder

    random = np.random.default_rng(5)

    @Builder.program(
        input_specs=[Builder.TensorSpec(shape=(1, 3, 12, 12))], opset_version=getattr(coremltools.target, target)
    )
    def program(image: Any) -> Any:
        wide = Builder.conv(x=image, weight=random.normal(size=(16, 3, 3, 3)).astype("f4") / 255, name="wide")
        weights = (random.normal(size=SHAPE) * random.uniform(0.2, 2, (64, 1, 1, 1))).astype("f4")
        features = Builder.relu(x=Builder.conv(x=wide, weight=weights))
        pooled = Builder.reduce_mean(x=features, axes=[2, 3])
        logits = Builder.linear(x=pooled, weight=random.normal(size=(len(LABELS), 64)).astype("f4") / 60)
        return Builder.softmax(x=logits, axis=-1, name="probabilities")

    return coremltools.convert(
        program,
        convert_to="mlprogram",
        inputs=[coremltools.ImageType(name="image", shape=(1, 3, 12, 12), color_layout="RGB")],
        classifier_config=coremltools.ClassifierConfig(list(LABELS)),
        minimum_deployment_target=getattr(coremltools.target, target),
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )


@pytest.mark.parametrize("how", others())
def test_packages_that_others_compressed(how: str, tmp_path: Path, small_contract: Contract) -> None:
    """The compressed package says what it says after coremltools has unpacked it."""
    import coremltools.optimize.coreml as optimize

    target, compress = others()[how]
    model = compress(classifier(target))
    random = np.random.default_rng(0)
    images = random.integers(0, 100, (20, 12, 12, 3), np.uint8) + random.integers(0, 150, (20, 1, 1, 3), np.uint8)
    answers = []
    for name, one in (("packed", model), ("unpacked", optimize.decompress_weights(model))):
        path = tmp_path / f"{name}.mlpackage"
        one.save(str(path))
        answers.append(coreml.runner(path, small_contract, 1).predict(images))
    facts = coreml.inspect(tmp_path / "packed.mlpackage")
    assert any(name.startswith("constexpr_") for name in facts.ops)
    assert not any(name.startswith("constexpr_") for name in coreml.inspect(tmp_path / "unpacked.mlpackage").ops)
    assert answers[1].std(axis=0).max() > 0.01, "images that get one answer prove nothing"
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)


@pytest.fixture
def small_contract() -> Contract:
    from leafport.contract import ImageInput

    return Contract(name="small", task="class", labels=LABELS, image=ImageInput(height=12, width=12))


def test_a_range_leaves_out_what_is_rare_and_far() -> None:
    counts = np.zeros(calibration.BINS)
    counts[: calibration.BINS // 2] = 1000
    counts[-1] = 1
    least, largest = calibration.best_range(counts, 0.0, 8.0)
    assert least == 0 and 3.9 < largest < 5
    counts[calibration.BINS // 2 :] = 1000
    assert calibration.best_range(counts, -4.0, 4.0) == (-4.0, 4.0)
