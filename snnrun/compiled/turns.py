"""How several threads share the items of one compiled loop: each takes the next free item, without a lock.

A loop that shares its items takes one after another:

    while True:
        item = take(turn)
        if item == NONE:
            return
        ...

Chance decides which thread gets an item, so the result must not depend on it. `threads.share` runs such loops.
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

# Places in a queue: the ticket and, below it, the next item; the number of items; the number of helpers that are away.
# Each has a cache line of its own (or a pair of lines that are fetched together).
NEXT, COUNT, AWAY = 0, 16, 32
PLACES = 48  # of a queue
TICKET, CLOSED = 32, 1 << 31  # the lowest bit of the ticket; the flag that closes a turn
ITEMS = CLOSED - 1


class Turn(NamedTuple):
    """Items 0 ... items - 1 of one call. Its `ticket` distinguishes it from others on the same `queue` (PLACES,).

    `urgent` is the queue that goes first: while it has items for helpers, `take` gives none of this turn.
    """

    queue: Counts
    items: int
    ticket: int
    urgent: Counts


# The `urgent` queue of a turn before which nothing goes.
NOTHING = np.zeros(PLACES, np.int64)


def alone(count: int) -> Turn:
    """The turn of a thread that shares with no other thread."""
    return Turn(np.zeros(PLACES, np.int64), count, 0, NOTHING)


@part
def wants_help(queue: Counts) -> bool:
    """Whether a thread has taken an item of the queue's turn and others are left."""
    seen: int = _read(queue, NEXT)
    return not seen & CLOSED and 0 < seen & ITEMS < queue[COUNT]


@jit
def has_items(queue: Counts, items: int) -> bool:
    """Whether the queue's turn, which has `items` items, has some left."""
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
    """Take an item only to show that a thread has begun."""
    take(turn)


@jit
def finish(turn: Turn) -> None:
    """Let no thread take another item, and wait until all helpers are back. Helpers need no interpreter for that."""
    while True:
        seen: int = _read(turn.queue, NEXT)
        if _swap_if(turn.queue, NEXT, seen, seen | CLOSED):
            break
    while _read(turn.queue, AWAY):
        _pass_on()


@jit
def watch(queue: Counts, ahead: Counts, known: int, found: int, patience: int) -> int:
    """Wait until there is something to help with. What the helper `found` the last time is over.

    Returns the ticket of a turn on `queue` that is newer than `known`, if a thread has taken an item of it and others
    are left. Otherwise returns AHEAD if `ahead` has a turn with items left, and NONE after `patience` looks. A helper
    that found something is away until it watches again.
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
    """Whether the queue has a newer turn than `known` that may still have items left."""
    seen = int(queue[NEXT])
    return seen >> TICKET > known and not seen & CLOSED


# ---- atomic operations on queue[place] ------------------------------------------------------------------------------


def _address(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])


@intrinsic  # type: ignore[untyped-decorator]
def _read(_: Any, queue: Any, place: Any) -> Any:  # noqa: ARG001
    """The value. What was written before it can be read after this too."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_address(context, builder, signature, args), "acquire", 8)

    return types.int64(queue, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _add(_: Any, queue: Any, place: Any, value: Any) -> Any:  # noqa: ARG001
    """Add to the value; returns the old value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _address(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(queue, types.intp, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _swap_if(_: Any, queue: Any, place: Any, old: Any, new: Any) -> Any:  # noqa: ARG001
    """Set the value to `new` if it is `old`; returns whether it was `old`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature, args)
        return builder.extract_value(builder.cmpxchg(address, *args[2:], "seq_cst", "seq_cst"), 1)

    return types.boolean(queue, types.intp, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _pass_on(_: Any) -> Any:
    """Let another thread that waits for this core have it."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), "sched_yield")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen
