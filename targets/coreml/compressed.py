"""What compressed weights stand for: Core ML's ``constexpr_`` operations, on numpy arrays.

A package may hold weights as 8-bit numbers with scales, as indices into tables of values, or as those alone that are
not zero. Core ML unpacks them when it loads the model, and so is it done here. Definitions: Apple's MIL operation
reference (as for ``operations``), opsets iOS16 and iOS18, which share some names.

To add an operation, write a function of its arguments, under MIL's names, that returns a tuple of its results, and put
it into ``COMPRESSED``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MAX_VALUES = 2**31


def unpacked(data: np.ndarray, bits: int, count: int, *, highest_first: bool = False) -> np.ndarray:
    """The first ``count`` unsigned numbers of so many bits in packed bytes (uint8), the lowest bits first, or highest.

    Raises:
        ValueError: the bytes are not those of so many numbers.
    """
    if data.dtype != np.uint8 or data.ndim != 1 or data.size != -(-count * bits // 8):
        raise ValueError(f"{count:,} numbers of {bits} bits do not take {data.size:,} bytes")
    if bits == 8:
        return data
    if highest_first:
        digits = np.unpackbits(data, count=count * bits).reshape(count, bits)
        return np.packbits(np.pad(digits, ((0, 0), (8 - bits, 0))), axis=1).reshape(count)
    digits = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(digits, axis=1, bitorder="little").reshape(count)


def affine_dequantize(quantized_data: np.ndarray, zero_point: Any, scale: Any, axis: int) -> tuple[np.ndarray, ...]:
    """8-bit numbers with a scale and a zero point for the tensor, or for each slice along ``axis``."""
    along = [-1 if dimension == axis % quantized_data.ndim else 1 for dimension in range(quantized_data.ndim)]
    scale, zero_point = (np.asarray(value) for value in (scale, zero_point))
    scale, zero_point = (value.reshape(along) if value.ndim else value for value in (scale, zero_point))
    return ((quantized_data.astype(np.float32) - zero_point.astype(np.float32)) * scale.astype(np.float32),)


def blockwise_shift_scale(
    data: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """Numbers with a scale and an offset for each block."""
    found = data.astype(np.float32)
    if offset is not None:
        found = found - _for_each(offset, data.shape).astype(np.float32)
    return (found * _for_each(scale, data.shape).astype(np.float32),)


def lut_to_dense(
    indices: np.ndarray, lut: np.ndarray, shape: Sequence[int] | None = None, vector_axis: int | None = None
) -> tuple[np.ndarray, ...]:
    """Values from a table by their places in it; iOS16 packs these into bytes and has one table of single values."""
    if shape is not None:
        sizes = _shape(shape)
        places = unpacked(indices, round(math.log2(len(lut))), math.prod(sizes))
        return (lut[places].reshape(sizes),)
    *groups, palette, vector = lut.shape
    if math.prod(indices.shape) * vector > MAX_VALUES:
        raise ValueError("more values than a model can have")
    tables = lut.reshape(-1, palette, vector)
    table = _for_each(np.arange(len(tables)).reshape(groups), indices.shape)
    if int(indices.max(initial=0)) >= palette:
        raise ValueError(f"an index of {indices.max()} into a table of {palette}")
    found = tables[table, indices]  # One axis more, the vector's, which goes behind the one it is along.
    along = 0 if vector_axis is None else int(vector_axis) % indices.ndim
    found = np.moveaxis(found, -1, along + 1)
    return (found.reshape([size * (vector if axis == along else 1) for axis, size in enumerate(indices.shape)]),)


def lut_to_sparse(
    indices_mask: np.ndarray, indices_nonzero_data: np.ndarray, lut: np.ndarray, vector_axis: int | None = None
) -> tuple[np.ndarray, ...]:
    """``lut_to_dense`` of the values that are not left out: a mask and those values."""
    indices = sparse_to_dense(indices_nonzero_data, indices_mask)[0]
    dense = lut_to_dense(indices, lut, None, vector_axis)[0]
    mask = indices_mask if vector_axis is None else np.repeat(indices_mask, lut.shape[-1], axis=int(vector_axis))
    return mask, dense[mask != 0]


def sparse_blockwise_shift_scale(
    data_mask: np.ndarray, nonzero_data: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """``blockwise_shift_scale`` of the values that are not left out: a mask and those values."""
    dense = blockwise_shift_scale(sparse_to_dense(nonzero_data, data_mask)[0], scale, offset)[0]
    return data_mask, dense[data_mask != 0]


def sparse_to_dense(
    nonzero_data: np.ndarray, mask: np.ndarray, shape: Sequence[int] | None = None
) -> tuple[np.ndarray, ...]:
    """Zeros, but for the values whose bit in the mask is set; iOS16 packs the mask into bytes."""
    if shape is not None:
        sizes = _shape(shape)
        mask = unpacked(mask, 1, math.prod(sizes)).reshape(sizes)
    if np.count_nonzero(mask) != nonzero_data.size:
        raise ValueError(f"a mask of {np.count_nonzero(mask):,} values for {nonzero_data.size:,}")
    found = np.zeros(mask.shape, nonzero_data.dtype)
    found[mask != 0] = nonzero_data.ravel()
    return (found,)


def cast(source_val: np.ndarray, output_dtype: str) -> tuple[np.ndarray, ...]:
    if output_dtype != "fp32":
        raise ValueError(f"a cast to {output_dtype!r}")
    return (source_val.astype(np.float32),)


COMPRESSED: Mapping[str, Callable[..., tuple[np.ndarray, ...]]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": sparse_to_dense,
}


def _for_each(blocks: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """One value of ``blocks`` for each element of a tensor, whose axes are whole multiples of theirs."""
    if blocks.ndim != len(shape) or any(size % count for size, count in zip(shape, blocks.shape, strict=True)):
        raise ValueError(f"blocks {blocks.shape} do not divide {tuple(shape)}")
    for axis, (size, count) in enumerate(zip(shape, blocks.shape, strict=True)):
        if count not in (1, size):
            blocks = np.repeat(blocks, size // count, axis)
    return np.broadcast_to(blocks, shape)


def _shape(shape: Sequence[int]) -> list[int]:
    sizes = [int(size) for size in shape]
    if math.prod(sizes) > MAX_VALUES:
        raise ValueError("more values than a model can have")
    return sizes
