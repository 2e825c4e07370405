"""Vectors of 16, 32 or 64 floats inside Numba functions, one lane per neuron, and operations on the bits of spikes.

They are LLVM's own vector types. LLVM maps them to the registers of the processor (four of AVX-512's for 64 lanes),
keeps them there through a loop, and turns a comparison directly into the bits of a spike word. Numba's arrays would go
through memory for each operation. 48 lanes are kept as three vectors, since LLVM would make them one of 64.

A vector's width is part of its Numba type. Functions that take a vector of zeros, `like`, work at its width, and Numba
compiles them once for each width. Addresses are indices of floats in a flat array and are not checked. Each `intrinsic`
below gives Numba the type of a call and its LLVM instructions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

# LLVM may reorder and contract sums, but NaN and infinity keep their meaning.
FAST = ("reassoc", "contract", "arcp", "nsz")

# Lanes of a register.
GROUP = 16

# Lanes of a vector that is kept as three.
SPLIT = 48

_FLOAT, _INDEX = ir.FloatType(), ir.IntType(32)
_SPLIT = ir.LiteralStructType([ir.VectorType(_FLOAT, GROUP)] * (SPLIT // GROUP))


class Vector(types.Type):  # type: ignore[misc]
    """The Numba type of `lanes` float32."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32 x {lanes}")


@register_model(Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, _llvm(fe_type))


def _llvm(vector: Vector) -> Any:
    return _SPLIT if vector.lanes == SPLIT else ir.VectorType(_FLOAT, vector.lanes)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Vector) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _llvm(vector).as_pointer())


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INDEX, lanes), [0] * lanes))


def _mask(builder: Any, bits: Any, lanes: int) -> Any:
    lowest = bits if lanes == 64 else builder.trunc(bits, ir.IntType(lanes))
    return builder.bitcast(lowest, ir.VectorType(ir.IntType(1), lanes))


