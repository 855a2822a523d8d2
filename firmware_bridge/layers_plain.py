"""Operators without weights as C: pools, sums, element-wise arithmetic, tables, padding, joining, softmax."""

from __future__ import annotations

import math
from typing import Mapping, Sequence

import numpy as np

from firmware_bridge import ctext, pack
from firmware_bridge.graph import Tensor
from firmware_bridge.site import Constant, Layer, Site, call_sliding, read_limits, read_scale, read_window


def pool(site: Site) -> Layer:
    """AVERAGE_POOL_2D and MAX_POOL_2D that slide, and the end of an average over the whole map."""
    if site.places.running(site.stage.inputs[0]):
        return _average_of_sums(site)
    options = site.op.options
    window = read_window(site, (options["filter_height"], options["filter_width"]))
    kernel = {"AVERAGE_POOL_2D": "ed_average_pool", "MAX_POOL_2D": "ed_max_pool"}[site.op.name]
    limits = read_limits(site)
    struct = ctext.struct({"window": window, "low": limits["low"], "high": limits["high"]})
    return Layer(call_sliding(site, kernel), (Constant("struct ed_pool", site.label, struct),))


def sum_rows(site: Site) -> Layer:
    """SUM: one row of a map added to running sums, which the first row clears."""
    _, _, width, channels = site.tensor(0).shape
    clear = f"if (first == 0) {{ memset(sums, 0, {4 * channels}); }}"
    add = f"ed_sum({site.source()}, sums, {width} * count, {channels});"
    return Layer(f"int32_t *const sums = {_sums(site, site.stage.output)};\n{clear}\n{add}")


def mean(site: Site) -> Layer:
    """MEAN over the whole map, of its sums."""
    if not site.places.running(site.stage.inputs[0]):
        raise site.refuse(site.tensor(0), "expected a mean over height and width of a 4-D map", "shape")
    (in_scale, in_zero), (out_scale, out_zero) = (read_scale(site, t) for t in (site.tensor(0), site.output))
    _, height, width, channels = site.tensor(0).shape
    scale, offset = pack.pack_mean(in_scale, out_scale, in_zero=in_zero, pixels=height * width)
    fields = {"channels": channels, "offset": offset, "scale": _scale(scale), "zero": out_zero}
    call = f"ed_sum_mean(&{site.label}, {_sums(site, site.stage.inputs[0])}, {_whole(site)});"
    return Layer(call, (Constant("struct ed_mean", site.label, ctext.struct(fields)),))


def add(site: Site) -> Layer:
    """ADD of two maps, or of a map and values that repeat along its rows, or one for each pixel."""
    scales = [read_scale(site, tensor) for tensor in (site.tensor(0), site.tensor(1), site.output)]
    packed = pack.pack_add(*(scale for scale, _ in scales))
    fields = dict(zip(("a", "b", "out"), map(_scale, packed))) | {"left": pack.ADD_LEFT_SHIFT}
    return _two(site, "add", fields)


def mul(site: Site) -> Layer:
    """MUL, as ``add``."""
    scales = [read_scale(site, tensor)[0] for tensor in (site.tensor(0), site.tensor(1), site.output)]
    return _two(site, "mul", {"out": _scale(pack.pack_mul(*scales))})


def logistic(site: Site) -> Layer:
    """LOGISTIC as a table of all 256 answers; its output has the one scale TensorFlow Lite gives it."""
    if read_scale(site, site.output) != (1 / 256, -128):
        raise site.refuse(site.output, "expected scale 1/256 and zero point -128", "quantization")
    return _table(site, pack.table_logistic(*read_scale(site, site.tensor(0))))


