"""ST-RSBP with options for what its authors' code does differently from their paper: `model=strsbp`.

- `connectivity=one_sided`: their layers have no loops, see `connectivity`.
- `solve=authors`: they pass row-major buffers to a column-major solver. It solves A^T X = Phi', where A = Omega - Theta
  and Phi' is the column-major reading of Phi. For square layers the error below is then Phi A^-1, not A^-1 Phi.
- `solve=diagonal` is nobody's: it leaves Theta out, lambda = delta / D, to tell what the system of eq. 13 is worth.
- `self_coupling=false`: they drop Theta_ii of a self-connection.
- `silent_ratio`: 0 until October 2019, 0.5 since; 0 here.
- `slope_tables=authors`: their generator, and the tables of other time constants that the published runs read.
- `extrapolate_slope=true`: feed-forward layers evaluate the table beyond its last row.
- `regulariser_fan_in=authors`: one normaliser for a whole recurrent layer.
- `convolution=authors`: convolutions and pools keep HM2-BP's closed form; see `closed_form_layer`.

Two differences have no option, because the authors' code breaks down there:

- All denominators stay 1e-4 away from 0. The authors guard those of recurrent layers only; those of feed-forward
  layers and of the lateral factor may be 0 in their code.
- `revive` leaves `t_ref` steps between the spikes that it imposes, even if a run is then too short for `desired` of
  them (up to 104 steps at the defaults). The authors put them closer, and all but the first then count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snnrun.kernels import ops, reference
from snnrun.rules.base import LayerWeights
from snnrun.rules.passes import Gradients, Loop, Pass
from snnrun.rules.slope_table import slope_table
from snnrun.rules.strsbp import PaperStRsbp
from snnrun.rules.views import Dense, Pool

# The authors' values of e_ij / n_j of silent pairs in convolutions and in pools, and of e_ij of a silent post-neuron.
CONV_RATIO, POOL_RATIO, CONV_EFFECT = 0.5, 0.0, 0.1

# The speech and Fashion-MNIST runs of the paper read these tables, whatever their own tau_m and steps.
PUBLISHED_TAU_M = 64.0
PUBLISHED_STEPS = {"feedforward": 400, "recurrent": 600}
PUBLISHED_ROWS = 50


@dataclass(frozen=True, kw_only=True)
class StRsbp(PaperStRsbp):
    """ST-RSBP with the options of this module; the defaults give the paper's rule."""

    slope_tables: Literal["own", "authors"] = "own"
    extrapolate_slope: bool = False
    solve: Literal["paper", "authors", "diagonal"] = "paper"
    self_coupling: bool = True
    convolution: Literal["spsp", "authors"] = "spsp"

    def gradients(self, p: Pass) -> Gradients:
        """The paper's gradients; or the closed form in a layer over images; or the error of a misread Phi."""
        if self.convolution == "authors" and not isinstance(p.view, Dense):
            return closed_form_layer(p)
        if self.solve == "authors" and p.loop is not None and p.wants_error:
            D = self.diagonal(p)
            own = self.gradients_with(p._replace(wants_error=False), D)
            return own._replace(counts_in=self.misread_error(p, p.loop, D))
        return super().gradients(p)

    def solved(self, p: Pass, D: Tensor) -> Tensor:
        """The paper's solution, that without Theta's own diagonal, or that without Theta."""
        if p.loop is not None and self.solve == "diagonal":
            return p.delta / D
        if p.loop is None or self.self_coupling:
            return super().solved(p, D)
        return ops.coupling_solve(p.theta(p.loop), p.loop.synapses, D, p.delta, self_coupling=False)

    def misread_error(self, p: Pass, loop: Loop, D: Tensor) -> Tensor:
        """Error below as the authors' solver call returns it: P = reshape(reshape(Phi, (I, N)) A^-1, (N, I)).

        A square layer reads Phi as it is. Its error is delta^T Phi A^-1: one system, for Phi^T delta. Others need the
        dense matrices, on the reference kernels, and a system for each input.
        """
        batch, neurons = p.counts.shape
        if p.counts_in.shape[1] == neurons:
            below = p._replace(wants_weight=False, delays=None).gradients(p.delta, p.delta).counts_in
            assert below is not None
            return self.solved(p._replace(delta=below), D)
        e = reference.spsp(p.spsp, p.lif, p.spikes_in, p.spikes, p.weight)
        misread = (p.weight * self.ratio(e, p.counts, p.counts_in)).reshape(batch, -1, neurons)
        theta = reference.coupling(loop.e, p.counts, loop.synapses, p.lif.v_th, self.silent_ratio)
        system = reference.system(theta, loop.synapses, D, self.self_coupling)
        # X A^-1, row by row of X: each row is a right-hand side of the transposed system.
        solved = reference.solve(system.transpose(1, 2), misread.transpose(1, 2))
        return torch.einsum("bi,bij->bj", p.delta, solved.transpose(1, 2).reshape(batch, neurons, -1))

    def table(self, p: Pass) -> Tensor:
        """The table of this run's constants, or the one that such a layer read in the published runs."""
        if self.slope_tables == "own":
            return super().table(p)
        steps = PUBLISHED_STEPS["feedforward" if p.loop is None else "recurrent"]
        return slope_table(PUBLISHED_TAU_M, self.tau_s, self.t_ref, steps, PUBLISHED_ROWS, authors_clock=True)

    def read_at(self, p: Pass, rows: int) -> Tensor:
        """The counts clamped to the table, or the counts themselves (`extrapolate_slope`)."""
        beyond = self.extrapolate_slope and p.loop is None and isinstance(p.view, Dense)
        return p.counts if beyond else super().read_at(p, rows)

    def authors_fan_in(self, weights: LayerWeights) -> int:
        """Inputs + 1, plus, in a recurrent layer, the synapses of the whole layer."""
        index = weights.trained_index()
        return weights.weight.shape[1] + 1 + (0 if index is None else len(index[1]))


def closed_form_layer(p: Pass) -> Gradients:
    """A convolution or pool by the closed-form effect of HM2-BP, without the factor 1 / D_i.

    The authors' code truncates the sum in D_i to a whole number, which is 0 while the sum is below 1 in size. Silent
    pairs have the ratio 0.5 in a convolution and 0 in a pool. A pool averages its error as in HM2-BP.
    """
    if isinstance(p.view, Pool):
        p = p._replace(spsp="hm2bp", silent_ratio=POOL_RATIO, delta=p.averaged_delta(p.view))
        return p.gradients(p.delta, p.delta)
    p = p._replace(spsp="hm2bp", silent_ratio=CONV_RATIO)
    result = p.gradients(p.delta, p.delta)
    if result.weight is None:
        return result
    return result._replace(weight=result.weight + p.silent_gradient(CONV_EFFECT * p.delta))
