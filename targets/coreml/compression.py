"""Packages in fewer bits: 8-bit weights, activations too, palettes, and zeros that are left out.

coremltools rewrites a package's program (``coremltools.optimize.coreml``). Where it falls short there is a pass of our
own: it calibrates activations by running Core ML, which only Macs have, and its palettes are either of values that
channels of all sizes share, or of scales along the wrong axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from leafport import palette
from leafport.targets.coreml.tidy import block

SMALL = 512
"""Layers of no more weights keep them as they are."""
_LARGEST_BIAS = 10_000.0  # In shares of a channel's largest weight; float16 ends at 65,504.
_NOISE = 2e-3  # float16 may put weights of one value so far apart.


def eight_bit_weights(model: Any) -> Any:
    """An MLModel whose weights have 8 bits, and each channel a scale."""
    import coremltools.optimize.coreml as optimize

    settings = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=SMALL)
    return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(settings))


def without_zeros(model: Any) -> Any:
    """An MLModel that holds a layer's weights that are not zero, and a bit for each that says so."""
    import coremltools.optimize.coreml as optimize

    settings = optimize.OpThresholdPrunerConfig(threshold=1e-12, minimum_sparsity_percentile=0.2)
    return optimize.prune_weights(model, optimize.OptimizationConfig(settings))


def eight_bit_activations(model: Any, ranges: Mapping[str, tuple[float, float]]) -> Any:
    """An MLModel whose convolutions, poolings and sums take 8-bit numbers over the ``ranges`` (least, largest) given.

    But for the first convolution. What it sees are pixels, of 256 values that lie between the steps of any range around
    zero: rounding them once more would be the largest error of all. And but for dense layers, which see a few hundred
    numbers and would gain no time.
    """
    import coremltools.optimize.coreml as optimize
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    settings = optimize.OptimizationConfig(
        optimize.OpLinearQuantizerConfig(mode="linear"),
        op_type_configs={"linear": None},
        op_name_configs={_first_convolution(model): None},
    )
    stats = {name: {"rmin": least, "rmax": largest} for name, (least, largest) in ranges.items()}
    passes = []
    for name in ("insert_prefix_quantize_dequantize_pair", "insert_suffix_quantize_dequantize_pair"):
        inserting = PASS_REGISTRY[f"compression::{name}"]
        inserting.set_options([PassOption("config", settings), PassOption("activation_stats", stats)])
        passes.append(inserting)
    return _rewritten(model, [*passes, PASS_REGISTRY["common::dequantize_quantize_pair_elimination"]], 8)


def palettised(model: Any, bits: int, fine: float) -> Any:
    """An MLModel whose layers store weights as numbers of so many bits: places in a table of shares of a scale.

    The table is the layer's. The scale is the channel's, and multiplies the layer's result: a table for each channel
    would cost as much as the weights. Depthwise layers, where any table would, get 8-bit weights, and so do the
    smallest layers, which hold the share ``fine`` of all weights.
    """
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass

    class Palettise(AbstractGraphPass):
        def apply(self, program: Any) -> None:
            for function in program.functions.values():
                with function:
                    layers = [one for one in function.operations if _is_large(one)]
                    sizes = [one.inputs["weight"].val.size for one in layers if not _has_groups(one)]
                    small = palette.fine_size(sizes, fine)
                    for layer in layers:
                        _palettise(function, layer, bits, small)

    return _rewritten(model, [Palettise()], 7)


def _first_convolution(model: Any) -> str:
    steps = block(model.get_spec()).operations
    return next((str(step.outputs[0].name) for step in steps if step.type == "conv"), "")


def _rewritten(model: Any, passes: list[Any], specification_version: int) -> Any:
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models.utils import _apply_graph_pass

    return _apply_graph_pass(model, passes, specification_version, skip_model_load=True, pymil_load_func=load)


def _is_large(operation: Any) -> bool:
    """Whether an operation is a layer of many constant weights."""
    if operation.op_type not in ("conv", "linear"):
        return False
    weights = operation.inputs["weight"]
    return weights.op is not None and weights.op.op_type == "const" and weights.val.size > SMALL


def _has_groups(layer: Any) -> bool:
    return bool(layer.op_type == "conv" and layer.inputs["groups"].val > 1)


def _palettise(block: Any, layer: Any, bits: int, small: int) -> None:
    """Put a layer with packed weights, [outputs, …], in the place of another; in 8 bits if it has up to ``small``."""
    from coremltools.converters.mil.frontend._utils import _construct_constexpr_lut_op
    from coremltools.converters.mil.mil import Builder

    stored = layer.inputs["weight"].val
    weights = stored.astype(np.float32)
    bias = layer.inputs.get("bias")
    arguments = {name: value for name, value in layer.inputs.items() if value is not None and name != "weight"}
    largest = np.abs(weights).max(axis=tuple(range(1, weights.ndim)))
    if _has_groups(layer) or stored.size <= small:
        scale = np.where(largest > 0, largest, 1) / 127
        packed = Builder.constexpr_affine_dequantize(
            quantized_data=np.round(weights / _each_output(scale, weights.ndim)).astype(np.int8),
            zero_point=np.int8(0),
            scale=scale.astype(stored.dtype),
            axis=np.int32(0),
            before_op=layer,
            name=f"{layer.name}_weights",
        )
        build = getattr(Builder, layer.op_type)
        result = build(**arguments, weight=packed, before_op=layer, name=f"{layer.name}_8_bit")
    else:
        if bias is not None:  # It is added before the result is multiplied, in float16.
            largest = np.maximum(largest, np.abs(bias.val.astype(np.float32)) / _LARGEST_BIAS)
        scale = np.where(largest > 0, largest, 1)
        if bias is not None:
            arguments["bias"] = (bias.val / scale).astype(stored.dtype)
        relative = weights / _each_output(scale, weights.ndim)
        levels = palette.levels(relative, 2**bits, same=_NOISE)
        table = np.pad(levels, (0, 2**bits - len(levels)), mode="edge").astype(stored.dtype)
        packed = _construct_constexpr_lut_op(
            palette.nearest(levels, relative).astype(np.uint8),
            table.reshape(*[1] * weights.ndim, -1, 1),
            name=f"{layer.name}_weights",
            before_op=layer,
        )
        result = getattr(Builder, layer.op_type)(
            **arguments, weight=packed, before_op=layer, name=f"{layer.name}_shares"
        )
        along = (
            (-1, 1, 1) if layer.op_type == "conv" else (-1,)
        )  # Of [batch, outputs, height, width] or [batch, outputs].
        result = Builder.mul(
            x=result, y=scale.reshape(along).astype(stored.dtype), before_op=layer, name=f"{layer.name}_scaled"
        )
    block.replace_uses_of_var_after_op(anchor_op=layer, old_var=layer.outputs[0], new_var=result)
    block.remove_ops([layer])


def _each_output(values: np.ndarray, rank: int) -> np.ndarray:
    """One value for each output, to go with weights [outputs, …]."""
    return values.reshape(-1, *[1] * (rank - 1))
