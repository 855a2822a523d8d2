"""What the .tflite schema (version 3, tensorflow/compiler/mlir/lite/schema/schema.fbs) says, as far as it
is read here.

A layout lists the fields of a table in slot order as ``name:kind[=default]``; ``-`` is a retired slot.
Operators and option tables are listed by the number the file stores. Options are known for the operators
that image classifiers are made of; of the others the reader still tells the name, the tensors and whether
the bytes are in bounds.
"""

from __future__ import annotations

from typing import NamedTuple

from firmware_bridge.flatbuffer import Enum, Field, Layout

IDENTIFIER = b"TFL3"
VERSION = 3

TENSOR_TYPES = tuple(
    "float32 float16 int32 uint8 int64 string bool int16 complex64 int8 float64 complex128 uint64 resource"
    " variant uint32 uint16 int4 bfloat16 int2 uint4 float8_e4m3fn float8_e5m2".split()
)
"""The element type by its stored number; NumPy's names where NumPy has the type."""

OPERATORS = tuple("""
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP
    FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC
    LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX
    SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX
    DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER
    GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL
    LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND
    LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
    RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N
    GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF
    WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
    PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS
    HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
    READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL
    GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM
    ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD
    STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP
    STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
    STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL
    STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER
    STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER
    STABLEHLO_COMPARE STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD
    STABLEHLO_IOTA STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE
    STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE
    STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
    """.split())
"""Builtin operators by their stored number."""

OPTION_TABLES = tuple("""
    NONE Conv2DOptions DepthwiseConv2DOptions ConcatEmbeddingsOptions LSHProjectionOptions Pool2DOptions
    SVDFOptions RNNOptions FullyConnectedOptions SoftmaxOptions ConcatenationOptions AddOptions L2NormOptions
    LocalResponseNormalizationOptions LSTMOptions ResizeBilinearOptions CallOptions ReshapeOptions
    SkipGramOptions SpaceToDepthOptions EmbeddingLookupSparseOptions MulOptions PadOptions GatherOptions
    BatchToSpaceNDOptions SpaceToBatchNDOptions TransposeOptions ReducerOptions SubOptions DivOptions
    SqueezeOptions SequenceRNNOptions StridedSliceOptions ExpOptions TopKV2Options SplitOptions
    LogSoftmaxOptions CastOptions DequantizeOptions MaximumMinimumOptions ArgMaxOptions LessOptions NegOptions
    PadV2Options GreaterOptions GreaterEqualOptions LessEqualOptions SelectOptions SliceOptions
    TransposeConvOptions SparseToDenseOptions TileOptions ExpandDimsOptions EqualOptions NotEqualOptions
    ShapeOptions PowOptions ArgMinOptions FakeQuantOptions PackOptions LogicalOrOptions OneHotOptions
    LogicalAndOptions LogicalNotOptions UnpackOptions FloorDivOptions SquareOptions ZerosLikeOptions
    FillOptions BidirectionalSequenceLSTMOptions BidirectionalSequenceRNNOptions
    UnidirectionalSequenceLSTMOptions FloorModOptions RangeOptions ResizeNearestNeighborOptions
    LeakyReluOptions SquaredDifferenceOptions MirrorPadOptions AbsOptions SplitVOptions UniqueOptions
    ReverseV2Options AddNOptions GatherNdOptions CosOptions WhereOptions RankOptions ReverseSequenceOptions
    MatrixDiagOptions QuantizeOptions MatrixSetDiagOptions HardSwishOptions IfOptions WhileOptions
    DepthToSpaceOptions NonMaxSuppressionV4Options NonMaxSuppressionV5Options ScatterNdOptions SelectV2Options
    DensifyOptions SegmentSumOptions BatchMatMulOptions CumsumOptions CallOnceOptions BroadcastToOptions
    Rfft2dOptions Conv3DOptions HashtableOptions HashtableFindOptions HashtableImportOptions
    HashtableSizeOptions VarHandleOptions ReadVariableOptions AssignVariableOptions RandomOptions
    BucketizeOptions GeluOptions DynamicUpdateSliceOptions UnsortedSegmentProdOptions
    UnsortedSegmentMaxOptions UnsortedSegmentMinOptions UnsortedSegmentSumOptions ATan2Options SignOptions
    BitcastOptions BitwiseXorOptions RightShiftOptions
    """.split())
