"""Masks inside Numba functions: a bit for each lane of a vector, kept in the processor's registers for masks.

As the bits of a word (`vector.above`) they would be put together and taken apart again, and a loop that needs them in
its next step would wait. In memory a mask is a number of 16 bits for each group of 16 lanes,
or a quarter of a word of spikes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from snnrun.compiled.vector import GROUP, groups_of, joined

_GROUP = ir.VectorType(ir.IntType(1), GROUP)


class Mask(types.Type):  # type: ignore[misc]
    """The Numba type of a bit for each lane of a vector, in groups of 16 as the processor keeps them."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"bit x {lanes}")


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Mask) -> None:
        super().__init__(dmm, fe_type, ir.LiteralStructType([_GROUP] * (fe_type.lanes // GROUP)))


def _mask(builder: Any, groups: list[Any]) -> Any:
    value = ir.Constant(ir.LiteralStructType([_GROUP] * len(groups)), ir.Undefined)
    for number, group in enumerate(groups):
        value = builder.insert_value(value, group, number)
    return value


def _places(context: Any, builder: Any, array_type: Any, args: Any) -> list[Any]:
    """Where the groups of `load_masks` are."""
    data = context.make_array(array_type)(context, builder, args[0]).data
    starts = (builder.extract_value(args[1], number) for number in range(args[1].type.count))
    return [builder.gep(data, [builder.add(start, args[2])]) for start in starts]


def _quarter(context: Any, builder: Any, array_type: Any, args: Any, number: int) -> Any:
    """Where group args[1] + number of an array of words is; the processors in question store low bits first."""
    data = context.make_array(array_type)(context, builder, args[0]).data
    groups = builder.bitcast(data, ir.IntType(GROUP).as_pointer())
    return builder.gep(groups, [builder.add(args[1], ir.Constant(args[1].type, number))])


@intrinsic  # type: ignore[untyped-decorator]
def no_lane(_: Any, like: Any) -> Any:
    """The mask of no lane."""
    groups = like.lanes // GROUP

    def codegen(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        return _mask(builder, [ir.Constant(_GROUP, [0] * GROUP)] * groups)

    return Mask(like.lanes)(like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def not_above(_: Any, a: Any, b: Any) -> Any:
    """The mask of the lanes in which a > b does not hold."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pairs = zip(*(groups_of(builder, vector) for vector in args), strict=True)
        return _mask(builder, [builder.fcmp_unordered("<=", *pair) for pair in pairs])

    return Mask(a.lanes)(a, b), codegen


@intrinsic  # type: ignore[untyped-decorator]
def exceeding(_: Any, a: Any, b: Any) -> Any:
    """The mask of the lanes in which a > b."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pairs = zip(*(groups_of(builder, vector) for vector in args), strict=True)
        return _mask(builder, [builder.fcmp_ordered(">", *pair) for pair in pairs])

    return Mask(a.lanes)(a, b), codegen


@intrinsic  # type: ignore[untyped-decorator]
def either(_: Any, a: Any, b: Any) -> Any:
    """The mask of the lanes that are in a or in b."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        groups = range(a.lanes // GROUP)
        return _mask(builder, [builder.or_(*(builder.extract_value(mask, k) for mask in args)) for k in groups])

    return a(a, b), codegen


@intrinsic  # type: ignore[untyped-decorator]
def both(_: Any, a: Any, b: Any) -> Any:
    """The mask of the lanes that are in a and in b."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        groups = range(a.lanes // GROUP)
        return _mask(builder, [builder.and_(*(builder.extract_value(mask, k) for mask in args)) for k in groups])

    return a(a, b), codegen


def _in_lanes(mask: Any, a: Any, inside: bool) -> Any:
    """`keep`, or `drop` if not `inside`."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        zeros, chosen = ir.Constant(ir.VectorType(ir.FloatType(), GROUP), [0.0] * GROUP), []
        for number, group in enumerate(groups_of(builder, args[1])):
            pair = (group, zeros) if inside else (zeros, group)
            chosen.append(builder.select(builder.extract_value(args[0], number), *pair))
        return joined(builder, chosen)

    return a(mask, a), codegen


@intrinsic  # type: ignore[untyped-decorator]
def keep(_: Any, mask: Any, a: Any) -> Any:
    """a in the lanes of the mask, 0 in the others."""
    return _in_lanes(mask, a, inside=True)


@intrinsic  # type: ignore[untyped-decorator]
def drop(_: Any, mask: Any, a: Any) -> Any:
    """0 in the lanes of the mask, a in the others."""
    return _in_lanes(mask, a, inside=False)


@intrinsic  # type: ignore[untyped-decorator]
def every(_: Any, mask: Any) -> Any:
    """Whether a mask has all lanes."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        common = builder.extract_value(args[0], 0)
        for number in range(1, mask.lanes // GROUP):
            common = builder.and_(common, builder.extract_value(args[0], number))
        kind = ir.IntType(GROUP)
        return builder.icmp_unsigned("==", builder.bitcast(common, kind), ir.Constant(kind, 2**GROUP - 1))

    return types.boolean(mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_masks(_: Any, array: Any, places: Any, shift: Any, like: Any) -> Any:  # noqa: ARG001
    """The mask whose groups are at places[0] + shift, places[1] + shift ... of a flat array of 16-bit numbers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = [builder.load(at, align=2) for at in _places(context, builder, signature.args[0], args)]
        return _mask(builder, [builder.bitcast(group, _GROUP) for group in bits])

    return Mask(like.lanes)(array, types.UniTuple(types.intp, like.lanes // GROUP), types.intp, like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_masks(_: Any, array: Any, places: Any, shift: Any, mask: Any) -> Any:  # noqa: ARG001
    """Write a mask to where `load_masks` finds it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for number, at in enumerate(_places(context, builder, signature.args[0], args)):
            group = builder.extract_value(args[3], number)
            builder.store(builder.bitcast(group, ir.IntType(GROUP)), at, align=2)
        return context.get_dummy_value()

    return types.void(array, types.UniTuple(types.intp, mask.lanes // GROUP), types.intp, mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def load_bits(_: Any, words: Any, group: Any, like: Any) -> Any:  # noqa: ARG001
    """The mask whose bits begin at a group of an array of words, which are four groups each."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = range(like.lanes // GROUP)
        places = [_quarter(context, builder, signature.args[0], args, number) for number in numbers]
        return _mask(builder, [builder.bitcast(builder.load(at, align=2), _GROUP) for at in places])

    return Mask(like.lanes)(words, types.intp, like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_bits(_: Any, words: Any, group: Any, mask: Any) -> Any:  # noqa: ARG001
    """Write a mask to where `load_bits` finds it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for number in range(mask.lanes // GROUP):
            bits = builder.bitcast(builder.extract_value(args[2], number), ir.IntType(GROUP))
            builder.store(bits, _quarter(context, builder, signature.args[0], args, number), align=2)
        return context.get_dummy_value()

    return types.void(words, types.intp, mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def lane_bits(_: Any, array: Any, index: Any, lane: Any) -> Any:  # noqa: ARG001
    """Bit `lane` of the 64 numbers of 16 bits from array[index] on, uint64."""
    number = ir.IntType(GROUP)
    block = ir.VectorType(number, 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        masks = builder.load(builder.bitcast(builder.gep(data, [args[1]]), block.as_pointer()), align=2)
        bit = builder.shl(ir.Constant(number, 1), builder.trunc(args[2], number))
        first = builder.insert_element(ir.Constant(block, ir.Undefined), bit, ir.Constant(ir.IntType(32), 0))
        order = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        wanted = builder.and_(masks, builder.shuffle_vector(first, ir.Constant(block, ir.Undefined), order))
        return builder.bitcast(builder.icmp_unsigned("!=", wanted, ir.Constant(block, [0] * 64)), ir.IntType(64))

    return types.uint64(array, types.intp, types.intp), codegen
