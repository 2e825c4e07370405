"""The constants of neurons and rules by name, in the types that the loops compute with."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats
from snnrun.kernels import reference
from snnrun.kernels.neuron import Lif, Srm, Stbp, Wta, slack_threshold

NO_FLOATS = np.zeros(0, np.float32)
# The readouts: of the two rules, and their derivatives by a time constant.
READOUTS = ("strsbp", "hm2bp", "strsbp_by_tau_m", "strsbp_by_tau_s", "hm2bp_by_tau_m", "hm2bp_by_tau_s")
STRSBP, HM2BP, STRSBP_BY_TAU_M, STRSBP_BY_TAU_S, HM2BP_BY_TAU_M, HM2BP_BY_TAU_S = range(6)
# How a surrogate derivative is computed: in the loop, or beforehand for every step and neuron (GIVEN).
RECTANGLE, POLYNOMIAL, GIVEN = 0, 1, 2


class LifConstants(NamedTuple):
    """A `Lif`: both decays, `rise` = 1 / tau_s, the threshold (less the slack, if there is one), refractory steps."""

    decay_m: np.float32
    decay_s: np.float32
    rise: np.float32
    threshold: np.float32
    t_ref: int


class Hm2BpConstants(NamedTuple):
    """HM2-BP's kernel h, see `readout_loops.hm2bp_readout`.

    `window` in whole steps; the decays of x_m and x_s; the values of h, x_m and x_s one step before a spike; the gain
    of h from x_s; x_m at the end of the window; `kernel` (2 T + 1,), h by the distance to the next spike. A derivative
    has that of h there; by tau_s, `aged` has h itself. `falls` (T,) are the powers of `decay_s`.
    """

    window: int
    decay_m: np.float32
    decay_s: np.float32
    start: np.float32
    start_m: np.float32
    start_s: np.float32
    gain: np.float32
    end: np.float32
    kernel: Floats
    aged: Floats
    falls: Floats


class RuleConstants(NamedTuple):
    """What a readout needs of its `number` in READOUTS, and of the neuron."""

    number: int
    lif: LifConstants
    hm2bp: Hm2BpConstants


class StbpConstants(NamedTuple):
    """A `Stbp`: `decays` (2,) without and with a spike in the step before, and `slopes` (2,) of the decay by the spike.

    `surrogate`: RECTANGLE, POLYNOMIAL or GIVEN; `height` and `reach` belong to the first two.
    """

    v_th: np.float32
    decays: Floats
    strict: bool
    slopes: Floats
    surrogate: int
    height: np.float32
    reach: np.float32
    temporal: bool


class SrmConstants(NamedTuple):
    """A `Srm`. `height` is `rise` times rho at the threshold; rho falls by e within 1 / `steepness`."""

    v_th: np.float32
    decay_s: np.float32
    decay_r: np.float32
    rise: np.float32
    refractoriness: np.float32
    height: np.float32
    steepness: np.float32
    alpha: bool


class WtaConstants(NamedTuple):
    """A `Wta`. `refractory`: whether there is a refractory period that a step can see; `per_t_ref` is 1 / t_ref."""

    decay: np.float32
    per_t_ref: np.float32
    inhibition: np.float32
    refractory: bool


@lru_cache
def lif_constants(lif: Lif, slack: bool = True) -> LifConstants:
    """The constants of a neuron, with or without the `slack` of its threshold."""
    threshold = slack_threshold(lif.v_th) if slack else lif.v_th
    return LifConstants._make([*_singles(lif.decay_m, lif.decay_s, 1.0 / lif.tau_s, threshold), int(lif.t_ref)])


@lru_cache
def rule_constants(rule: str, lif: Lif, steps: int) -> RuleConstants:
    """The constants of a readout over so many steps."""
    number, (name, _, by) = READOUTS.index(rule), rule.partition("_by_")
    if name == "strsbp":
        nothing = Hm2BpConstants._make([0, *_singles(*[0.0] * 7), *[NO_FLOATS] * 3])
        return RuleConstants(number, lif_constants(lif), nothing)
    kernel, window, decay_s = reference.hm2bp_kernel(steps, lif)
    reach, decay_m = math.ceil(window), math.exp(-1.0 / lif.tau_m)
    values = _singles(
        *(decay_m, decay_s, kernel[1].item()),
        *(math.exp((lif.t_ref - 1) / lif.tau_m), math.exp((lif.t_ref - 1) / lif.tau_s)),
        *((decay_m - decay_s) / (1.0 - lif.tau_s / lif.tau_m), math.exp((lif.t_ref - reach - 0.5) / lif.tau_m)),
    )
    own = reference.hm2bp_kernel_slope(steps, lif, by) if by else kernel
    aged = kernel.float().numpy() if by == "tau_s" else NO_FLOATS
    falls = np.power(decay_s, np.arange(steps)).astype(np.float32)
    arrays = own.float().numpy(), aged, falls
    return RuleConstants(number, lif_constants(lif), Hm2BpConstants._make([reach, *values, *arrays]))


@lru_cache
def stbp_constants(neuron: Stbp) -> StbpConstants:
    """The constants of a neuron of STBP."""
    a = neuron.width
    forms = {"rectangle": (RECTANGLE, 1 / a, a / 2), "polynomial": (POLYNOMIAL, a / 4, 2 / math.sqrt(a))}
    surrogate, height, reach = forms.get(neuron.surrogate, (GIVEN, 0.0, 0.0))
    slopes = (-1.0, -math.exp(-1.0 / neuron.decay)) if neuron.exponential_reset else (-neuron.decay,) * 2
    return StbpConstants(
        v_th=np.float32(neuron.v_th),
        decays=np.array((neuron.decay, neuron.decay_after_spike), np.float32),
        strict=neuron.strict,
        slopes=np.array(slopes, np.float32),
        surrogate=surrogate,
        height=np.float32(height),
        reach=np.float32(reach),
        temporal=neuron.temporal_gradient,
    )


@lru_cache
def srm_constants(neuron: Srm) -> SrmConstants:
    """The constants of a spike response neuron."""
    reach = neuron.width * neuron.v_th
    values = (
        *(neuron.v_th, neuron.decay_s, neuron.decay_r, neuron.rise, neuron.refractoriness),
        *(neuron.rise * neuron.height / reach, 1.0 / reach),
    )
    return SrmConstants._make([*_singles(*values), neuron.alpha])


@lru_cache
def wta_constants(neuron: Wta) -> WtaConstants:
    """The constants of a neuron of a winner-take-all circuit. A period of at most a step is over in the next."""
    refractory = neuron.t_ref > 1
    per_t_ref = 1.0 / neuron.t_ref if refractory else 1.0
    return WtaConstants._make([*_singles(neuron.decay, per_t_ref, neuron.inhibition), refractory])


def _singles(*values: float) -> list[np.float32]:
    return [np.float32(value) for value in values]
