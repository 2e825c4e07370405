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

Differs from the authors' code, each difference an option:

- `connectivity=one_sided`: their layers have no loops, see `connectivity`.
- `solve=authors`: row-major buffers reach a column-major solver, so A^T X = Phi' is solved with Phi' the column-major
  reading of Phi; for square layers the error below is that of Phi A^-1 instead of A^-1 Phi.
- `self_coupling=false`: they drop Theta_ii of a self-connection.
- `silent_ratio`: 0 until October 2019, 0.5 since; 0 here.
- `slope_tables=authors`: their generator, and the tables of other time constants that the published runs read.
- `extrapolate_slope=true`: feed-forward layers evaluate the table beyond its last row.
- `regulariser_fan_in=authors`: one normaliser for a whole recurrent layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrun.kernels import ops, reference
from snnrun.rules.base import LayerKind, LayerWeights
from snnrun.rules.slope_table import published_table, slope_table
from snnrun.rules.spike_train import Gradients, Pass, SpikeTrainRule, away_from_zero


@dataclass(frozen=True, kw_only=True)
class StRsbp(SpikeTrainRule):
    """ST-RSBP. `slope_rows`: rows of the fitted table, its largest count.

    Its S-PSP is the stepwise one of the paper's supplement: a unit-weight input's membrane just before each reset.
    """

    spsp: ClassVar[str] = "strsbp"

    slope: str = "none"
    slope_tables: str = "own"
    slope_rows: int = 100
    extrapolate_slope: bool = False
    solve: str = "paper"
    self_coupling: bool = True

    def gradients(self, p: Pass) -> Gradients:
        """Eq. 4-13 for one layer."""
        recurrent = p.recurrent is not None
        table = self.table(p.spikes.shape[1], recurrent) if self.slope == "table" else None
        denominator = self.denominator(p, table)
        local = p.delta / denominator
        by_authors = recurrent and self.solve == "authors"
        credit = None
        if p.wants_error and not by_authors:
            credit = self.solved(p, denominator) if recurrent else local
        gain = local if p.factor is None else local * p.factor
        grad_weight, weighted = ops.spsp_backward(self.spsp, p.lif, p.spikes_in, p.spikes, gain, credit, p.weight)
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
            n = p.counts if self.extrapolate_slope else p.counts.clamp(max=rows)
            slopes = slope_sum(table, p.weight, p.counts_in, n) * (p.counts > 0)
        else:
            n = p.counts.clamp(1.0, rows)
            slopes = slope_sum(table, p.weight, p.counts_in, n)
            slopes = slopes + slope_sum(table, p.recurrent.dense(n.shape[1]), p.counts, n)
        return away_from_zero(1.0 - slopes / p.lif.v_th)

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
        e = reference.spsp(self.spsp, p.lif, p.spikes_in, p.spikes, *reversed(p.weight.shape))
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


def slope_sum(table: Tensor, weight: Tensor, counts_in: Tensor, counts: Tensor) -> Tensor:
    """sum_j w_ij D(n_j, n_i), (B, N), D the derivative of the table's polynomials by n_i.

    Counts of the inputs are clamped to the table's rows 1 ... R. The polynomial in n_i has coefficients by n_j alone,
    so the sum over inputs is one product per power.
    """
    table = table.to(weight)
    derivative = table[:, :4] * torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=table.dtype, device=table.device)
    rows = counts_in.clamp(1, len(table)).long() - 1
    c3, c2, c1, c0 = (torch.einsum("bjk,ij->kbi", derivative[rows], weight)).unbind()
    return ((c3 * counts + c2) * counts + c1) * counts + c0
