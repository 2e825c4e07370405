"""The backward pass of one layer by a spike-train-level rule: its data, and the sums over synapses that it needs.

A layer's time constants tau act through the S-PSP. With the spikes given, n ~ a / v_th and a = sum_j w_ij e_ij make

    dn_i/dtau = (1 / v_th) sum_j w_ij de_ij/dtau,    dE/dtau = sum_i delta_i / D_i sum_j w_ij de_ij/dtau

(recurrent synapses and the fixed inhibition among the outputs included), where delta_i / D_i is the gain of the weight
gradient, whatever the rule makes of it. e_ij is the sum over t of readout_i(t) s_j(t), so de_ij/dtau is the same sum
with the derivative of the readout, which is one more readout of the kernels (`kernels.reference.time`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from snnrun.kernels import Lif, Synapses, ops
from snnrun.rules.delays import Delayed
from snnrun.rules.views import Pool, View


class Loop(NamedTuple):
    """The recurrent synapses of a layer, and the S-PSP (B, S) of each."""

    synapses: Synapses
    e: Tensor


class Gradients(NamedTuple):
    """dE/dw or None, dE/dw_rec by synapse (S,) or None, and dE/dn of the layer below (B, I) or None.

    And dE/dD of the delays of the inputs (I,), or None. `taus` are dE/dtau_m and dE/dtau_s, (1,) each, or None.
    """

    weight: Tensor | None
    recurrent: Tensor | None
    counts_in: Tensor | None
    delay: Tensor | None = None
    taus: tuple[Tensor | None, Tensor | None] = (None, None)


class Pass(NamedTuple):
    """What the backward pass of one layer needs of its forward pass, and the error that came back.

    `spsp` names the rule that defines the S-PSP e_ij. `silent_ratio` replaces e_ij / n_j if either neuron is silent.
    `spikes_in` and `spikes` are bits (B, T, W); `counts_in` (B, I) and `counts` (B, N) are their counts. A layer that
    gets currents has their values as `spikes_in`, and 1 for those present as `counts_in`, see `base.Currents`. `delta`
    (B, N) is dE/dn / v_th (ST-RSBP eq. 5). `factor`, (B, N) or 1, multiplies the weight gradient only. `wants_error` is
    false if nothing below learns, `wants_weight` if the layer itself does not; `wants_taus` if its time constants do.
    `view` is what the neurons see. `fixed` are recurrent synapses that do not learn, the output layer's.
    `delays`: the inputs before their delays, where these are trained, else None; `spikes_in` has them delayed.
    """

    spsp: str
    silent_ratio: float
    lif: Lif
    view: View
    weight: Tensor
    spikes_in: Tensor
    counts_in: Tensor
    spikes: Tensor
    counts: Tensor
    delta: Tensor
    factor: Tensor | float = 1.0
    wants_error: bool = True
    wants_weight: bool = True
    loop: Loop | None = None
    wants_taus: bool = False
    fixed: Synapses | None = None
    delays: Delayed | None = None

    @property
    def wants_credit(self) -> bool:
        """Whether something learns from the credit of the neurons: what is below, or the delays."""
        return self.wants_error or self.delays is not None

    def activation(self) -> Tensor:
        """a_i = sum_j w_ij e_ij + sum_p w_ip e_ip (ST-RSBP eq. 1 and 2), (B, N)."""
        a = self.view.activation(self)
        if self.loop is not None:
            a = a.index_add(1, self.loop.synapses.post, self.loop.e * self.loop.synapses.weight)
        return a

    def theta(self, loop: Loop) -> Tensor:
        """Theta_lp = w_lp (1 / v_th) e_lp / n_p by recurrent synapse (ST-RSBP eq. 11), (B, S)."""
        return ops.coupling(loop.e, self.counts, loop.synapses, self.lif.v_th, self.silent_ratio)

    def gradients(self, gain: Tensor, credit: Tensor | None, gain_slope: Tensor | None = None) -> Gradients:
        """The gradients that a gain and a credit (B, N) of the neurons give.

        The sum over b of gain_i e_ij for each weight and each recurrent synapse, None in a layer that is not trained.
        With `gain_slope` (B, N) the gain is gain_i + gain_slope_i sum_j w_ij e_ij over the inputs j.
        With a credit, where it is wanted, also Phi^T credit, which is sum_i credit_i w_ij e_ij / n_j for each input;
        and the gradient of the delays.
        """
        delay = None if credit is None or self.delays is None else self._by_delay(self.delays, credit)
        if not self.wants_error:
            credit = None
        if not self.wants_weight:
            below = None if credit is None else self._by_count(self.view.backward(self, None, credit)[1], credit)
            return Gradients(None, None, below, delay)
        weight, weighted, whole = self.view.backward(self, gain, credit, gain_slope)
        if gain_slope is not None:
            gain = whole
        recurrent = None if self.loop is None else ops.recurrent_gradient(self.loop.e, gain, self.loop.synapses)
        below = None if credit is None else self._by_count(weighted, credit)
        return Gradients(weight, recurrent, below, delay, self.tau_gradients(gain) if self.wants_taus else (None, None))

    def tau_gradients(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """dE/dtau_m and dE/dtau_s of the layer, (1,) each: the sum of gain_i sum_j w_ij de_ij/dtau; see the module."""
        synapses = self.fixed if self.loop is None else self.loop.synapses
        found = []
        for name in ("tau_m", "tau_s"):
            slope = f"{self.spsp}_by_{name}"
            loop = None
            if synapses is not None:
                loop = Loop(synapses, ops.recurrent_spsp(slope, self.lif, self.spikes, synapses, gain.shape[1]))
            found.append((gain * self._replace(spsp=slope, loop=loop).activation()).sum().reshape(1))
        return found[0], found[1]

    def _by_delay(self, delays: Delayed, credit: Tensor) -> Tensor:
        """Sum over b and i of credit_i w_ij de_ij/dD_j, (I,), see `rules.delays`."""
        late, early = (
            self.view.backward(self._replace(spikes_in=delays.trains(more)), None, credit)[1] for more in (1, -1)
        )
        return 0.5 * (late - early).sum(dim=0)

    def _by_count(self, weighted: Tensor, credit: Tensor) -> Tensor:
        """sum_i credit_i w_ij e_ij / n_j, (B, I), from weighted = sum_i credit_i w_ij e_ij."""
        error = weighted / self.counts_in.clamp(min=1.0)
        if self.silent_ratio:
            silent_post = self.view.down(credit * (self.counts == 0), self.weight)
            silent_pair = torch.where(self.counts_in > 0, silent_post, self.view.down(credit, self.weight))
            error = error + self.silent_ratio * silent_pair
        return error

    def silent_gradient(self, gain: Tensor) -> Tensor:
        """For each weight, the sum of gain_i over the pairs of a silent post-neuron i and a pre-neuron that fires."""
        return self.view.outer(gain * (self.counts == 0), (self.counts_in > 0).to(gain.dtype), self.weight)

    def averaged_delta(self, pool: Pool) -> Tensor:
        """dE/dn of a spiking pool divided by the size of its window, as HM2-BP hands it back, (B, N)."""
        return self.delta * self.lif.v_th / (pool.window.height * pool.window.width)