"""Members of the union BuiltinOptions by their stored number."""

_ENUMS = {
    "TensorType": Enum("TensorType", "i8", TENSOR_TYPES),
    "Padding": Enum("Padding", "i8", ("SAME", "VALID")),
    "Activation": Enum(
        "ActivationFunctionType", "i8", ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
    ),
    "WeightsFormat": Enum("WeightsFormat", "i8", ("DEFAULT", "SHUFFLED4x16INT8")),
    "MirrorPadMode": Enum("MirrorPadMode", "i8", ("REFLECT", "SYMMETRIC")),
}


def _default(kind: str, text: str) -> bool | int | float | None:
    if kind in _ENUMS:
        return int(text or 0)
    if kind == "bool":
        return text == "true"
    if kind in ("f32", "f64"):
        return float(text or 0)
    return int(text or 0) if kind[0] in "iu" else None


def _layout(text: str) -> Layout:
    fields = {}
    for slot, word in enumerate(text.split()):
        name, _, rest = word.partition(":")
        kind, _, default = rest.partition("=")
        if name != "-":
            fields[name] = Field(slot, kind, _default(kind, default), _ENUMS.get(kind))
    return fields


MODEL = _layout(
    "version:u32 operator_codes:[table] subgraphs:[table] description:string buffers:[table]"
    " metadata_buffer:[i32] metadata:[table] signature_defs:[table] external_buffer_groups:[table]"
    " external_buffers:[table]"
)
OPERATOR_CODE = _layout("deprecated_builtin_code:i8 custom_code:string version:i32=1 builtin_code:i32")
SUBGRAPH = _layout(
    "tensors:[table] inputs:[i32] outputs:[i32] operators:[table] name:string debug_metadata_index:i32"
)
TENSOR = _layout(
    "shape:[i32] type:TensorType buffer:u32 name:string quantization:table is_variable:bool sparsity:table "
    "shape_signature:[i32] has_rank:bool variant_tensors:[table] external_buffer:u32"
)
QUANTIZATION = _layout(
    "min:[f32] max:[f32] scale:[f32] zero_point:[i64] details_type:u8 details:table quantized_dimension:i32"
)
OPERATOR = _layout(
    "opcode_index:u32 inputs:[i32] outputs:[i32] builtin_options_type:u8 builtin_options:table"
    " custom_options:[u8] custom_options_format:i8 mutating_variable_inputs:[u8] intermediates:[i32]"
    " large_custom_options_offset:u64 large_custom_options_size:u64 builtin_options_2_type:u8"
    " builtin_options_2:table debug_metadata_index:i32"
)
BUFFER = _layout("data:[u8] offset:u64 size:u64")
METADATA = _layout("name:string buffer:u32")
SIGNATURE_DEF = _layout("inputs:[table] outputs:[table] signature_key:string - subgraph_index:u32")
TENSOR_MAP = _layout("name:string tensor_index:u32")

_FUSED = "fused_activation_function:Activation"
_CONV = f"padding:Padding stride_w:i32 stride_h:i32 {_FUSED} dilation_w_factor:i32=1 dilation_h_factor:i32=1"

_WITHOUT_FIELDS = (
    "Pad PadV2 SpaceToBatchND BatchToSpaceND Transpose Quantize Dequantize LogSoftmax HardSwish"
    " MaximumMinimum Exp Slice Tile ExpandDims"
)

