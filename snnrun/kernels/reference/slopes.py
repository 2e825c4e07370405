"""Sums of the slopes de_ij/dn_i that ST-RSBP reads from a table of polynomials, in float64.

A row of the table has the coefficients of e_ij as a polynomial in n_i, highest power first, for one count n_j of the
input; see `rules.slope_table`. Counts of inputs are clamped to the table's rows 1 ... R, so a silent input has the
first row. Terms of either sign may cancel to a small D_i, which then divides, hence float64.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from snnrun.kernels.neuron import Synapses


def slope_sum(table: Tensor, counts_in: Tensor, weight: Tensor, recurrent: Synapses | None, counts: Tensor) -> Tensor:
    """sum_j w_ij de_ij/dn_i of a dense layer (ST-RSBP eq. 11), (B, N) float64.

    Args:
        table: (R, 5) float64.
        counts_in: (B, I).
        weight: (N, I), mV.
        recurrent: synapses among the N neurons, whose sum is added; None if there are none.
        counts: (B, N), the counts n_i at which the polynomials are read; those of the neurons as inputs of each other
            too.
    """
    dense = weight.double()
    slopes = slope_sum_by(table, counts_in, lambda x: x @ dense.T, counts)
    if recurrent is None:
        return slopes
    own = recurrent.dense(counts.shape[1]).double()
    return slopes + slope_sum_by(table, counts, lambda x: x @ own.T, counts)


def slope_sum_by(table: Tensor, counts_in: Tensor, drive: Callable[[Tensor], Tensor], counts: Tensor) -> Tensor:
    """`slope_sum` over any synapses: `drive` gives sum_j w_ij x_j, (B, N) float64, of x (B, I) float64.

    The coefficients of the polynomial in n_i depend on n_j alone, so the sum over inputs is one product for each power.
    """
    n, rows = counts.double(), counts_in.clamp(1, len(table)).long() - 1
    derivatives = table[:, :4] * table.new_tensor([4.0, 3.0, 2.0, 1.0])
    coefficients = derivatives[rows].permute(2, 0, 1)  # (4, B, I): one product, rounded alike in every batch
    c3, c2, c1, c0 = drive(coefficients.flatten(0, 1)).view(4, *n.shape).unbind()
    return ((c3 * n + c2) * n + c1) * n + c0
