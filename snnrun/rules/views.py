"""What each neuron of a layer sees of the layer below: all of it, or a window of an image.

These classes have the same methods. Four run the kernels of a layer; three of them take its backward pass. Three are
products of its weights with values of the inputs (B, I) or of the neurons (B, N). `weight` is (N, I) in a dense layer
and (K, C, height, width) in a convolution.

A first layer may see currents instead of spikes (`Driven`), see `base.Currents`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from snnrun.kernels import Lif, Synapses, Window, current_ops, image_ops, ops, reference
from snnrun.rules.base import LayerKind

if TYPE_CHECKING:
    from snnrun.rules.passes import Pass


@dataclass(frozen=True)
class Dense:
    """Every neuron sees every input."""

    def forward(self, spikes_in: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
        """Bits of the spikes (B, T, W) and counts (B, N); only dense layers have recurrent synapses."""
        return ops.lif_forward(spikes_in, weight, recurrent, lif)

    def activation(self, p: Pass) -> Tensor:
        """a_i = sum_j w_ij e_ij (ST-RSBP eq. 1), (B, N)."""
        return ops.spsp_activation(p.spsp, p.lif, p.spikes_in, p.spikes, p.weight)

    def backward(
        self, p: Pass, gain: Tensor | None, credit: Tensor | None, gain_slope: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Sums of gain_i e_ij for each weight (None in a pool) and of credit_i w_ij e_ij for each input.

        Without gain the first has no entries. The second has the shape (B, I), or (B, 0) without credit. With
        `gain_slope` (B, N) the gain is gain + gain_slope a, which is the third, or (B, 0).
        """
        return ops.spsp_backward(p.spsp, p.lif, p.spikes_in, p.spikes, gain, credit, p.weight, gain_slope)

    def slope_sum(self, p: Pass, table: Tensor, n: Tensor) -> Tensor:
        """sum_j w_ij de_ij/dn_i by a table at the counts n (B, N), recurrent synapses included, (B, N) float64."""
        return ops.slope_sum(table, p.counts_in, p.weight, None if p.loop is None else p.loop.synapses, n)

    def drive(self, x: Tensor, weight: Tensor) -> Tensor:
        """sum_j w_ij x_j, (B, N)."""
        return x.to(weight.dtype) @ weight.T

    def down(self, credit: Tensor, weight: Tensor) -> Tensor:
        """sum_i credit_i w_ij, (B, I)."""
        return credit @ weight

    def outer(self, gain: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Sum of gain_i x_j over samples and over the pairs (i, j) that share a weight, in the weight's shape."""
        del weight
        return gain.T @ x


@dataclass(frozen=True)
class Convolution:
    """A neuron sees a window of every channel; the neurons of a kernel share weights. Methods as those of `Dense`."""

    window: Window

    def forward(self, spikes_in: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
        """See `Dense`."""
        assert recurrent is None
        return image_ops.conv_forward(spikes_in, weight, self.window, lif)

    def activation(self, p: Pass) -> Tensor:
        """See `Dense`."""
        return image_ops.conv_activation(p.spsp, p.lif, p.spikes_in, p.spikes, p.weight, self.window)

    def backward(
        self, p: Pass, gain: Tensor | None, credit: Tensor | None, gain_slope: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """See `Dense`."""
        return image_ops.conv_backward(
            p.spsp, p.lif, p.spikes_in, p.spikes, gain, credit, p.weight, self.window, gain_slope
        )

    def slope_sum(self, p: Pass, table: Tensor, n: Tensor) -> Tensor:
        """See `Dense`. The reference computes it, since no backend does."""
        weight = p.weight.double()
        return reference.slope_sum_by(table, p.counts_in, lambda x: self.drive(x, weight), n)

    def drive(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Dense`."""
        return reference.drive(x.to(weight.dtype), weight, self.window)

    def down(self, credit: Tensor, weight: Tensor) -> Tensor:
        """See `Dense`."""
        return reference.drive_by_input(credit, weight, self.window)

    def outer(self, gain: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """See `Dense`."""
        return reference.drive_by_weight(x, gain, weight, self.window)


@dataclass(frozen=True)
class Pool(Convolution):
    """A neuron sees a window of one channel; all weights (C, 1, height, width) are 1. Methods as those of `Dense`."""

    def forward(self, spikes_in: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
        """See `Dense`."""
        del recurrent
        return image_ops.pool_forward(spikes_in, self.window, lif, weight.dtype)

    def activation(self, p: Pass) -> Tensor:
        """See `Dense`. The reference computes it, since no backend does."""
        return reference.conv_activation(p.spsp, p.lif, p.spikes_in, p.spikes, p.weight, self.window)

    def backward(
        self, p: Pass, gain: Tensor | None, credit: Tensor | None, gain_slope: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """See `Dense`."""
        del gain, gain_slope
        nothing = p.counts.new_zeros(len(p.counts), 0)
        if credit is None:
            return None, nothing, nothing
        return None, image_ops.pool_backward(p.spsp, p.lif, p.spikes_in, p.spikes, credit, self.window), nothing


@dataclass(frozen=True)
class Driven:
    """The view of a first layer that gets currents for so many `steps`. Methods as those of `Dense`.

    Where `Dense` gets bits of spikes, `spikes_in` of a pass included, these get the values of `base.Currents`. The
    S-PSP of a current x_j is linear in it as that of a spike train is, e_ij = sum over t of r_i(t) x_j(t) with the
    readout r_i (`kernels.reference`). So the sums over pairs are products with the sums of r_i over the steps of each
    value. No error goes below.
    """

    steps: int

    def forward(self, values: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
        """See `Dense`."""
        return current_ops.lif_driven(self.driven(values, weight), recurrent, lif, self.steps, self.slack())

    def activation(self, p: Pass) -> Tensor:
        """See `Dense`."""
        return (self.driven(p.spikes_in, p.weight) * self._readout_sums(p)).sum(dim=1)

    def backward(
        self, p: Pass, gain: Tensor | None, credit: Tensor | None, gain_slope: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """See `Dense`."""
        assert gain is not None
        assert credit is None
        sums, nothing = self._readout_sums(p), gain.new_zeros(len(gain), 0)
        whole = nothing
        if gain_slope is not None:
            gain = whole = gain + gain_slope * (self.driven(p.spikes_in, p.weight) * sums).sum(dim=1)
        return self.gradient(p.spikes_in, sums * gain[:, None], p.weight), nothing, whole

    def slack(self) -> bool:
        """Whether the threshold has the slack of dense layers and pools."""
        return True

    def driven(self, values: Tensor, weight: Tensor) -> Tensor:
        """sum_j w_ij x_j of each value, (B, K, N)."""
        return current_ops.current_drive(values, weight)

    def gradient(self, values: Tensor, errors: Tensor, weight: Tensor) -> Tensor | None:
        """For each weight the sum of errors (B, K, N) times values, stored as layers store weights."""
        del weight
        return (values.flatten(0, 1).T @ errors.flatten(0, 1)).T

    def _readout_sums(self, p: Pass) -> Tensor:
        return current_ops.readout_sums(p.spsp, p.lif, p.spikes, p.counts, p.spikes_in.shape[1])


@dataclass(frozen=True)
class DrivenDense(Driven, Dense):
    """Every neuron gets every current."""


@dataclass(frozen=True)
class DrivenConvolution(Driven, Convolution):
    """A convolution of currents."""

    def slack(self) -> bool:
        """Convolutions fire above `v_th` itself."""
        return False

    def driven(self, values: Tensor, weight: Tensor) -> Tensor:
        """See `Driven`."""
        return reference.drive(values, weight, self.window)

    def gradient(self, values: Tensor, errors: Tensor, weight: Tensor) -> Tensor | None:
        """See `Driven`."""
        return reference.tap_by_tap(reference.drive_by_weight(values, errors, weight, self.window))


@dataclass(frozen=True)
class DrivenPool(DrivenConvolution, Pool):
    """A spiking pool of currents."""

    def slack(self) -> bool:
        """As dense layers."""
        return True

    def gradient(self, values: Tensor, errors: Tensor, weight: Tensor) -> Tensor | None:
        """None, since a pool has no weights to learn."""
        del values, errors, weight
        return None


View = Dense | Convolution


def view_of(kind: LayerKind, steps: int | None = None) -> View:
    """What the neurons of a layer see: spikes, or currents for so many `steps`."""
    if kind.window is None:
        return Dense() if steps is None else DrivenDense(steps)
    if kind.pool:
        return Pool(kind.window) if steps is None else DrivenPool(window=kind.window, steps=steps)
    return Convolution(kind.window) if steps is None else DrivenConvolution(window=kind.window, steps=steps)
