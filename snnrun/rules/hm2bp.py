"""HM2-BP: hybrid macro/micro level backpropagation (Jin, Zhang & Li, NeurIPS 2018), extended to recurrent layers.

    delta_i = dE/dn_i / v_th
    error below: dE/dn_j = sum_i delta_i w_ij e_ij / n_j
    dE/dw_ij = delta_i e_ij (1 + sigma_i),   sigma_i = (1 / v_th) sum_j w_ij e_ij / n_i

with e_ij in closed form (`kernels.hm2bp_readout`). 1 + sigma_i is the first-order expansion of 1 / (1 - sigma_i), the
effect of the post-neuron's own count on e_ij, estimated from this sample instead of a table.

Recurrent layers, which the original does not train, follow by the same first-order expansion. With Theta_lp =
w_lp (e_lp / n_p) / v_th the exact adjoint of the loop is (1 - Theta^T)^-1 delta; here

    lambda = delta + Theta^T delta,   error below: sum_i lambda_i w_ij e_ij / n_j,

one turn of credit around the loop. sigma_i sums over the recurrent synapses too, and their gradient is
delta_i e_ip (1 + sigma_i), as for the others.

The authors' special cases are the defaults, for the paper leaves them open: e = `silent_effect` (0.1) where the
post-neuron is silent and the pre-neuron is not, e_ij / n_j = `silent_ratio` (1) where either is silent, and
e_ij / n_i = 0.5 in sigma where the post-neuron is silent. `effect_ratio=false` returns the error through bare weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun import kernels
from snnrun.kernels import Lif
from snnrun.rules.base import LayerKind, LayerWeights
from snnrun.rules.spike_train import Gradients, Pass, SpikeTrainRule

# e_ij / n_i of a silent post-neuron in sigma.
SILENT_SIGMA_RATIO = 0.5


@dataclass(frozen=True, kw_only=True)
class Hm2Bp(SpikeTrainRule):
    """HM2-BP with the authors' constants for silent neurons."""

    silent_ratio: float = 1.0
    effect_ratio: bool = True
    silent_effect: float = 0.1

    def readout(self, spikes: Tensor, lif: Lif, dtype: torch.dtype) -> Tensor:
        """Closed-form effect."""
        return kernels.active().hm2bp_readout(spikes, lif, dtype)

    def gradients(self, p: Pass) -> Gradients:
        """The module's equations for one layer."""
        gain = p.delta * (1.0 + self.sigma(p))
        if p.factor is not None:
            gain = gain * p.factor
        credit = self.credit(p) if p.wants_error else None
        through_effect = credit if self.effect_ratio else None
        grad_weight, weighted = kernels.active().spsp_backward(p.readout, p.spikes_in, gain, through_effect, p.weight)
        grad_weight = grad_weight + self.silent_gradient(gain, p.counts, p.counts_in)
        error = None
        if credit is not None:
            error = credit @ p.weight if weighted is None else self.error_below(weighted, credit, p)
        grad_recurrent = None
        if p.recurrent_weight is not None and p.recurrent_mask is not None:
            grad_recurrent, _ = kernels.active().spsp_backward(p.readout, p.spikes, gain, None, p.recurrent_weight)
            grad_recurrent = grad_recurrent + self.silent_gradient(gain, p.counts, p.counts)
            grad_recurrent = grad_recurrent * p.recurrent_mask
        return Gradients(grad_weight, grad_recurrent, error)

    def sigma(self, p: Pass) -> Tensor:
        """(1 / v_th) sum_j w_ij e_ij / n_i over all synapses of each neuron, (B, N)."""
        activation = kernels.active().spsp_activation(p.readout, p.spikes_in, p.weight)
        silent = p.weight.sum(dim=1)
        if p.recurrent_weight is not None:
            activation = activation + kernels.active().spsp_activation(p.readout, p.spikes, p.recurrent_weight)
            silent = silent + p.recurrent_weight.sum(dim=1)
        ratio = torch.where(p.counts > 0, activation / p.counts.clamp(min=1.0), SILENT_SIGMA_RATIO * silent)
        return ratio / p.v_th

    def credit(self, p: Pass) -> Tensor:
        """lambda = delta + Theta^T delta of a recurrent layer, delta of another, (B, N)."""
        if p.recurrent_weight is None or p.recurrent_mask is None:
            return p.delta
        kernel = kernels.active()
        theta = kernel.coupling(
            p.readout, p.spikes, p.counts, p.recurrent_weight, p.recurrent_mask, p.v_th, self.silent_ratio
        )
        return p.delta + kernel.coupling_product(theta, p.delta)

    def silent_gradient(self, gain: Tensor, counts: Tensor, counts_in: Tensor) -> Tensor:
        """Share in the weight gradient of the pairs whose effect is `silent_effect`, (N, I)."""
        return self.silent_effect * (gain * (counts == 0)).T @ (counts_in > 0).to(gain.dtype)

    def authors_fan_in(self, kind: LayerKind, weights: LayerWeights) -> int:
        """The number of feed-forward inputs."""
        del kind
        return weights.weight.shape[1]
