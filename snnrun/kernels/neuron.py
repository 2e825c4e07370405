"""Parameters of the neuron models, recurrent synapses and windows over images, shared by every kernel backend."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# The authors compare with v_th - 1e-6 so that a membrane which reaches the threshold up to rounding fires, mV.
THRESHOLD_SLACK = 1e-6


@lru_cache
def slack_threshold(v_th: float, dtype: torch.dtype = torch.float32) -> float:
    """What a membrane of this type must exceed to fire at `v_th`, mV, in dense layers and pools.

    It is `THRESHOLD_SLACK` below the threshold, or the next lower number if that is lower. From 16 mV on, float32 may
    round v_th - 1e-6 to v_th itself, and then a membrane exactly at the threshold would not fire.
    """
    threshold = torch.tensor(v_th, dtype=dtype)
    return min(v_th - THRESHOLD_SLACK, torch.nextafter(threshold, torch.full_like(threshold, -math.inf)).item())


class Lif(NamedTuple):
    """Current-based leaky integrate-and-fire neuron of HM2-BP and ST-RSBP, first-order Euler at 1 ms.

    `tau_m`, `tau_s`: membrane and synaptic time constant, ms. `t_ref`: refractory period, ms. `v_th`: threshold, mV.
    """

    tau_m: float
    tau_s: float
    t_ref: int
    v_th: float

    @property
    def decay_m(self) -> float:
        """Share of the membrane potential that is left after one step."""
        return 1.0 - 1.0 / self.tau_m

    @property
    def decay_s(self) -> float:
        """Share of the synaptic current that is left after one step."""
        return 1.0 - 1.0 / self.tau_s


class Stbp(NamedTuple):
    """Iterative leaky integrate-and-fire neuron of STBP (Wu et al. 2018, eq. 3-8) and its surrogate derivative.

    `decay` is the paper's tau, the share of the membrane that a step without a spike keeps. `strict` fires only above
    `v_th` (the authors' code), not at it (eq. 7). `exponential_reset` keeps the paper's f(1) = tau exp(-1/tau) of the
    membrane after a spike (eq. 6); otherwise it is 0, the paper's approximation (eq. 8). `temporal_gradient=False`
    drops every term of the backward pass that comes from the next step (the ablation SDBP).
    """

    v_th: float
    decay: float
    surrogate: str = "rectangle"
    width: float = 1.0
    strict: bool = False
    exponential_reset: bool = False
    temporal_gradient: bool = True

    @property
    def bounded(self) -> bool:
        """Whether the surrogate derivative is 0 far from the threshold."""
        return self.surrogate in ("rectangle", "polynomial")

    @property
    def decay_after_spike(self) -> float:
        """f(1): the share of the membrane that survives a spike."""
        return self.decay * math.exp(-1.0 / self.decay) if self.exponential_reset else 0.0


class Alif(NamedTuple):
    """What each neuron of an adaptive layer of STBP has of its own, and how much it adapts; see `reference.alif`.

    `decay` (N,): the share of the membrane that a step without a spike keeps, in place of that of `Stbp`.
    `adaptation_decay` (N,): the share of the adaptation that a step leaves. `strength`: by how many thresholds the
    threshold of a neuron rises that fires in each step; 0 if none adapts.
    """

    decay: Tensor
    adaptation_decay: Tensor
    strength: float


class Srm(NamedTuple):
    """Spike response neuron of SLAYER (Shrestha & Orchard 2018), its kernels sampled at 1 ms.

    An input spike of weight 1 adds (t / tau_s) exp(1 - t / tau_s) to the membrane t ms later. A spike of the neuron
    itself adds -scale v_th times exp(-t / tau_r) (`exponential`) or (t / tau_r) exp(1 - t / tau_r) (`alpha`). The
    derivative of a spike by the membrane is rho(u) = height / (width v_th) exp(-|u - v_th| / (width v_th)).
    """

    v_th: float
    tau_s: float
    tau_r: float
    alpha: bool = False
    scale: float = 2.0
    height: float = 1.0
    width: float = 1.0

    @property
    def decay_s(self) -> float:
        """Share of a first-order filter of the response kernel that is left after one step."""
        return math.exp(-1.0 / self.tau_s)

    @property
    def decay_r(self) -> float:
        """The same for the refractory kernel."""
        return math.exp(-1.0 / self.tau_r)

    @property
    def rise(self) -> float:
        """e / tau_s: what the two cascaded filters, t decay_s^t, are multiplied by."""
        return math.e / self.tau_s

    @property
    def refractoriness(self) -> float:
        """What a spike of the neuron adds to the first filter of its refractory kernel, mV."""
        return -self.scale * self.v_th * (math.e / self.tau_r if self.alpha else 1.0)


class Wta(NamedTuple):
    """Integrate-and-fire neuron of a winner-take-all circuit (Lee, Delbruck & Pfeiffer 2016), at 1 ms.

    `tau_m`: membrane time constant, ms. `t_ref`: refractory period, ms, in which the input's weight grows as the square
    of the time since the last spike. `inhibition`: the share of its threshold by which a spike of each other neuron of
    the layer lowers a membrane; 0 in convolutions. The threshold is the neuron's own, see `reference.wta`.
    """

    tau_m: float
    t_ref: float
    inhibition: float = 0.0

    @property
    def decay(self) -> float:
        """Share of the membrane potential that is left after one step."""
        return math.exp(-1.0 / self.tau_m)


class Synapses(NamedTuple):
    """The existing synapses of a recurrent layer, sorted by pre-neuron and then by post-neuron, each pair once.

    `weight`: (S,), mV. `pre`, `post`: (S,) int64, the neurons that each comes from and goes to.
    """

    weight: Tensor
    pre: Tensor
    post: Tensor

    def dense(self, neurons: int) -> Tensor:
        """The weights as a matrix (N, N), to row from column; 0 where there is no synapse."""
        entries = self.weight.new_zeros(neurons * neurons)
        return entries.scatter_(0, self.post * neurons + self.pre, self.weight).view(neurons, neurons)


class Window(NamedTuple):
    """How a layer over images, a convolution or a pool, looks at its input: through a window that moves by `stride`.

    Neurons and inputs are numbered channel by channel, then row by row: (channel * rows + row) * columns + column.

    `channels`, `rows`, `columns`: of the input. `kernels`: output channels; a pool has as many as the input. `height`,
    `width`: of the window. `padding`: rows and columns without spikes on each side of the input. `pool`: the side of
    the squares over which the input is averaged before the window looks at it. The window does not see the rows and
    columns beyond the last whole square. Only STBP's convolutions have `pool` above 1.
    """

    channels: int
    rows: int
    columns: int
    kernels: int
    height: int
    width: int
    stride: int = 1
    padding: int = 0
    pool: int = 1

    @property
    def out_rows(self) -> int:
        """Rows of the output; below 1 if the window is larger than the image."""
        return (self.rows // self.pool + 2 * self.padding - self.height) // self.stride + 1

    @property
    def out_columns(self) -> int:
        """Columns of the output; below 1 if the window is larger than the image."""
        return (self.columns // self.pool + 2 * self.padding - self.width) // self.stride + 1

    @property
    def inputs(self) -> int:
        """Number of inputs, before any averaging."""
        return self.channels * self.rows * self.columns

    @property
    def neurons(self) -> int:
        """Number of neurons of the layer."""
        return self.kernels * self.out_rows * self.out_columns
