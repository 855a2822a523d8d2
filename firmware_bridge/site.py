"""What the generator looks at to turn one stage into C, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge import ctext, pack
from firmware_bridge.graph import Graph, Op, Tensor, UnsupportedError
from firmware_bridge.places import Places
from firmware_bridge.plan_stages import Stage, same_padding


@dataclass(frozen=True)
class Constant:
    """A constant that the code names: ``kind name = value;``, ``name`` with its brackets if it is an array."""

    kind: str
    name: str
    value: str
    bytes: int = 0  # of weights or a table; a struct that describes a layer counts as code


@dataclass(frozen=True)
class Layer:
    """A stage as C.

    ``call``: the statements that make rows ``first`` … ``first + count - 1``. ``constants``: what they name.
    ``arrays``: definitions that only the constants point at.
    """

    call: str
    constants: tuple[Constant, ...] = ()
    arrays: tuple[ctext.Array, ...] = ()


@dataclass(frozen=True)
class Site:
    """Stage ``number`` of a plan, its operator, and where its maps are; ``name`` begins all its C names."""

    graph: Graph
    places: Places
    stage: Stage
    number: int
    name: str

    @property
    def op(self) -> Op:
        return next(op for op in self.graph.ops if op.index == self.stage.op)

    @property
    def output(self) -> Tensor:
        return self.graph.tensor(self.op.outputs[0])

    @property
    def label(self) -> str:
        """C name of this layer's constant, and the beginning of its arrays' names."""
        return f"{self.name}_layer_{self.number}"

    @property
    def out(self) -> str:
        """C: the address of row ``first`` of what the stage makes."""
        return self.places.row(self.stage.output, "first")

    def tensor(self, place: int) -> Tensor:
        """Return the operator's input number ``place``."""
        return self.graph.tensor(self.op.inputs[place])

    def source(self, place: int = 0, row: str = "first") -> str:
        """C: the address of a row of the operator's input number ``place``."""
        return self.places.row(self.op.inputs[place], row)

    def refuse(self, tensor: Tensor, why: str, what: str) -> UnsupportedError:
        """Return the error that names the operator, ``tensor`` and the reason; its code is ``unsupported-{what}``."""
        return UnsupportedError(
            f"operator {self.op.index} ({self.op.name}), tensor {tensor.index} {tensor.name[:60]!r}: {why}",
            code=f"unsupported-{what}",
        )


def read_scale(site: Site, tensor: Tensor) -> tuple[float, int]:
    """Return (scale, zero point) of an activation; UnsupportedError unless it has one of each."""
    quantization = tensor.quantization
    if quantization is None or quantization.per_channel:
        raise site.refuse(tensor, "expected one scale and zero point", "quantization")
    return float(quantization.scale[0]), int(quantization.zero_point[0])


def read_limits(site: Site) -> dict[str, object]:
    """Return zero, low, high of the output under its fused activation."""
    scale, zero = read_scale(site, site.output)
    low, high = pack.activation_range(site.op.options.get("fused_activation_function", "NONE"), scale, zero)
    return {"zero": zero, "low": low, "high": high}


def read_window(site: Site, taps: tuple[int, int]) -> dict[str, object]:
    """Return the fields of struct ed_window for an operator that slides over its first input."""
    source, options = site.tensor(0), site.op.options
    stride = (options["stride_h"], options["stride_w"])
    dilation = (options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1))
    pad: tuple[int, ...] = (0, 0)
    if options["padding"] == "SAME":
        sizes = zip(source.shape[1:3], taps, stride, dilation)
        pad = tuple(same_padding(n, k, stride=s, dilation=d)[1] for n, k, s, d in sizes)
    return {
        "width": source.shape[2],
        "channels": source.shape[3],
        **{"taps_y": taps[0], "taps_x": taps[1]},
        **{"stride_y": stride[0], "stride_x": stride[1]},
        **{"dilation_y": dilation[0], "dilation_x": dilation[1]},
        **{"pad_top": pad[0], "pad_left": pad[1]},
        "out_width": site.output.shape[2],
        "in_zero": read_scale(site, source)[1],
    }


def call_sliding(site: Site, kernel: str) -> str:
    """C: the call of a kernel that takes the rows of its input and says which output rows it makes."""
    return f"{kernel}(&{site.label}, &{site.places.rows(site.op.inputs[0])}, {site.out}, first, count);"
