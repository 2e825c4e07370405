"""What each neuron of a layer sees of the layer below: all of it, or a window of an image.

These classes have the same methods. Three run the kernels of a layer; two of them take its backward pass. Three are
products of its weights with values of the inputs (B, I) or of the neurons (B, N). `weight` is (N, I) in a dense layer
and (K, C, height, width) in a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from snnrun.kernels import Lif, Synapses, Window, ops, reference
from snnrun.kernels.ops import images

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

    def backward(self, p: Pass, gain: Tensor | None, credit: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Sums of gain_i e_ij for each weight (None in a pool) and of credit_i w_ij e_ij for each input.

        Without gain the first has no entries. The second has the shape (B, I), or (B, 0) without credit.
        """
        return ops.spsp_backward(p.spsp, p.lif, p.spikes_in, p.spikes, gain, credit, p.weight)

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
        return images.conv_forward(spikes_in, weight, self.window, lif)

    def activation(self, p: Pass) -> Tensor:
        """See `Dense`."""
        return images.conv_activation(p.spsp, p.lif, p.spikes_in, p.spikes, p.weight, self.window)

    def backward(self, p: Pass, gain: Tensor | None, credit: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """See `Dense`."""
        return images.conv_backward(p.spsp, p.lif, p.spikes_in, p.spikes, gain, credit, p.weight, self.window)

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
        return images.pool_forward(spikes_in, self.window, lif, weight.dtype)

    def activation(self, p: Pass) -> Tensor:
        """See `Dense`. The reference computes it, since no backend does."""
        return reference.conv_activation(p.spsp, p.lif, p.spikes_in, p.spikes, p.weight, self.window)

    def backward(self, p: Pass, gain: Tensor | None, credit: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """See `Dense`."""
        del gain
        if credit is None:
            return None, p.counts.new_zeros(len(p.counts), 0)
        return None, images.pool_backward(p.spsp, p.lif, p.spikes_in, p.spikes, credit, self.window)


View = Dense | Convolution
