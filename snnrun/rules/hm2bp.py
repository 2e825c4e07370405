"""HM2-BP: hybrid macro/micro level backpropagation (Jin, Zhang & Li, NeurIPS 2018), extended to recurrent layers.

    delta_i = dE/dn_i / v_th
    error below: dE/dn_j = sum_i delta_i w_ij e_ij / n_j
    dE/dw_ij = delta_i e_ij (1 + sigma_i),   sigma_i = (1 / v_th) sum_j w_ij e_ij / n_i

with e_ij in closed form (`kernels.reference.time.hm2bp_readout`). 1 + sigma_i is the first-order expansion of
1 / (1 - sigma_i), the effect of the post-neuron's own count on e_ij. This sample gives the estimate, not a table.

The original does not train recurrent layers. They follow by the same first-order expansion. With Theta_lp =
w_lp (e_lp / n_p) / v_th the exact adjoint of the loop is (1 - Theta^T)^-1 delta. This module computes

    lambda = delta + Theta^T delta,   error below: sum_i lambda_i w_ij e_ij / n_j,

one turn of credit around the loop. sigma_i sums over the recurrent synapses too. Their gradient is
delta_i e_ip (1 + sigma_i), as for the other synapses.

The paper leaves some cases open; the defaults are those of the authors' code, but for one. e = `silent_effect` (0.1)
if the post-neuron is silent and the pre-neuron is not. In sigma, e_ij / n_i = 0.5 if the post-neuron is silent.
`effect_ratio=false` passes the error down by the weights alone. e_ij / n_j = `silent_ratio` if either neuron is silent:
1 in the authors' code, 0.1 here. With 1 a silent neuron, which does not act on the error, passes it down with its whole
weights. Where most of a layer is silent, as in networks for speech, the layer below learns much from what cannot help.
With 0 a network whose deep layers are silent at first, such as the papers' CNN, never learns: see docs/rules/hm2bp.md.

Two differences from the authors' code have no option, because their code breaks down there. The denominator of the
lateral factor stays 1e-4 away from 0. `revive` leaves `t_ref` steps between the spikes that it imposes, even if a run
is then too short for `desired` of them. The authors put them closer, and all but the first then count for nothing.

In a convolution the sums over i run over the positions of a kernel, and sigma over the receptive field of each. A
spiking pool fires with weight 1 for each input. It hands its error back as an average does, divided by the size of its
window and not by v_th: dE/dn_j = sum_i dE/dn_i / (height width) e_ij / n_j, the paper's weight 0.25 for 2 x 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from snnrun.declared import Range
from snnrun.rules.passes import Gradients, Pass
from snnrun.rules.spike_train import SpikeTrainRule
from snnrun.rules.views import Pool

# e_ij / n_i of a silent post-neuron in sigma.
SILENT_SIGMA_RATIO = 0.5


@dataclass(frozen=True, kw_only=True)
class Hm2Bp(SpikeTrainRule):
    """HM2-BP with the authors' constants, except that silent neurons pass less error down."""

    spsp: ClassVar[str] = "hm2bp"

    silent_ratio: Annotated[float, Range(at_least=0)] = 0.1
    conv_init_scale: Annotated[float, Range(above=0)] = 0.5
    effect_ratio: bool = True
    silent_effect: Annotated[float, Range(at_least=0)] = 0.1

    def first_read(self) -> int:
        """The closed form reads input spikes more than `t_ref` steps before a spike, and none at step 0."""
        return self.t_ref + 2

    def gradients(self, p: Pass) -> Gradients:
        """The module's equations for one layer."""
        if isinstance(p.view, Pool):
            return self.handed_back(p, p.delta, p.averaged_delta(p.view))
        if not p.wants_weight:
            return self.handed_back(p, p.delta, self.credit(p))
        gain, slope = self.gain(p)
        result = self.handed_back(p, gain, self.credit(p) if p.wants_credit else p.delta, slope)
        assert result.weight is not None
        result = result._replace(weight=result.weight + p.silent_gradient(self.silent_effect * gain))
        if p.loop is not None and result.recurrent is not None:
            pre, post = p.loop.synapses.pre, p.loop.synapses.post
            silent = (gain * (p.counts == 0))[:, post] * (p.counts > 0)[:, pre]
            result = result._replace(recurrent=result.recurrent + self.silent_effect * silent.sum(dim=0))
        return result

    def gain(self, p: Pass) -> tuple[Tensor, Tensor]:
        """delta_i (1 + sigma_i), times `factor`, as g_i + s_i a_i, with a_i = sum_j w_ij e_ij over the inputs.

        So the kernels need not compute a_i beforehand. Returns g and s, (B, N). A silent neuron has s_i = 0.
        """
        silent = p.view.drive(torch.ones_like(p.counts_in[:1]), p.weight)
        loop = torch.zeros_like(p.counts)
        if p.loop is not None:
            post, weight = p.loop.synapses.post, p.loop.synapses.weight
            silent, loop = silent.index_add(1, post, weight[None]), loop.index_add(1, post, p.loop.e * weight)
        slope = (p.counts > 0) / (p.lif.v_th * p.counts.clamp(min=1.0))
        sigma = torch.where(p.counts > 0, slope * loop, SILENT_SIGMA_RATIO / p.lif.v_th * silent)
        delta = p.delta * p.factor
        return delta * (1.0 + sigma), delta * slope

    def credit(self, p: Pass) -> Tensor:
        """lambda = delta + Theta^T delta in a recurrent layer, delta in any other, (B, N)."""
        if p.loop is None:
            return p.delta
        pre, post = p.loop.synapses.pre, p.loop.synapses.post
        return p.delta.index_add(1, pre, p.theta(p.loop) * p.delta[:, post])

    def handed_back(self, p: Pass, gain: Tensor, credit: Tensor, gain_slope: Tensor | None = None) -> Gradients:
        """Gradients whose error reaches the layer below through w_ij e_ij / n_j, or through w_ij alone."""
        if self.effect_ratio or not p.wants_error:
            return p.gradients(gain, credit, gain_slope)
        gradients = p._replace(wants_error=False).gradients(gain, credit, gain_slope)
        return gradients._replace(counts_in=p.view.down(credit, p.weight))
