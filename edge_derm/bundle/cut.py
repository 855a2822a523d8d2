"""Cut a .tflite in two for Monte-Carlo dropout: a prefix that runs once, and a suffix that runs T times as one batch.

A .tflite holds no dropout and has no random operator. The suffix is therefore made here, from the deployed file itself: its
last operators, with one multiplication by a mask in front of each operator that saw dropout in training. The masks are inputs.

Nothing is quantised again. A mask of ones at rate 0 multiplies every stored value by exactly 1, so the suffix then gives the
bytes the whole file gives. At rate p the product keeps its stored value and its scale grows by 1 / (1 − p); only the bias behind
it, whose scale follows, is rounded to that scale.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from edge_derm.bundle.structure import check_model
from edge_derm.errors import BackendError, ModelError
from firmware_bridge.graph import Graph, Op

HEADS = ("FULLY_CONNECTED", "CONV_2D")
KEPT = 64  # stored value of a mask that keeps
_MUL, _MUL_OPTIONS = 18, 21  # BuiltinOperator.MUL, BuiltinOptions.MulOptions
_MUL_VERSION = {"float32": 1, "int8": 2, "uint8": 1, "int16": 4}


@dataclass(frozen=True)
class Cut:
    """``prefix``: image → activation. ``suffix``: activation and one mask a site → scores of T passes.

    ``channels`` of each mask, in the order of the suffix's mask inputs, from the front of the network to its head; a mask
    stores 0 to drop and ``kept`` to keep, in ``dtype``.
    """

    prefix: bytes
    suffix: bytes
    channels: tuple[int, ...]
    dtype: str
    kept: float


def expose(model: bytes) -> bytes:
    """The whole model with a second output: what its classifier sees (the penultimate features).

    Raises:
        ModelError: ``cut-no-head``. BackendError: ``backend-missing``.
    """
    graph = check_model(model)
    return _with_output(model, graph, graph.ops[_head(graph)].inputs[0])


def expose_mask(model: bytes) -> bytes:
    """The whole model with a second output: its attention mask [1, H, W, 1], one value in [0, 1] a place.

    Any file that multiplies a feature map by a sigmoid of one channel has one, ours or not.

    Raises:
        ModelError: ``attention-missing``. BackendError: ``backend-missing``.
    """
    graph = check_model(model)
    return _with_output(model, graph, _mask_site(graph))


def mask_shape(model: bytes) -> tuple[int, int]:
    """Height and width of the attention mask.

    Raises:
        ModelError: ``attention-missing``.
    """
    graph = check_model(model)
    _, height, width, _ = graph.tensor(_mask_site(graph)).shape
    return height, width


def _mask_site(graph: Graph) -> int:
    for op in graph.ops:
        shape = graph.tensor(op.outputs[0]).shape
        if op.name == "LOGISTIC" and len(shape) == 4 and shape[3] == 1:
            return op.outputs[0]
    raise ModelError(
        "expected a model with an attention mask, found none: train with --attention",
        code="attention-missing",
    )


def _with_output(model: bytes, graph: Graph, site: int) -> bytes:
    tree = _unpack(model)
    tree.subgraphs[0].outputs = np.array([graph.outputs[0], site], np.int32)
    return _pack(tree)


def cut(model: bytes, *, rate: float, depth: int, passes: int) -> Cut:
    """Cut for dropout at ``rate`` in front of the classifier and of the last ``depth`` − 1 depthwise convolutions.

    Args:
        model: a .tflite that passed ``check_model``.
        passes: T, the batch of the suffix.

    Raises:
        ModelError: ``cut-no-head`` (no classifier at the end), ``cut-depth`` (fewer blocks than that), ``cut-branches``
            (something reaches round the cut), ``cut-type``.
        BackendError: ``backend-missing``.
    """
    graph = check_model(model)
    places = _places(graph, depth)
    sites = [graph.ops[place].inputs[0] for place in places]
    dtype = graph.tensor(sites[0]).dtype
    if dtype not in _MUL_VERSION or any(graph.tensor(site).dtype != dtype for site in sites):
        raise ModelError(
            f"dropout: expected activations of one type out of {', '.join(_MUL_VERSION)}, got {dtype}: "
            "export with another recipe",
            code="cut-type",
        )
    first = _first_after(graph, sites[0])
    _check_apart(graph, first, sites[0])
    prefix, suffix = _unpack(model), _unpack(model)
    prefix.subgraphs[0].operators = prefix.subgraphs[0].operators[:first]
    prefix.subgraphs[0].outputs = np.array([sites[0]], np.int32)
    _make_suffix(suffix, graph, first, places, rate, passes)
    channels = tuple(graph.tensor(site).shape[-1] for site in sites)
    kept = 1 / (1 - rate) if dtype == "float32" else KEPT
    made = Cut(_pack(prefix), _pack(suffix), channels, dtype, kept)
    for part in (made.prefix, made.suffix):
        check_model(part)  # native code is given nothing that was not checked, not even what was made here
    return made


def _head(graph: Graph) -> int:
    """The place of the classifier: the last operator with weights."""
    found = [op.index for op in graph.ops if op.name in HEADS]
    if not found:
        raise ModelError(
            "dropout: expected a classifier (FULLY_CONNECTED or CONV_2D) at the end of the model, found none",
            code="cut-no-head",
        )
    return found[-1]


def _places(graph: Graph, depth: int) -> list[int]:
    """Operators to put a mask in front of, from the front: the last ``depth`` − 1 depthwise convolutions, the classifier."""
    head = _head(graph)
    blocks = [op.index for op in graph.ops[:head] if op.name == "DEPTHWISE_CONV_2D"]
    if depth - 1 > len(blocks):
        raise ModelError(
            f"dropout: expected a depth of at most {len(blocks) + 1} blocks in this model, got {depth}",
            code="cut-depth",
        )
    return [*blocks[len(blocks) - (depth - 1) :], head]


def _first_after(graph: Graph, site: int) -> int:
    makers = [op.index for op in graph.ops if site in op.outputs]
    return makers[-1] + 1 if makers else 0


def _check_apart(graph: Graph, first: int, site: int) -> None:
    """Only the cut tensor (and constants) may cross the cut."""
    fixed = graph.constant_ops()
    made = {index for op in graph.ops if op.index >= first or op.index in fixed for index in op.outputs}
    for op in graph.ops[first:]:
        for index in op.inputs:
            if index >= 0 and index != site and index not in made and graph.tensor(index).data is None:
                raise ModelError(
                    f"dropout: expected one way through the last blocks, but {op.name} also reads "
                    f"{graph.tensor(index).name!r} from before them: use a smaller depth",
                    code="cut-branches",
                )


def _make_suffix(
    tree: Any, graph: Graph, first: int, places: Sequence[int], rate: float, passes: int
) -> None:
    main = tree.subgraphs[0]
    code = _multiplication(tree, graph.tensor(graph.ops[places[0]].inputs[0]).dtype)
    fixed = graph.constant_ops()
    inner = [op for op in graph.ops[first:] if op.index not in fixed]
    operators, masks = [main.operators[op.index] for op in _makers(graph, fixed, inner)], []
    for place in (op.index for op in inner):
        operator = main.operators[place]
        if place in places:
            mask, product = _add_mask(tree, operator.inputs[0], rate, passes)
            masks.append(mask)
            operators.append(_multiply(code, operator.inputs[0], mask, product))
            operator.inputs = np.array([product, *operator.inputs[1:]], np.int32)
            _rescale_bias(tree, graph.ops[place], operator, rate)
        if graph.ops[place].name == "RESHAPE":
            _reshape_batch(tree, operator, passes)
        operators.append(operator)
    for op in inner:
        for index in op.outputs:
            _batch(main.tensors[index], passes)
    main.inputs = np.array([graph.ops[places[0]].inputs[0], *masks], np.int32)
    main.operators = operators


def _makers(graph: Graph, fixed: frozenset[int], readers: Sequence[Op]) -> list[Op]:
    """Of the operators on constants those that ``readers`` need, in order."""
    wanted = {index for op in readers for index in op.inputs}
    found = []
    for op in (graph.ops[place] for place in sorted(fixed, reverse=True)):
        if wanted.intersection(op.outputs):
            wanted.update(op.inputs)
            found.append(op)
    return found[::-1]


def _add_mask(tree: Any, site: int, rate: float, passes: int) -> tuple[int, int]:
    """Tensors for a mask [T, 1, 1, C] and the product; their indices."""
    main = tree.subgraphs[0]
    mask, product = copy.deepcopy(main.tensors[site]), copy.deepcopy(main.tensors[site])
    mask.name, product.name = f"mask_{site}".encode(), f"masked_{site}".encode()
    mask.buffer = product.buffer = 0
    mask.shape = np.array([1] * len(mask.shape), np.int32)
    mask.shape[-1] = main.tensors[site].shape[-1]
    _batch(mask, passes)
    _batch(product, passes)
    if _is_quantised(main.tensors[site]):
        mask.quantization.scale = np.array([1 / ((1 - rate) * KEPT)], np.float32)
        mask.quantization.zeroPoint = np.array([0], np.int64)
        product.quantization.scale = _grown(product.quantization.scale, rate)
    for made in (mask, product):
        if made.quantization is not None:
            made.quantization.min = made.quantization.max = None
    main.tensors += [mask, product]
    return len(main.tensors) - 2, len(main.tensors) - 1


def _rescale_bias(tree: Any, op: Op, operator: Any, rate: float) -> None:
    """The bias of ``op`` at the scale that its grown input asks for; at rate 0 it stays as it is."""
    main = tree.subgraphs[0]
    if rate == 0 or len(op.inputs) < 3 or op.inputs[2] < 0 or not _is_quantised(main.tensors[op.inputs[2]]):
        return
    bias = copy.deepcopy(main.tensors[op.inputs[2]])
    dtype = np.int64 if bias.type == _schema().TensorType.INT64 else np.int32
    values = np.asarray(tree.buffers[bias.buffer].data, np.uint8).view(dtype)
    buffer = copy.deepcopy(tree.buffers[bias.buffer])
    buffer.data = np.round(values.astype(np.float64) * (1 - rate)).astype(dtype).view(np.uint8)
    tree.buffers.append(buffer)
    bias.buffer = len(tree.buffers) - 1
    bias.quantization.scale = _grown(bias.quantization.scale, rate)
    main.tensors.append(bias)
    operator.inputs = np.array([*operator.inputs[:2], len(main.tensors) - 1], np.int32)


def _grown(scale: np.ndarray, rate: float) -> np.ndarray:
    return (np.asarray(scale, np.float64) / (1 - rate)).astype(np.float32)


def _batch(tensor: Any, passes: int) -> None:
    tensor.shape = np.array([passes, *tensor.shape[1:]], np.int32)
    tensor.shapeSignature = None


def _reshape_batch(tree: Any, operator: Any, passes: int) -> None:
    """A shape that is written into the file holds the batch too."""
    shape = [passes, *tree.subgraphs[0].tensors[operator.outputs[0]].shape[1:]]
    operator.inputs = operator.inputs[:1]
    operator.builtinOptionsType = _schema().BuiltinOptions.ReshapeOptions
    operator.builtinOptions = _schema().ReshapeOptionsT()
    operator.builtinOptions.newShape = np.array(shape, np.int32)


def _is_quantised(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.scale is not None


def _multiplication(tree: Any, dtype: str) -> int:
    code = _schema().OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _MUL
    code.version = _MUL_VERSION[dtype]
    tree.operatorCodes.append(code)
    return len(tree.operatorCodes) - 1


def _multiply(code: int, site: int, mask: int, product: int) -> Any:
    operator = _schema().OperatorT()
    operator.opcodeIndex = code
    operator.inputs, operator.outputs = np.array([site, mask], np.int32), np.array([product], np.int32)
    operator.builtinOptionsType, operator.builtinOptions = _MUL_OPTIONS, _schema().MulOptionsT()
    return operator


def _unpack(model: bytes) -> Any:
    tree = _schema().ModelT.InitFromObj(_schema().Model.GetRootAs(model, 0))
    tree.signatureDefs, tree.metadata, tree.metadataBuffer = None, None, None
    return tree


def _pack(tree: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise BackendError(
            "Monte-Carlo dropout needs the package ai-edge-litert (its description of the file format): "
            "pip install 'ai-edge-litert>=2.1,<3'",
            code="backend-missing",
        ) from error
    return schema_py_generated
