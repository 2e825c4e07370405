"""Masks inside Numba functions: a bit for each lane of a vector, kept in the processor's registers for masks.

As the bits of a word (`vector.above`) they would be put together and taken apart again, and a loop that needs them in
its next step would wait. In memory a mask is bits all the same: groups of 16, of which a word has four.
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


def _group_at(context: Any, builder: Any, array_type: Any, array: Any, index: Any, number: int) -> Any:
    """Where group `index` + `number` of the words of an array is; the processors in question store low bits first."""
    data = context.make_array(array_type)(context, builder, array).data
    groups = builder.bitcast(data, ir.IntType(GROUP).as_pointer())
    return builder.gep(groups, [builder.add(index, ir.Constant(index.type, number))])


@intrinsic  # type: ignore[untyped-decorator]
def every_lane(_: Any, like: Any) -> Any:
    """The mask of all lanes."""
    groups = like.lanes // GROUP

    def codegen(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        return _mask(builder, [ir.Constant(_GROUP, [1] * GROUP)] * groups)

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
def load_mask(_: Any, words: Any, index: Any, like: Any) -> Any:  # noqa: ARG001
    """The mask whose bits begin at group `index` of an array of words, which are four groups each."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = [
            builder.load(_group_at(context, builder, signature.args[0], args[0], args[1], number), align=2)
            for number in range(like.lanes // GROUP)
        ]
        return _mask(builder, [builder.bitcast(group, _GROUP) for group in bits])

    return Mask(like.lanes)(words, types.intp, like), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_mask(_: Any, words: Any, index: Any, mask: Any) -> Any:  # noqa: ARG001
    """Write a mask as bits to an array of words, from group `index` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for number in range(mask.lanes // GROUP):
            bits = builder.bitcast(builder.extract_value(args[2], number), ir.IntType(GROUP))
            builder.store(bits, _group_at(context, builder, signature.args[0], args[0], args[1], number), align=2)
        return context.get_dummy_value()

    return types.void(words, types.intp, mask), codegen
