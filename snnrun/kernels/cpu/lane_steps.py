"""Steps of leaky integrate-and-fire neurons in lanes, whose spikes go to the rows of columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Times, part
from snnrun.compiled.masks import drop, either, every, exceeding, keep, load_masks, no_lane, not_above, store_masks
from snnrun.compiled.vector import multiply_add, splat
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.forward_loops import MARGIN


@part
def at_rest(like: Any) -> Any:
    """The state of lanes before the first step: membranes, currents, and who fired one and two steps ago."""
    return like, like, no_lane(like), no_lane(like)


@part
def advance(like: Any, state: Any, drive: Any, t: int, lif: LifConstants, columns: Times, places: Any) -> Any:
    """Advance lanes by step t with their input `drive`, in units of the membrane's rise; returns the state after it.

    The spikes go to the rows that begin at `places` of the columns. This is for the usual refractory period of two
    steps. Who fired stays in registers: through memory it would arrive too late, since the next step waits for it.
    """
    v, a, one_ago, two_ago = state
    a = multiply_add(a, splat(lif.decay_s, like), drive)
    v = drop(either(one_ago, two_ago), multiply_add(v, splat(lif.decay_m, like), a))
    fired = exceeding(v, splat(lif.threshold, like))
    store_masks(columns, places, t, fired)
    return v, a, fired, one_ago


@part
def advance_any(like: Any, state: Any, drive: Any, t: int, lif: LifConstants, columns: Times, places: Any) -> Any:
    """`advance` with any refractory period."""
    v, a, one_ago, two_ago = state
    a = multiply_add(a, splat(lif.decay_s, like), drive)
    v = multiply_add(v, splat(lif.decay_m, like), a)
    for lag in range(1, min(lif.t_ref, t) + 1):
        v = drop(load_masks(columns, places, t - lag, like), v)
    fired = exceeding(v, splat(lif.threshold, like))
    store_masks(columns, places, t, fired)
    return drop(fired, v), a, one_ago, two_ago  # without a refractory period no later step drops v


@part
def may_fire(like: Any, state: Any, lif: LifConstants) -> bool:
    """Whether any lane can reach the threshold without further input."""
    v, a, _, _ = state
    highest = keep(not_above(like, v), v) + keep(not_above(like, a), a) * splat(np.float32(1) / lif.rise, like)
    return not every(not_above(highest * splat(np.float32(MARGIN), like), splat(lif.threshold, like)))