OPTIONS: dict[str, Layout] = {
    name: _layout(text)
    for name, text in {
        "Conv2DOptions": f"{_CONV} quantized_bias_type:TensorType",
        "DepthwiseConv2DOptions": (
            "padding:Padding stride_w:i32 stride_h:i32 depth_multiplier:i32 "
            f"{_FUSED} dilation_w_factor:i32=1 dilation_h_factor:i32=1"
        ),
        "Pool2DOptions": (
            f"padding:Padding stride_w:i32 stride_h:i32 filter_width:i32 filter_height:i32 {_FUSED}"
        ),
        "FullyConnectedOptions": (
            f"{_FUSED} weights_format:WeightsFormat keep_num_dims:bool "
            "asymmetric_quantize_inputs:bool quantized_bias_type:TensorType"
        ),
        "SoftmaxOptions": "beta:f32",
        "ConcatenationOptions": f"axis:i32 {_FUSED}",
        "AddOptions": f"{_FUSED} pot_scale_int16:bool=true",
        "SubOptions": f"{_FUSED} pot_scale_int16:bool=true",
        "MulOptions": _FUSED,
        "DivOptions": _FUSED,
        "L2NormOptions": _FUSED,
        "ReshapeOptions": "new_shape:[i32]",
        "SqueezeOptions": "squeeze_dims:[i32]",
        "ReducerOptions": "keep_dims:bool",
        "StridedSliceOptions": (
            "begin_mask:i32 end_mask:i32 ellipsis_mask:i32 new_axis_mask:i32 shrink_axis_mask:i32 offset:bool"
        ),
        "TransposeConvOptions": (
            f"padding:Padding stride_w:i32 stride_h:i32 {_FUSED} quantized_bias_type:TensorType"
        ),
        "ResizeBilinearOptions": "- - align_corners:bool half_pixel_centers:bool",
        "ResizeNearestNeighborOptions": "align_corners:bool half_pixel_centers:bool",
        "MirrorPadOptions": "mode:MirrorPadMode",
        "SpaceToDepthOptions": "block_size:i32",
        "DepthToSpaceOptions": "block_size:i32",
        "LeakyReluOptions": "alpha:f32",
        "GeluOptions": "approximate:bool",
        "CastOptions": "in_data_type:TensorType out_data_type:TensorType",
        "ShapeOptions": "out_type:TensorType",
        "ArgMaxOptions": "output_type:TensorType",
        "ArgMinOptions": "output_type:TensorType",
        "GatherOptions": "axis:i32 batch_dims:i32",
        "PackOptions": "values_count:i32 axis:i32",
        "UnpackOptions": "num:i32 axis:i32",
        "SplitOptions": "num_splits:i32",
        "SplitVOptions": "num_splits:i32",
        "BatchMatMulOptions": "adj_x:bool adj_y:bool asymmetric_quantize_inputs:bool",
        "FakeQuantOptions": "min:f32 max:f32 num_bits:i32 narrow_range:bool",
        "CallOnceOptions": "init_subgraph_index:i32",
        "IfOptions": "then_subgraph_index:i32 else_subgraph_index:i32",
        "WhileOptions": "cond_subgraph_index:i32 body_subgraph_index:i32",
        **{f"{name}Options": "" for name in _WITHOUT_FIELDS.split()},
    }.items()
}
"""Fields of the option tables that are read."""


class Signature(NamedTuple):
    """What an operator must be given: its option table ('' = none) and how many tensors.

    ``required`` inputs must be present; further ones up to ``inputs`` may be −1 or missing.
    """

    options: str
    required: int
    inputs: int
    outputs: int = 1


MANY = 1 << 16

