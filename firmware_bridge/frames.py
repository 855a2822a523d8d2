"""A camera's frame becomes the network's input on the device: ``firmware/ed_pixels.c`` with the model's own table."""

from __future__ import annotations

import math

from firmware_bridge import ctext
from firmware_bridge.board import FIRMWARE
from firmware_bridge.graph import BridgeError, Tensor
from firmware_bridge.link import TensorInfo
from firmware_bridge.part import Part
from firmware_bridge.pixels import entries


def frame_part(tensor: Tensor, *, name: str = "net", mean: float = 128.0, std: float = 128.0) -> Part:
    """Return what gives NAME.h the function ``NAME_input_from_rgb(frame, width, height)``.

    Args:
        tensor: the network's input, int8 or uint8 [1, S, S, 1 or 3] with one scale.
        mean, std: the model computes on (pixel − mean) / std.

    Raises:
        BridgeError: ``frame-input`` for an input that is no square image; LinkError ``normalisation``.
    """
    shape, quantization = tensor.shape, tensor.quantization
    square = len(shape) == 4 and shape[0] == 1 and shape[1] == shape[2] and shape[3] in (1, 3)
    if (
        not square
        or tensor.dtype not in ("int8", "uint8")
        or quantization is None
        or quantization.per_channel
    ):
        raise BridgeError(
            f"--pixels: expected a network whose input is a square image, int8 or uint8 [1, S, S, 1 or 3], got "
            f"{tensor.dtype} {list(shape)}",
            code="frame-input",
        )
    info = TensorInfo(tensor.dtype, shape, float(quantization.scale[0]), int(quantization.zero_point[0]))
    stored = entries(info, mean=mean, std=std)
    own = {file: (FIRMWARE / file).read_text(encoding="utf-8") for file in ("ed_pixels.c", "ed_pixels.h")}
    table = ctext.integers(stored.view("uint8").tolist())
    made = _fill(_TABLE, name).replace("@table@", table).replace("@size@", str(shape[1]))
    return Part(
        {**own, f"{name}_pixels.c": made.replace("@channels@", str(shape[3]))},
        _fill(_DECLARE, name),
        _fill(_NOTES, name).replace("@mean@", f"{mean:g}").replace("@std@", f"{std:g}"),
    )


def read_normalisation(stored: dict, where: str) -> tuple[float, float]:
    """Return mean and std of a bundle's manifest; BridgeError ``manifest`` where channels differ or they are missing."""
    try:
        means, stds = ({float(value) for value in stored["input"][key]} for key in ("mean", "std"))
        (mean,), (std,) = means, stds
        if stored["input"].get("colour_order", "rgb") == "rgb" and math.isfinite(mean) and std > 0:
            return mean, std
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise BridgeError(
        f"{where}: expected an input in RGB with one mean and one std for all channels", code="manifest"
    )


def _fill(text: str, name: str) -> str:
    return text.replace("@name@", name).replace("@NAME@", name.upper())


_DECLARE = """\
#define @NAME@_PIXELS 1
/* Fill the input from a frame, [height][width][3] in red, green, blue: cropped to its centred square, resized and
 * quantised to the very bytes that training saw. The frame is scratch memory and is destroyed. */
void @name@_input_from_rgb(uint8_t *frame, int32_t width, int32_t height);
"""

_NOTES = """
## Camera
`@name@_input_from_rgb(frame, width, height)` writes the input from a frame of red, green and blue bytes, as training did it:
centred square, halved while twice too large, linear resize, (pixel - @mean@) / @std@. Integers only, no memory of its own:
the frame is destroyed.
"""

_TABLE = """\
/* What each pixel value is stored as, for ed_pixels.c. */
#include "ed_pixels.h"
#include "@name@.h"

static const uint8_t table[256] = @table@;

void @name@_input_from_rgb(uint8_t *frame, int32_t width, int32_t height) {
    static const struct ed_pixels pixels = {table, @size@, @channels@};
    ed_pixels_fit(&pixels, frame, width, height, @name@_input());
}
"""
