"""ST-RSBP: spike-train level recurrent SNN backpropagation (Zhang & Li, NeurIPS 2019).

A layer has input spike trains j and, if it is recurrent, its own trains p. The numbers are those of the paper:

    a_i = sum_j w_ij e_ij + sum_p w_ip e_ip,  n_i ~ a_i / v_th                                               (1, 2)
    delta_i = dE/dn_i / v_th                                                                                 (5)
    D_i = 1 - (1 / v_th) (sum_j w_ij de_ij/dn_i + sum_p w_ip de_ip/dn_i)          the diagonal Omega        (11)
    Theta_lp = w_lp (1 / v_th) de_lp/dn_p,   Phi_lj = w_lj de_lj/dn_j                                       (11)
    (Omega - Theta)^T lambda = delta,   error below = Phi^T lambda                                          (13)
    dE/dw_ij = delta_i e_ij / D_i                                                                            (4)

The system of eq. 13 is solved for one right-hand side, without an inverse. e_ij / n_j is the estimate of de_ij/dn_j.

de_ij/dn_i, the slope by the post-neuron's count, has three forms (`slope`):

- `none`: 0, so D_i = 1;
- `counts`: HM2-BP's first-order form from this sample, 1 / D_i = 1 + (1 / v_th) sum w e / n_i;
- `table`: the paper's fitted table, see `slope_table`.

A convolution is a layer whose neurons see one window each and share weights. Its sums over j run over the receptive
field; places beyond the edge of the image are no inputs. dE/dw sums over the positions of a kernel. A spiking pool is a
layer with the fixed weights 1.

`authors` has what the authors' code does differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.kernels import ops
from snnrun.rules.passes import Gradients, Pass
from snnrun.rules.slope_table import slope_table
from snnrun.rules.spike_train import SpikeTrainRule, away_from_zero


@dataclass(frozen=True, kw_only=True)
class PaperStRsbp(SpikeTrainRule):
    """ST-RSBP as in the paper. `slope_rows`: rows of the fitted table, its largest count.

    Its S-PSP is the stepwise one of the paper's supplement: what an input of weight 1 adds to the membrane, read just
    before each reset.
    """

    spsp: ClassVar[str] = "strsbp"

    slope: Literal["none", "counts", "table"] = "none"
    slope_rows: Annotated[int, Range(at_least=5)] = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trains_time_constants and self.slope == "table":
            raise UsageError(
                f"model.train_constants={self.train_constants}: model.slope=table is a table for fixed time constants. "
                "Choose model.slope=none or counts, or model.train_constants=thresholds."
            )

    def refuses_currents(self) -> str:
        """The fitted table is by the number of an input's spikes, which a current has not."""
        if self.slope == "table":
            return "model.slope=table counts input spikes, and currents have none. Choose model.slope=none or counts."
        return super().refuses_currents()

    def gradients(self, p: Pass) -> Gradients:
        """Eq. 4 to 13 for one layer. `p` has delta (eq. 5), and its `gradients` multiply with Phi (eq. 13)."""
        return self.gradients_with(p, self.diagonal(p))

    def gradients_with(self, p: Pass, D: Tensor) -> Gradients:
        """The gradients for a diagonal D (B, N)."""
        lambda_ = self.solved(p, D) if p.wants_credit else None
        return p.gradients(p.delta / D * p.factor, lambda_)

    def diagonal(self, p: Pass) -> Tensor:
        """D of eq. 11, (B, N), kept at least 1e-4 away from 0."""
        if self.slope == "none":
            return torch.ones_like(p.counts)
        if self.slope == "counts":
            inverse = 1.0 + p.activation() / (p.lif.v_th * p.counts.clamp(min=1.0))
            return 1.0 / away_from_zero(inverse)
        table = self.table(p).to(p.counts.device)
        slopes = p.view.slope_sum(p, table, self.read_at(p, len(table)))
        if p.loop is None:
            slopes = slopes * (p.counts > 0)
        return away_from_zero(1.0 - slopes / p.lif.v_th).to(p.counts.dtype)

    def solved(self, p: Pass, D: Tensor) -> Tensor:
        """lambda of (Omega - Theta)^T lambda = delta (eq. 13), (B, N). A singular system gives non-finite values."""
        if p.loop is None:
            return p.delta / D
        return ops.coupling_solve(p.theta(p.loop), p.loop.synapses, D, p.delta)

    def table(self, p: Pass) -> Tensor:
        """Coefficients of the table that a layer reads, (rows, 5), highest power first."""
        return slope_table(self.tau_m, self.tau_s, self.t_ref, p.spikes.shape[1], self.slope_rows)

    def read_at(self, p: Pass, rows: int) -> Tensor:
        """The counts n_i at which the table's polynomials are read, (B, N)."""
        return p.counts.clamp(1.0, float(rows))