SIGNATURES: dict[str, Signature] = {
    "CONV_2D": Signature("Conv2DOptions", 2, 3),
    "DEPTHWISE_CONV_2D": Signature("DepthwiseConv2DOptions", 2, 3),
    "TRANSPOSE_CONV": Signature("TransposeConvOptions", 3, 4),
    "FULLY_CONNECTED": Signature("FullyConnectedOptions", 2, 3),
    "AVERAGE_POOL_2D": Signature("Pool2DOptions", 1, 1),
    "MAX_POOL_2D": Signature("Pool2DOptions", 1, 1),
    "L2_POOL_2D": Signature("Pool2DOptions", 1, 1),
    "SOFTMAX": Signature("SoftmaxOptions", 1, 1),
    "LOG_SOFTMAX": Signature("LogSoftmaxOptions", 1, 1),
    "LOGISTIC": Signature("", 1, 1),
    "TANH": Signature("", 1, 1),
    "RELU": Signature("", 1, 1),
    "RELU6": Signature("", 1, 1),
    "RELU_N1_TO_1": Signature("", 1, 1),
    "PRELU": Signature("", 2, 2),
    "LEAKY_RELU": Signature("LeakyReluOptions", 1, 1),
    "HARD_SWISH": Signature("HardSwishOptions", 1, 1),
    "GELU": Signature("GeluOptions", 1, 1),
    "EXP": Signature("ExpOptions", 1, 1),
    "ADD": Signature("AddOptions", 2, 2),
    "SUB": Signature("SubOptions", 2, 2),
    "MUL": Signature("MulOptions", 2, 2),
    "DIV": Signature("DivOptions", 2, 2),
    "MAXIMUM": Signature("MaximumMinimumOptions", 2, 2),
    "MINIMUM": Signature("MaximumMinimumOptions", 2, 2),
    "L2_NORMALIZATION": Signature("L2NormOptions", 1, 1),
    "MEAN": Signature("ReducerOptions", 2, 2),
    "SUM": Signature("ReducerOptions", 2, 2),
    "REDUCE_MAX": Signature("ReducerOptions", 2, 2),
    "REDUCE_MIN": Signature("ReducerOptions", 2, 2),
    "REDUCE_PROD": Signature("ReducerOptions", 2, 2),
    "PAD": Signature("PadOptions", 2, 2),
    "PADV2": Signature("PadV2Options", 3, 3),
    "MIRROR_PAD": Signature("MirrorPadOptions", 2, 2),
    "RESHAPE": Signature("ReshapeOptions", 1, 2),
    "SQUEEZE": Signature("SqueezeOptions", 1, 1),
    "EXPAND_DIMS": Signature("ExpandDimsOptions", 2, 2),
    "TRANSPOSE": Signature("TransposeOptions", 2, 2),
    "CONCATENATION": Signature("ConcatenationOptions", 1, MANY),
    "PACK": Signature("PackOptions", 1, MANY),
    "UNPACK": Signature("UnpackOptions", 1, 1, MANY),
    "SPLIT": Signature("SplitOptions", 2, 2, MANY),
    "SPLIT_V": Signature("SplitVOptions", 3, 3, MANY),
    "SLICE": Signature("SliceOptions", 3, 3),
    "STRIDED_SLICE": Signature("StridedSliceOptions", 4, 4),
    "GATHER": Signature("GatherOptions", 2, 2),
    "TILE": Signature("TileOptions", 2, 2),
    "SHAPE": Signature("ShapeOptions", 1, 1),
    "CAST": Signature("CastOptions", 1, 1),
    "ARG_MAX": Signature("ArgMaxOptions", 2, 2),
    "ARG_MIN": Signature("ArgMinOptions", 2, 2),
    "QUANTIZE": Signature("QuantizeOptions", 1, 1),
    "DEQUANTIZE": Signature("DequantizeOptions", 1, 1),
    "FAKE_QUANT": Signature("FakeQuantOptions", 1, 1),
    "SPACE_TO_BATCH_ND": Signature("SpaceToBatchNDOptions", 3, 3),
    "BATCH_TO_SPACE_ND": Signature("BatchToSpaceNDOptions", 3, 3),
    "SPACE_TO_DEPTH": Signature("SpaceToDepthOptions", 1, 1),
    "DEPTH_TO_SPACE": Signature("DepthToSpaceOptions", 1, 1),
    "RESIZE_BILINEAR": Signature("ResizeBilinearOptions", 2, 2),
    "RESIZE_NEAREST_NEIGHBOR": Signature("ResizeNearestNeighborOptions", 2, 2),
    "BATCH_MATMUL": Signature("BatchMatMulOptions", 2, 2),
    "CALL_ONCE": Signature("CallOnceOptions", 0, 0, 0),
    "IF": Signature("IfOptions", 1, MANY, MANY),
    "WHILE": Signature("WhileOptions", 0, MANY, MANY),
}

STRIDED = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"}
)
"""Operators that divide by their stride: their options must be in the file and at least 1."""

INTEGER_RANGES = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (2, 4, 8, 16, 32)},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (4, 8, 16, 32)},
}
"""Smallest and largest stored value of the quantised types."""

BITS = {
    "int2": 2,
    "int4": 4,
    "uint4": 4,
    "int8": 8,
    "uint8": 8,
    "int16": 16,
    "uint16": 16,
    "int32": 32,
    "uint32": 32,
    "int64": 64,
    "uint64": 64,
    "bool": 8,
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "float16": 16,
    "bfloat16": 16,
    "float32": 32,
    "float64": 64,
    "complex64": 64,
    "complex128": 128,
}
"""Bits of one stored element; types without a fixed size (string, resource, variant) are left out."""