def quantize(site: Site) -> Layer:
    """QUANTIZE between any two of int8 and uint8; a byte of uint8 is looked up as the int8 of the same bits."""
    source, target = site.tensor(0), site.output
    (in_scale, in_zero), (out_scale, out_zero) = (read_scale(site, t) for t in (source, target))
    moved = {"uint8": 128, "int8": 0}
    # As if both were int8: uint8 value v with zero point z is int8 v − 128 with z − 128.
    table = pack.table_requantize(
        in_scale, in_zero - moved[source.dtype], out_scale, out_zero - moved[target.dtype]
    )
    if source.dtype == "uint8":  # the bits of uint8 v are those of int8 v − 128 with the top bit flipped
        table = np.roll(table, 128)
    if target.dtype == "uint8":
        table = (table.astype(np.int16) + 128).astype(np.uint8).view(np.int8)
    if np.array_equal(table, np.arange(-128, 128).astype(np.int8) ^ np.int8(-128)):
        return Layer(f"ed_flip({site.source()}, {site.out}, {_bytes_a_row(site)} * count);")
    return _table(site, table)


def pad(site: Site) -> Layer:
    """PAD of height and width with the real value 0."""
    source, amounts = site.tensor(0), site.tensor(1).data
    if len(source.shape) != 4 or amounts is None or np.any(amounts.reshape(-1, 2)[[0, 3]]):
        raise site.refuse(source, "expected constant padding of the height and width of a 4-D map", "shape")
    before = amounts.reshape(4, 2)[:, 0]
    fields = {
        "width": source.shape[2],
        "channels": source.shape[3],
        "top": int(before[1]),
        "left": int(before[2]),
        "out_width": site.output.shape[2],
        "value": read_scale(site, source)[1],
    }
    return Layer(call_sliding(site, "ed_pad"), (Constant("struct ed_pad", site.label, ctext.struct(fields)),))


def concatenation(site: Site) -> Layer:
    """CONCATENATION along channels or columns of maps, or within one row, of inputs that share the output's scale."""
    shape = site.output.shape
    leading = 2 if len(shape) == 4 else 1
    axis = site.op.options["axis"] % len(shape)
    if axis < leading:
        raise site.refuse(site.output, f"joining along dimension {axis} has no C kernel", "shape")
    groups = math.prod(shape[leading:axis])
    calls, constants, at, whole = [], [], 0, math.prod(shape[axis:])
    for place in range(len(site.op.inputs)):
        tensor = site.tensor(place)
        if read_scale(site, tensor) != read_scale(site, site.output):
            raise site.refuse(tensor, "expected inputs of the output's scale and zero point", "quantization")
        found, pointer = _operand(site, place, repeats=False)
        constants += found
        part = math.prod(tensor.shape[axis:])
        calls.append(f"ed_interleave({pointer}, {site.out} + {at}, {groups} * count, {part}, {whole});")
        at += part
    return Layer("\n".join(calls), tuple(constants))


def softmax(site: Site) -> Layer:
    """SOFTMAX over the last dimension; its input is whole."""
    depth = site.output.shape[-1]
    beta = float(site.op.options["beta"])
    multiplier, shift, least = pack.pack_softmax(read_scale(site, site.tensor(0))[0], beta, depth=depth)
    struct = ctext.struct({"depth": depth, "multiplier": multiplier, "shift": shift, "least": least})
    batch = _bytes_a_row(site) // depth
    call = f"ed_softmax(&{site.label}, {site.source()}, {site.out}, {batch} * count);"
    return Layer(call, (Constant("struct ed_softmax", site.label, struct),))


def _average_of_sums(site: Site) -> Layer:
    _, height, width, channels = site.tensor(0).shape
    limits = read_limits(site)
    numbers = f"{height * width}, {channels}, {limits['low']}, {limits['high']}"
    return Layer(f"ed_sum_average({_sums(site, site.stage.inputs[0])}, {_whole(site)}, {numbers});")