def groups_of(builder: Any, vector: Any) -> list[Any]:
    """The lanes of a vector in groups."""
    if vector.type == _SPLIT:
        return [builder.extract_value(vector, number) for number in range(SPLIT // GROUP)]
    kind, undefined = ir.VectorType(_INDEX, GROUP), ir.Constant(vector.type, ir.Undefined)
    starts = range(0, vector.type.count, GROUP)
    return [
        builder.shuffle_vector(vector, undefined, ir.Constant(kind, [*range(start, start + GROUP)])) for start in starts
    ]


def joined(builder: Any, groups: list[Any]) -> Any:
    """The vector of these groups."""
    if len(groups) * GROUP == SPLIT:
        vector = ir.Constant(_SPLIT, ir.Undefined)
        for number, group in enumerate(groups):
            vector = builder.insert_value(vector, group, number)
        return vector
    while len(groups) > 1:
        indices = ir.Constant(ir.VectorType(_INDEX, 2 * groups[0].type.count), [*range(2 * groups[0].type.count)])
        groups = [builder.shuffle_vector(*pair, indices) for pair in zip(groups[::2], groups[1::2], strict=True)]
    return groups[0]


def _constant(lanes: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def zeros(_: Any) -> Any:
        vector = Vector(lanes)

        def codegen(_context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
            return ir.Constant(_llvm(vector), None)

        return vector(), codegen

    return zeros


zeros16, zeros32, zeros48, zeros64 = (_constant(lanes) for lanes in (16, 32, 48, 64))


@intrinsic  # type: ignore[untyped-decorator]
def lanes(_: Any, like: Any) -> Any:
    """Number of lanes of a vector, a constant."""

    def codegen(_context: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return ir.Constant(ir.IntType(64), like.lanes)

    return types.int64(like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load(_: Any, array: Any, index: Any, like: Any) -> Any:  # noqa: ARG001
    """The lanes that begin at array[index]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], like)
        if like.lanes != SPLIT:
            return builder.load(address, align=4)
        places = [builder.gep(address, [_INDEX(0), _INDEX(number)]) for number in range(SPLIT // GROUP)]
        return joined(builder, [builder.load(place, align=4) for place in places])

    return like(array, types.intp, like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store(_: Any, array: Any, index: Any, vector: Any) -> Any:  # noqa: ARG001
    """Write the lanes to the array, from array[index] on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1], vector)
        builder.store(args[2], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic  # type: ignore[untyped-decorator]
def expand(_: Any, array: Any, index: Any, bits: Any, like: Any) -> Any:  # noqa: ARG001
    """The floats from array[index] on, in their order, in the lanes whose bit is set; 0 in the others."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes, vector = like.lanes, _llvm(like)
        first = builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])
        mask = _mask(builder, args[2], lanes)
        kind = ir.FunctionType(vector, [_FLOAT.as_pointer(), mask.type, vector])
        expanding = builder.module.declare_intrinsic(f"llvm.masked.expandload.v{lanes}f32", (), kind)
        return builder.call(expanding, [first, mask, ir.Constant(vector, [0.0] * lanes)])

    return like(array, types.intp, types.uint64, like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_some(_: Any, array: Any, index: Any, bits: Any, like: Any) -> Any:  # noqa: ARG001
    """`load` of the lanes whose bit is set, 0 in the others. What lies in the place of those is not read."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes, vector = like.lanes, _llvm(like)
        address, mask = (
            _address(context, builder, signature.args[0], args[0], args[1], like),
            _mask(builder, args[2], lanes),
        )
        kind = ir.FunctionType(vector, [vector.as_pointer(), _INDEX, mask.type, vector])
        loading = builder.module.declare_intrinsic(f"llvm.masked.load.v{lanes}f32.p0", (), kind)
        return builder.call(loading, [address, ir.Constant(_INDEX, 4), mask, ir.Constant(vector, [0.0] * lanes)])

    return like(array, types.intp, types.uint64, like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_some(_: Any, array: Any, index: Any, bits: Any, vector: Any) -> Any:  # noqa: ARG001
    """`store` of the lanes whose bit is set. What lies in the place of the others is not written."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes, value = vector.lanes, args[3]
        address = _address(context, builder, signature.args[0], args[0], args[1], vector)
        mask = _mask(builder, args[2], lanes)
        kind = ir.FunctionType(ir.VoidType(), [value.type, address.type, _INDEX, mask.type])
        storing = builder.module.declare_intrinsic(f"llvm.masked.store.v{lanes}f32.p0", (), kind)
        builder.call(storing, [value, address, ir.Constant(_INDEX, 4), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64, vector), codegen


@intrinsic  # type: ignore[untyped-decorator]
def turn_square(_: Any, rows: Any, index: Any, stride: Any, out: Any, place: Any, out_stride: Any) -> Any:  # noqa: ARG001
    """Write 16 x 16 floats with rows and columns exchanged.

    Row r is at rows[index + r * stride], column c goes to out[place + c * out_stride], 16 floats each.
    """
    vector = Vector(16)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def at(argument: int, number: int) -> Any:
            steps = builder.mul(args[argument + 2], ir.Constant(args[argument + 2].type, number))
            place = builder.add(args[argument + 1], steps)
            return _address(context, builder, signature.args[argument], args[argument], place, vector)

        square = [builder.load(at(0, number), align=4) for number in range(16)]
        for far in (8, 4, 2, 1):  # exchange the two blocks of `far` rows and lanes beside the diagonal
            upper = [lane if not lane & far else lane - far + 16 for lane in range(16)]
            lower = [lane + far if not lane & far else lane + 16 for lane in range(16)]
            for number in (number for number in range(16) if not number & far):
                pair = square[number], square[number + far]
                for target, order in ((number, upper), (number + far, lower)):
                    square[target] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_INDEX, 16), order))
        for number, column in enumerate(square):
            builder.store(column, at(3, number), align=4)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, out, types.intp, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def splat(_: Any, value: Any, like: Any) -> Any:  # noqa: ARG001
    """`value` in every lane."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        if like.lanes != SPLIT:
            return _splat(builder, args[0], like.lanes)
        return joined(builder, [_splat(builder, args[0], GROUP)] * (SPLIT // GROUP))

    return like(types.float32, like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def multiply_add(_: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """a * b + c, where c is complete first.

    LLVM would add the parts of a sum c one after the other to a * b. Who waits for a would wait for each.
    """

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        split = a.lanes == SPLIT
        parts = [*zip(*(groups_of(builder, vector) for vector in args), strict=True)] if split else [tuple(args)]
        name, kind = f"llvm.fma.v{GROUP if split else a.lanes}f32", parts[0][0].type
        fma = builder.module.declare_intrinsic(name, (), ir.FunctionType(kind, [kind] * 3))
        done = [builder.call(fma, part) for part in parts]
        return joined(builder, done) if split else done[0]

    return a(a, a, a), codegen


@intrinsic  # type: ignore[untyped-decorator]
def side_by_side(_: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """Three vectors of 16 lanes as one of 48."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return joined(builder, args)

    return Vector(SPLIT)(a, a, a), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_one(_: Any, array: Any, index: Any, like: Any) -> Any:  # noqa: ARG001
    """array[index] in every lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _splat(builder, builder.load(builder.gep(data, [args[1]])), like.lanes)

    return like(array, types.intp, like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def above(_: Any, a: Any, b: Any) -> Any:
    """Bits of the lanes in which a > b, lane 0 lowest, uint64."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        bits = builder.bitcast(builder.fcmp_ordered(">", *args), ir.IntType(a.lanes))
        return bits if a.lanes == 64 else builder.zext(bits, ir.IntType(64))

    return types.uint64(a, b), codegen


@intrinsic  # type: ignore[untyped-decorator]
def choose(_: Any, bits: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """a in the lanes whose bit is set, b in the others."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.select(_mask(builder, args[0], a.lanes), args[1], args[2])

    return a(types.uint64, a, b), codegen


@intrinsic  # type: ignore[untyped-decorator]
def total(_: Any, a: Any) -> Any:
    """Sum of the lanes."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _llvm(a)])
        reduce = builder.module.declare_intrinsic(f"llvm.vector.reduce.fadd.v{a.lanes}f32", (), kind)
        return builder.call(reduce, [ir.Constant(_FLOAT, -0.0), args[0]], fastmath=FAST)

    return types.float32(a), codegen


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(_: Any, word: Any) -> Any:  # noqa: ARG001
    """Place of the lowest bit that is set in a word, int64; 64 if no bit is set."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def count_bits(_: Any, word: Any) -> Any:  # noqa: ARG001
    """Number of bits that are set in a word, int64."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def transpose_bits(_: Any, words: Any, index: Any) -> Any:  # noqa: ARG001
    """Transpose the 64 x 64 bits of words[index] ... words[index + 63] in place."""
    word, byte = ir.IntType(64), ir.IntType(8)
    row, column = ir.VectorType(word, 64), ir.VectorType(byte, 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        first = builder.gep(data, [args[1]])
        block = builder.load(builder.bitcast(first, row.as_pointer()), align=8)
        zeros = ir.Constant(column, [0] * 64)
        for number in range(8):  # one byte of every word at a time; each of its bits is one comparison
            octets = builder.trunc(builder.lshr(block, ir.Constant(row, [8 * number] * 64)), column)
            for bit in range(8):
                set_ = builder.icmp_unsigned("!=", builder.and_(octets, ir.Constant(column, [1 << bit] * 64)), zeros)
                place = builder.gep(first, [ir.Constant(word, 8 * number + bit)])
                builder.store(builder.bitcast(set_, word), place, align=8)
        return context.get_dummy_value()

    return types.void(words, types.intp), codegen


def _arithmetic(function: Callable[..., Any], instruction: str) -> None:
    @intrinsic  # type: ignore[untyped-decorator]
    def compute(_: Any, a: Any, b: Any) -> Any:
        def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            if a.lanes != SPLIT:
                return getattr(builder, instruction)(*args, flags=FAST)
            pairs = zip(*(groups_of(builder, vector) for vector in args), strict=True)
            return joined(builder, [getattr(builder, instruction)(*pair, flags=FAST) for pair in pairs])

        return a(a, b), codegen

    @overload(function)
    def operate(a, b):  # type: ignore[no-untyped-def] # Numba compares this signature with the lambda's
        if isinstance(a, Vector) and a == b:
            return lambda a, b: compute(a, b)
        return None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
