"""ST-RSBP: spike-train level recurrent SNN backpropagation (Zhang & Li, NeurIPS 2019).

For a layer with input spike trains j and, if recurrent, its own trains p (paper's eq. numbers):

    a_i = sum_j w_ij e_ij + sum_p w_ip e_ip,  n_i ~ a_i / v_th                                               (1, 2)
    delta_i = dE/dn_i / v_th                                                                                 (5)
    D_i = 1 - (1 / v_th) (sum_j w_ij de_ij/dn_i + sum_p w_ip de_ip/dn_i)          the diagonal Omega        (11)
    Theta_lp = w_lp (1 / v_th) de_lp/dn_p,   Phi_lj = w_lj de_lj/dn_j                                       (11)
    error below = Phi^T lambda,  (Omega - Theta)^T lambda = delta                                           (13)
    dE/dw_ij = delta_i e_ij / D_i                                                                            (4)

The system of eq. 13 is solved for its one right-hand side; nothing is inverted. de_ij/dn_j is estimated by e_ij / n_j.

de_ij/dn_i, the slope by the post-neuron's count, has three forms (`slope`):

- `none`: 0, so D_i = 1;
- `counts`: HM2-BP's first-order form from this sample, 1 / D_i = 1 + (1 / v_th) sum w e / n_i;
- `table`: the paper's fitted table, see `slope_table`.

Differs from the authors' code. Options that bring their behaviour back:

- `connectivity=one_sided`: their layers have no loops, see `connectivity`.
- `solve=authors`: row-major buffers reach a column-major solver, so A^T X = Phi' is solved with Phi' the column-major
  reading of Phi; for square layers the error below is that of Phi A^-1 instead of A^-1 Phi.
- `self_coupling=false`: they drop Theta_ii of a self-connection.
- `silent_ratio`: 0 until October 2019, 0.5 since; 0 here.
- `slope_tables=authors`: their generator, and the tables of other time constants that the published runs read.
- `extrapolate_slope=true`: feed-forward layers evaluate the table beyond its last row.
- `regulariser_fan_in=authors`: one normaliser for a whole recurrent layer.
- `convolution=authors`: convolutions and pools keep HM2-BP's closed form; see `authors_image_layer`.

No options, for theirs breaks down where ours differs:

- The denominators of feed-forward layers and of the lateral factor are kept 1e-4 away from 0, as they keep those of
  recurrent layers alone; elsewhere theirs may be 0.
- `revive` leaves `t_ref` steps between the spikes that it imposes where a run is too short for `desired` of them (up to
  104 steps at the defaults). Theirs puts them closer, and all but the first then count for nothing.

A convolution is a layer whose neurons see a window each and share weights: its sums over j run over the receptive
field, in which what is beyond the image's edge counts as no input, and dE/dw over the positions of a kernel. A spiking
pool is a layer with the fixed weights 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from snnrun.declared import Range
from snnrun.kernels import ops, reference
from snnrun.rules.base import LayerKind, LayerWeights
from snnrun.rules.hm2bp import averaged_error, silent_gradient
from snnrun.rules.slope_table import published_table, slope_table
from snnrun.rules.spike_train import Gradients, Pass, SpikeTrainRule, away_from_zero
from snnrun.rules.views import Dense, Pool

# What stands for e_ij / n_j of silent pairs in the authors' convolutions, and for e_ij of a silent post-neuron.
AUTHORS_CONV_RATIO, AUTHORS_CONV_EFFECT = 0.5, 0.1


@dataclass(frozen=True, kw_only=True)
class StRsbp(SpikeTrainRule):
    """ST-RSBP. `slope_rows`: rows of the fitted table, its largest count.

    Its S-PSP is the stepwise one of the paper's supplement: a unit-weight input's membrane just before each reset.
    """

    spsp: ClassVar[str] = "strsbp"

    slope: Literal["none", "counts", "table"] = "none"
    slope_tables: Literal["own", "authors"] = "own"
    slope_rows: Annotated[int, Range(at_least=5)] = 100
    extrapolate_slope: bool = False
    solve: Literal["paper", "authors"] = "paper"
    self_coupling: bool = True
    convolution: Literal["spsp", "authors"] = "spsp"

    def gradients(self, p: Pass) -> Gradients:
        """Eq. 4-13 for one layer."""
        if self.convolution == "authors" and not isinstance(p.view, Dense):
            return self.authors_image_layer(p)
        recurrent = p.recurrent is not None
        table = self.table(p.spikes.shape[1], recurrent) if self.slope == "table" else None
        denominator = self.denominator(p, table)
        local = p.delta / denominator
        by_authors = recurrent and self.solve == "authors"
        credit = None
        if p.wants_error and not by_authors:
            credit = self.solved(p, denominator) if recurrent else local
        gain = local if p.factor is None else local * p.factor
        grad_weight, weighted = p.view.backward(self.spsp, p.lif, p.spikes_in, p.spikes, gain, credit, p.weight)
        error = None
        if credit is not None:
            error = self.error_below(weighted, credit, p)
        elif p.wants_error:
            error = self.authors_error(p, denominator)
        grad_recurrent = None
        if p.recurrent is not None and p.e_recurrent is not None:
            grad_recurrent = ops.recurrent_gradient(p.e_recurrent, gain, p.recurrent)
        return Gradients(grad_weight, grad_recurrent, error)

    # -- the diagonal -------------------------------------------------------------------------------------------------

    def table(self, steps: int, recurrent: bool) -> Tensor:
        """Coefficients of the table a layer reads, (rows, 5), highest power first."""
        if self.slope_tables == "authors":
            return published_table(recurrent, self.tau_s, self.t_ref)
        return slope_table(self.tau_m, self.tau_s, self.t_ref, steps, self.slope_rows)

    def denominator(self, p: Pass, table: Tensor | None) -> Tensor:
        """D_i, (B, N), kept at least 1e-4 away from 0."""
        if self.slope == "none":
            return torch.ones_like(p.counts)
        if self.slope == "counts":
            inverse = 1.0 + self.activation(p) / (p.lif.v_th * p.counts.clamp(min=1.0))
            return 1.0 / away_from_zero(inverse)
        assert table is not None
        rows = float(len(table))
        slopes: Tensor
        if p.recurrent is None:
            extrapolate = self.extrapolate_slope and isinstance(p.view, Dense)
            n = p.counts if extrapolate else p.counts.clamp(max=rows)
            slopes = slope_sum(table, lambda x: p.view.drive(x, p.weight.double()), p.counts_in, n) * (p.counts > 0)
        else:
            n, loop = p.counts.clamp(1.0, rows), p.recurrent.dense(p.counts.shape[1]).double()
            slopes = slope_sum(table, lambda x: p.view.drive(x, p.weight.double()), p.counts_in, n)
            slopes = slopes + slope_sum(table, lambda x: x @ loop.T, p.counts, n)
        return away_from_zero(1.0 - slopes / p.lif.v_th).to(p.counts.dtype)

    # -- convolutions and pools as the authors have them ---------------------------------------------------------------

    def authors_image_layer(self, p: Pass) -> Gradients:
        """Convolutions and pools by the closed-form effect of HM2-BP, without the factor 1 / D_i.

        Their code truncates the sum in D_i to a whole number, which is 0 while its size is below 1. Silent pairs have
        the ratio 0.5 in a convolution and 0 in a pool, whose error is averaged as in HM2-BP.
        """
        effect = "hm2bp"
        if isinstance(p.view, Pool):
            if not p.wants_error:
                return Gradients(None, None, None)
            credit = averaged_error(p, p.view)
            _, weighted = p.view.backward(effect, p.lif, p.spikes_in, p.spikes, credit, credit, p.weight)
            return Gradients(None, None, self.error_below(weighted, credit, p, silent_ratio=0.0))
        through = p.delta if p.wants_error else None
        gradient, weighted = p.view.backward(effect, p.lif, p.spikes_in, p.spikes, p.delta, through, p.weight)
        assert gradient is not None
        gradient = gradient + silent_gradient(AUTHORS_CONV_EFFECT, p.delta, p)
        error = None if through is None else self.error_below(weighted, through, p, AUTHORS_CONV_RATIO)
        return Gradients(gradient, None, error)

    # -- the recurrent system -----------------------------------------------------------------------------------------

    def solved(self, p: Pass, denominator: Tensor) -> Tensor:
        """lambda of (Omega - Theta)^T lambda = delta, (B, N). A singular system gives non-finite values."""
        assert p.recurrent is not None
        assert p.e_recurrent is not None
        theta = ops.coupling(p.e_recurrent, p.counts, p.recurrent, p.lif.v_th, self.silent_ratio)
        return ops.coupling_solve(theta, p.recurrent, denominator, p.delta, self.self_coupling)

    def authors_error(self, p: Pass, denominator: Tensor) -> Tensor:
        """Error below as the authors' solver call returns it: P = reshape(reshape(Phi, (I, N)) A^-1, (N, I)).

        Their slip needs the dense matrices, so it runs on the reference kernels whichever are in use.
        """
        assert p.recurrent is not None
        assert p.e_recurrent is not None
        batch, neurons = p.counts.shape
        e = reference.spsp(self.spsp, p.lif, p.spikes_in, p.spikes, p.weight)
        misread = (p.weight * self.ratio(e, p.counts, p.counts_in)).reshape(batch, -1, neurons)
        theta = reference.coupling(p.e_recurrent, p.counts, p.recurrent, p.lif.v_th, self.silent_ratio)
        system = reference.system(theta, p.recurrent, denominator, self.self_coupling)
        # X A^-1, row by row of X: the transposed system with one right-hand side after another.
        solved = reference.solve(system.transpose(1, 2), misread.transpose(1, 2))
        return torch.einsum("bi,bij->bj", p.delta, solved.transpose(1, 2).reshape(batch, neurons, -1))

    def authors_fan_in(self, kind: LayerKind, weights: LayerWeights) -> int:
        """Inputs + 1, plus, in a recurrent layer, the synapses of the whole layer."""
        del kind
        total = 0 if weights.recurrent_mask is None else int(weights.recurrent_mask.sum())
        return weights.weight.shape[1] + 1 + total


def slope_sum(table: Tensor, drive: Callable[[Tensor], Tensor], counts_in: Tensor, counts: Tensor) -> Tensor:
    """sum_j w_ij D(n_j, n_i), (B, N) float64, D the derivative of the table's polynomials by n_i.

    `drive` gives sum_j w_ij x_j, (B, N), of x (B, I), both float64: terms of either sign cancel to D_i near 0, which is
    divided by. Counts of the inputs are clamped to the table's rows 1 ... R. The polynomial in n_i has coefficients by
    n_j alone, so the sum over inputs is one product per power.
    """
    table, counts = table.to(counts.device), counts.double()
    derivative = table[:, :4] * torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=table.dtype, device=table.device)
    rows = counts_in.clamp(1, len(table)).long() - 1
    coefficients = derivative[rows].permute(2, 0, 1)  # (4, B, I), in one product, whose rounding depends on no batch
    c3, c2, c1, c0 = drive(coefficients.flatten(0, 1)).view(4, *counts.shape).unbind()
    return ((c3 * counts + c2) * counts + c1) * counts + c0