def _two(site: Site, what: str, fields: Mapping[str, object]) -> Layer:
    """An element-wise operator of two inputs, either of which may be a constant, repeat, or hold one value a pixel."""
    tensors = [site.tensor(place) for place in range(2)]
    by_pixel = any(_is_by_pixel(site, tensor) for tensor in tensors)
    counts = [1 if _is_by_pixel(site, tensor) else _period(site, tensor) for tensor in tensors]
    repeats = [
        tensor.elements < site.output.elements and not _is_by_pixel(site, tensor) for tensor in tensors
    ]
    operands = [_operand(site, place, repeats=repeats[place]) for place in range(2)]
    zeros = [read_scale(site, tensor)[1] for tensor in tensors]
    own = dict(zip(("a_count", "b_count", "a_zero", "b_zero"), (*counts, *zeros)))
    struct = ctext.struct({**own, **fields, **read_limits(site)})
    pointers = [pointer for _, pointer in operands]
    size = f"{_bytes_a_row(site)} * count"
    call = f"ed_{what}(&{site.label}, {pointers[0]}, {pointers[1]}, {site.out}, {size});"
    if by_pixel:
        call = _each_pixel(site, what, pointers, [0 if r else t.shape[-1] for r, t in zip(repeats, tensors)])
    own_constant = Constant(f"struct ed_{what}", site.label, struct)
    return Layer(call, (own_constant, *operands[0][0], *operands[1][0]))


def _is_by_pixel(site: Site, tensor: Tensor) -> bool:
    """Whether ``tensor`` has one value for all channels of each pixel of the output, which has several."""
    shape, target = tensor.shape, site.output.shape
    return len(shape) == len(target) == 4 and shape[:3] == target[:3] and 1 == shape[3] < target[3]


def _each_pixel(site: Site, what: str, pointers: Sequence[str], steps: Sequence[int]) -> str:
    """The call in a loop over pixels; ``steps``: values from one pixel to the next of each input."""
    channels = site.output.shape[3]
    inputs = [f"{pointer} + {step} * i" if step else pointer for pointer, step in zip(pointers, steps)]
    call = f"ed_{what}(&{site.label}, {inputs[0]}, {inputs[1]}, {site.out} + {channels} * i, {channels});"
    return f"for (int32_t i = 0; i < {site.output.shape[2]} * count; ++i) {{\n    {call}\n}}"


def _period(site: Site, tensor: Tensor) -> int:
    """After how many values an operand of the output's shape starts again; its rows must start with it."""
    shape = list(tensor.shape)
    while shape and shape[0] == 1:
        shape.pop(0)
    target = site.output.shape
    if shape and tuple(shape) != target[len(target) - len(shape) :]:
        raise site.refuse(
            tensor, f"{list(tensor.shape)} does not repeat along rows or pixels of {list(target)}", "shape"
        )
    return tensor.elements


def _operand(site: Site, place: int, *, repeats: bool) -> tuple[list[Constant], str]:
    """The constant that an input is, if it is one, and the C expression of its row ``first``."""
    tensor = site.tensor(place)
    if tensor.data is None:
        return [], site.source(place, "0" if repeats else "first")
    if tensor.dtype != "int8":
        raise site.refuse(tensor, f"expected an int8 constant, got {tensor.dtype}", "type")
    name = f"{site.label}_input_{place}"
    a_row = 0 if repeats else tensor.elements // site.places.seen(site.stage.output).count
    values = ctext.integers(tensor.data.ravel().tolist())
    constant = Constant("int8_t", f"{name}[{tensor.elements}]", values, tensor.elements)
    return [constant], f"{name} + {a_row} * first" if a_row else name


def _table(site: Site, table: np.ndarray) -> Layer:
    call = f"ed_lookup({site.label}, {site.source()}, {site.out}, {_bytes_a_row(site)} * count);"
    return Layer(call, (Constant("int8_t", f"{site.label}[256]", ctext.integers(table.tolist()), 256),))


def _scale(scale: pack.Scale) -> dict[str, object]:
    return {"multiplier": scale.multiplier, "shift": scale.shift}


def _sums(site: Site, tensor: int) -> str:
    return f"(arena + {site.places.plan.block(tensor).offset // 4})"


def _whole(site: Site) -> str:
    return site.places.row(site.stage.output, "0")


def _bytes_a_row(site: Site) -> int:
    return site.places.seen(site.stage.output).row_bytes
