"""Operators with weights as C: convolutions and fully connected layers."""

from __future__ import annotations

import numpy as np

from firmware_bridge import ctext, pack
from firmware_bridge.site import Constant, Layer, Site, call_sliding, read_limits, read_scale, read_window


def conv(site: Site) -> Layer:
    """CONV_2D: one of 1×1 and stride 1 goes pixel by pixel, any other slides."""
    weights, scales, bias = _read_weights(site, axis=0)
    source = site.tensor(0)
    if weights.shape[3] != source.shape[3]:
        why = f"a convolution in groups of {weights.shape[3]} of {source.shape[3]} channels has no C kernel"
        raise site.refuse(source, why, "shape")
    in_scale, in_zero = read_scale(site, source)
    factors = pack.conv_scale(in_scale, scales, read_scale(site, site.output)[0])
    arrays, fields = _define(site, pack.pack_product(weights, bias, factors, in_zero=in_zero))
    product = {"depth": weights[0].size, "outputs": len(weights), **fields, **read_limits(site)}
    window = read_window(site, weights.shape[1:3])
    if weights[0].size == source.shape[3] and window["stride_y"] == window["stride_x"] == 1:
        pixels = f"{site.output.shape[2]} * count"
        call = f"ed_pointwise(&{site.label}, {site.source()}, {site.out}, {pixels});"
        return Layer(call, (Constant("struct ed_product", site.label, ctext.struct(product)),), arrays)
    both = ctext.struct({"window": window, "product": product})
    return Layer(call_sliding(site, "ed_conv"), (Constant("struct ed_conv", site.label, both),), arrays)


def depthwise(site: Site) -> Layer:
    """DEPTHWISE_CONV_2D of any multiplier, stride and dilation."""
    weights, scales, bias = _read_weights(site, axis=3)
    in_scale, in_zero = read_scale(site, site.tensor(0))
    multiplier = weights.shape[3] // site.tensor(0).shape[3]
    factors = pack.conv_scale(in_scale, scales, read_scale(site, site.output)[0])
    packed = pack.pack_depthwise(weights, bias, factors, in_zero=in_zero, multiplier=multiplier)
    arrays, fields = _define(site, packed)
    window = read_window(site, weights.shape[1:3])
    struct = ctext.struct({"window": window, "multiplier": multiplier, **fields, **read_limits(site)})
    return Layer(
        call_sliding(site, "ed_depthwise"), (Constant("struct ed_depthwise", site.label, struct),), arrays
    )


def fully_connected(site: Site) -> Layer:
    """FULLY_CONNECTED; its input is whole, whatever its shape."""
    if site.op.options["weights_format"] != "DEFAULT":
        raise site.refuse(
            site.tensor(1), "expected weights in their default order, got shuffled ones", "shape"
        )
    weights, scales, bias = _read_weights(site, axis=0)
    in_scale, in_zero = read_scale(site, site.tensor(0))
    out_scale = read_scale(site, site.output)[0]
    factors = (
        pack.conv_scale(in_scale, scales, out_scale)
        if scales.size > 1
        else np.array([pack.fc_scale(in_scale, float(scales[0]), out_scale)])
    )
    arrays, fields = _define(site, pack.pack_product(weights, bias, factors, in_zero=in_zero))
    units, depth = weights.shape
    struct = ctext.struct({"depth": depth, "outputs": units, **fields, **read_limits(site)})
    batch = site.output.elements // units // site.places.seen(site.stage.output).count  # of each output row
    start = f"{site.source(0, '0')} + {batch * depth} * first"
    call = f"ed_fully_connected(&{site.label}, {start}, {site.out}, {batch} * count);"
    return Layer(call, (Constant("struct ed_product", site.label, struct),), arrays)


def _read_weights(site: Site, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return int8 weights, their scales (one, or one for each slice of ``axis``), int32 bias or None."""
    tensor = site.tensor(1)
    if tensor.data is None or tensor.dtype != "int8":
        raise site.refuse(tensor, f"expected constant int8 weights, got {tensor.dtype}", "type")
    found = tensor.quantization
    if found is None or np.any(found.zero_point) or (found.per_channel and found.axis != axis):
        raise site.refuse(
            tensor, "expected symmetric weights, with one scale or one an output", "quantization"
        )
    return tensor.data, found.scale, _read_bias(site)


def _read_bias(site: Site) -> np.ndarray | None:
    if len(site.op.inputs) < 3 or site.op.inputs[2] < 0:
        return None
    tensor = site.tensor(2)
    if tensor.data is None or tensor.dtype != "int32":
        raise site.refuse(tensor, f"expected a constant int32 bias, got {tensor.dtype}", "type")
    return tensor.data.ravel()


def _define(site: Site, packed: pack.Packed) -> tuple[tuple[ctext.Array, ...], dict[str, object]]:
    """Definitions of weights, bias and scale, and the struct fields that point at them."""
    weights, bias, scale = (f"{site.label}_{what}" for what in ("weights", "bias", "scale"))
    pairs = list(zip(packed.multiplier.tolist(), packed.shift.tolist(), strict=True))
    arrays = (
        ctext.array(weights, "int8_t", np.frombuffer(packed.weights, np.int8).tolist(), aligned=True),
        ctext.array(bias, "int32_t", packed.bias.tolist()),
        ctext.pairs(scale, "struct ed_scale", pairs),
    )
    return arrays, {"weights": weights, "bias": bias, "scale": scale, "fast": int(packed.fast)}
