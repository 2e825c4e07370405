"""How several threads take the items of one compiled loop in turn: each the next that is free, without a lock.

A loop that shares its items asks for one after another:

    while True:
        item = take(turn)
        if item == NONE:
            return
        ...

Which thread gets an item is chance, so what a loop does for it must not depend on that. `threads.share` runs loops so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from snnrun.compiled.jit import Counts, jit, part

NONE, AHEAD = -1, -2

# Places of a queue of items, in cache lines (or pairs of lines that are fetched together) of their own: the ticket and,
# below it, the next item; how many items there are; how many helpers have been called and are not back.
NEXT, COUNT, AWAY = 0, 16, 32
PLACES = 48  # of a queue
TICKET, CLOSED = 32, 1 << 31  # bits of the ticket begin at; what closes a turn
ITEMS = CLOSED - 1


class Turn(NamedTuple):
    """Items 0 ... items - 1 of one call, which its `ticket` tells from others on the same `queue` (PLACES,).

    `urgent` is the queue of what goes first: while it has items for helpers, there is none here.
    """

    queue: Counts
    items: int
    ticket: int
    urgent: Counts


# The queue of a turn that nothing goes before.
NOTHING = np.zeros(PLACES, np.int64)


def alone(count: int) -> Turn:
    """The turn of a thread that shares with no other."""
    return Turn(np.zeros(PLACES, np.int64), count, 0, NOTHING)


@part
def wants_help(queue: Counts) -> bool:
    """Whether somebody has taken an item of the queue's turn and others are left."""
    seen: int = _read(queue, NEXT)
    return not seen & CLOSED and 0 < seen & ITEMS < queue[COUNT]


@jit
def has_items(queue: Counts, items: int) -> bool:
    """Whether the queue's turn, of so many items, has some left."""
    seen: int = _read(queue, NEXT)
    return not seen & CLOSED and seen & ITEMS < items


@part
def take(turn: Turn) -> int:
    """The next item, or NONE."""
    while True:
        if wants_help(turn.urgent):
            return NONE
        seen: int = _read(turn.queue, NEXT)
        item = seen & ITEMS
        if seen >> TICKET != turn.ticket or seen & CLOSED or item >= turn.items:
            return NONE
        if _swap_if(turn.queue, NEXT, seen, seen + 1):
            return item


@jit
def enter(turn: Turn) -> None:
    """Take an item that stands for no more than that somebody has begun."""
    take(turn)


@jit
def finish(turn: Turn) -> None:
    """Let nobody take an item any more, and wait until all helpers are back: they need the interpreter no more."""
    while True:
        seen: int = _read(turn.queue, NEXT)
        if _swap_if(turn.queue, NEXT, seen, seen | CLOSED):
            break
    while _read(turn.queue, AWAY):
        _pass_on()


@jit
def watch(queue: Counts, ahead: Counts, known: int, found: int, patience: int) -> int:
    """Wait until there is something to help with: what a helper found the last time is over.

    Returns the ticket of a turn on `queue`, newer than `known`, of which somebody has taken an item and others are
    left; otherwise AHEAD if `ahead` has a turn with items left; NONE after so many looks. A helper that found something
    is away until it watches again.
    """
    if found != NONE:
        _add(ahead if found == AHEAD else queue, AWAY, -1)
    for _ in range(patience):
        ticket: int = _read(queue, NEXT) >> TICKET
        if ticket > known and wants_help(queue):
            _add(queue, AWAY, 1)
            return ticket
        if has_items(ahead, ahead[COUNT]):
            _add(ahead, AWAY, 1)
            return AHEAD
        _pass_on()
    return NONE


def is_open(queue: Counts, known: int) -> bool:
    """Whether the queue has a newer turn than `known` that may yet have items left."""
    seen = int(queue[NEXT])
    return seen >> TICKET > known and not seen & CLOSED


# ---- atomic operations on queue[place] ------------------------------------------------------------------------------


def _address(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])


@intrinsic  # type: ignore[untyped-decorator]
def _read(_: Any, queue: Any, place: Any) -> Any:  # noqa: ARG001
    """The value, and with it all that was written before it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_address(context, builder, signature, args), "acquire", 8)

    return types.int64(queue, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _add(_: Any, queue: Any, place: Any, value: Any) -> Any:  # noqa: ARG001
    """Add to the value; returns what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _address(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(queue, types.intp, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _swap_if(_: Any, queue: Any, place: Any, old: Any, new: Any) -> Any:  # noqa: ARG001
    """Set the value to `new` if it is `old`; returns whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature, args)
        return builder.extract_value(builder.cmpxchg(address, *args[2:], "seq_cst", "seq_cst"), 1)

    return types.boolean(queue, types.intp, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _pass_on(_: Any) -> Any:
    """Let whoever else waits for this core have it."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), "sched_yield")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen
