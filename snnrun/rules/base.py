"""What every learning rule offers, and the values that pass between a network and its rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from snnrun.declared import Range
from snnrun.kernels import Synapses, Window

if TYPE_CHECKING:
    from snnrun.rules.constants import Constant


class SpikeTrain(NamedTuple):
    """What one layer hands to the next.

    `spikes` is (B, T, W) int64, the bits of the N neurons' trains (see `kernels.packed`). `counts` is (B, N) float, the
    number of spikes of each neuron. The gradient travels in `counts`. STBP also needs the gradient of each step: it
    travels in `link`, zeros (B, T, N) that take no memory. `near` (B, T, W) has the bits of the neurons whose spikes
    need a gradient, if others need none.
    """

    spikes: Tensor
    counts: Tensor
    link: Tensor | None = None
    near: Tensor | None = None


class Currents(NamedTuple):
    """What a network may get instead of spikes.

    `values` (B, K, I) float: each of an input's K values is its current for an equal part of the T `steps`, that of
    step t being value floor(t K / T). A constant current has one. In each step a current x acts as x spikes would: it
    adds w_ij x to the synapse of a neuron (ST-RSBP, HM2-BP), or to its membrane (STBP).
    """

    values: Tensor
    steps: int

    def to(self, device: torch.device | str) -> Currents:
        """The same on a device."""
        return self._replace(values=self.values.to(device))

    def present(self) -> Tensor:
        """1 for each input that has a current at any time, 0 for the others, (B, I)."""
        return (self.values != 0).any(dim=1).to(self.values.dtype)


class LayerKind(NamedTuple):
    """What a layer is.

    `number` counts the layers that have neurons, from the input on. Only dense layers are `output` or `recurrent`.
    `window` says how a convolution or a spiking pool (`pool`) looks at its input; it is None in a dense layer.
    `average` is the average pool before a dense layer; such a pool is no layer itself. `skips` are the numbers of the
    layers whose spikes a dense layer gets besides those of the layer before it, -1 for the input. It sees them as one
    input, the layer before it first, see `joining`.
    """

    number: int
    output: bool
    recurrent: bool
    window: Window | None = None
    pool: bool = False
    average: Window | None = None
    skips: tuple[int, ...] = ()

    @property
    def sources(self) -> tuple[int, ...]:
        """The numbers of all layers whose spikes come in, in the order of the weights' columns."""
        return self.number - 1, *self.skips


@dataclass
class LayerWeights:
    """The tensors of one layer; `recurrent_mask` marks the synapses that exist. Absent ones are None.

    `weight` is (N, I), in a convolution (K, C, height, width) and in a spiking pool (C, 1, height, width), all 1.
    `bias` is (N,) or (K,).

    `delay` (I,) is the delay of each input, steps. Trained constants are over their initial values, see `constants`:
    `threshold`, `tau_m`, `tau_s` and `tau_adaptation` (N,), (K,) or (1,).

    `recurrent_index` lists the pre- and post-neurons of the recurrent synapses, (S,) each, see `synapse_index`. An
    output layer has it without a mask: it lists the fixed lateral inhibition.
    """

    weight: Tensor
    recurrent_weight: Tensor | None = None
    recurrent_mask: Tensor | None = None
    bias: Tensor | None = None
    recurrent_index: tuple[Tensor, Tensor] | None = None
    delay: Tensor | None = None
    threshold: Tensor | None = None
    tau_m: Tensor | None = None
    tau_s: Tensor | None = None
    tau_adaptation: Tensor | None = None

    def trained_index(self) -> tuple[Tensor, Tensor] | None:
        """Pre- and post-neurons, (S,) each, of the recurrent synapses that have weights; None if there are none."""
        if self.recurrent_weight is None:
            return None
        if self.recurrent_index is None:
            assert self.recurrent_mask is not None
            self.recurrent_index = synapse_index(self.recurrent_mask)
        return self.recurrent_index

    def recurrent(self) -> Synapses | None:
        """The recurrent synapses, their weights without gradient."""
        index = self.trained_index()
        if index is None or self.recurrent_weight is None:
            return None
        pre, post = index
        # By numbers of entries: with two indices PyTorch takes four times as long.
        entries, neurons = self.recurrent_weight.detach().reshape(-1), len(self.recurrent_weight)
        return Synapses(entries.index_select(0, post * neurons + pre), pre, post)


def synapse_index(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pre- and post-neurons, (S,) each, of the synapses that a mask (N, N) marks: to row, from column."""
    pre, post = torch.nonzero(mask.T).T.contiguous()
    return pre, post


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """A learning rule with its neuron model.

    `v_th`: a threshold for each layer that has neurons, output included, or one for all. `frozen`: the layers that are
    not trained, see `topology.frozen_layers`. `weights`: the run or the file whose weights a training begins with, see
    `run.pretrained`. `average_pools`: pools are averages of the spikes; otherwise they are layers of neurons.
    `recurrent_layers`: whether layers may be recurrent. `skip_connections`: whether they may have skip connections.
    `errors_by_step`: the error of a train comes in each step, in `SpikeTrain.link`, and not in its counts.
    `inhibits_at_once`: where a layer `inhibits`, a spike does so in its own step and not in the next. `whole_delay`:
    the steps that a delay d takes. `drop_inputs`, `drop_hidden`: the share of the spikes of inputs, and of hidden
    layers, that the next layer does not get in training, see `rules.dropping`. `label_smoothing`: share of the target
    that all classes have in equal parts, the label's too. `temperature`: what counts are divided by before the softmax
    of `loss=softmax`.
    """

    average_pools: ClassVar[bool] = False
    recurrent_layers: ClassVar[bool] = True
    skip_connections: ClassVar[bool] = True
    errors_by_step: ClassVar[bool] = False
    inhibits_at_once: ClassVar[bool] = False
    whole_delay: ClassVar[str] = "round(d)"

    v_th: Annotated[Sequence[float], Range(above=0)]
    frozen: Sequence[str] = ()
    weights: str | None = None
    label_smoothing: Annotated[float, Range(at_least=0, below=1)] = 0.0
    temperature: Annotated[float, Range(above=0)] = 1.0
    drop_inputs: Annotated[float, Range(at_least=0, below=1)] = 0.0
    drop_hidden: Annotated[float, Range(at_least=0, below=1)] = 0.0

    def state_variables(self, kind: LayerKind) -> int:
        """So many variables of a neuron change in each step."""
        del kind
        return 1

    def threshold(self, kind: LayerKind) -> float:
        """Threshold of a layer, mV."""
        return self.v_th[0] if len(self.v_th) == 1 else self.v_th[kind.number]

    def initial_threshold(self, kind: LayerKind, synapses: int) -> float:
        """Threshold that the neurons of a layer with so many synapses each begin with, mV. Here `threshold`."""
        del synapses
        return self.threshold(kind)

    def pool_weight(self, kind: LayerKind) -> float:
        """Weight of each input of a spiking pool, mV. Here 1."""
        del kind
        return 1.0

    @abstractmethod
    def initialise(self, kind: LayerKind, inputs: int, neurons: int, generator: Generator) -> LayerWeights:
        """Draw the initial weights of a layer of any kind, float32 on the CPU: (neurons, inputs).

        For a convolution, `neurons` is the number of its kernels and `inputs` the size of its receptive field.
        """

    def refuses_currents(self) -> str:
        """Why its first layer cannot get currents instead of spikes, as a message; empty if it can."""
        return "this rule takes spikes alone. Choose an encoder that makes spikes, such as encoder=regular."

    @abstractmethod
    def layer(
        self, kind: LayerKind, weights: LayerWeights, inputs: SpikeTrain | Currents, labels: Tensor | None
    ) -> SpikeTrain:
        """Run a layer over spikes of (B, T, I). The output layer needs `labels` (B,) for its gradient.

        Currents come only to the first layer, and only if the rule does not refuse them.
        """

    @abstractmethod
    def sample_loss(self, output: SpikeTrain, labels: Tensor) -> Tensor:
        """Loss of each sample, (B,), differentiable in the output."""

    def wanted(self, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        """The share that each class should have, (B, classes): 1 for the label, smoothed (Szegedy et al. 2016)."""
        others = self.label_smoothing / classes
        shares = torch.full((len(labels), classes), others, dtype=dtype, device=labels.device)
        return shares.scatter_(1, labels[:, None], 1.0 - self.label_smoothing + others)

    def cross_entropy(self, counts: Tensor, labels: Tensor) -> Tensor:
        """That of the softmax of the counts (B, C) over the temperature, (B,). Its gradient is (p - wanted) / t."""
        return torch.nn.functional.cross_entropy(
            counts / self.temperature, labels, reduction="none", label_smoothing=self.label_smoothing
        )

    def initial_delay(self, kind: LayerKind, inputs: int, generator: Generator) -> Tensor | None:
        """Draw the delays of a layer's inputs, steps (I,), after all weights; None if it has none, see `delays`."""
        del kind, inputs, generator
        return None

    def fixed_tensors(self) -> tuple[str, ...]:
        """Names of the tensors of `LayerWeights` that stay as they are drawn. Here there are none."""
        return ()

    def inhibits(self, kind: LayerKind) -> bool:
        """Whether each neuron of a layer inhibits all others by a fixed synapse. Here in none."""
        del kind
        return False

    def weight_penalty(self, kind: LayerKind, weights: LayerWeights) -> Tensor | None:
        """What the regulariser multiplies the weights of each neuron or kernel with, (N,); None if there is none.

        The products are added to the gradients of its weights, recurrent ones included.
        """
        del kind, weights
        return None

    def constants(self, kind: LayerKind, weights: LayerWeights) -> Iterable[Constant]:
        """The neurons' constants that are trained, see `constants`. Here none."""
        del kind, weights
        return ()

    def constrain(self, kind: LayerKind, weights: LayerWeights) -> None:
        """Change parameters in place, after each update, so that they keep to the rule's bounds."""
        del kind, weights


def every_step(grad_counts: Tensor | None, grad_link: Tensor | None, like: Tensor) -> Tensor:
    """The gradient of spikes in each step, shape of `like` (B, T, N), from those of their counts and of their link."""
    if grad_counts is None:
        return torch.zeros_like(like) if grad_link is None else grad_link
    same = grad_counts[:, None].expand(like.shape)
    return same if grad_link is None else grad_link + same


def spread(weight: Tensor, average: Window) -> Tensor:
    """Weights (N, I) of a dense layer after an average pool, as weights (N, inputs of the pool) on the pool's inputs.

    The inputs of a square share its weight; those beyond the last whole square have 0. Differentiable.
    """
    side, rows, columns = average.height, average.out_rows, average.out_columns
    by_input = weight.T.reshape(average.channels, rows, 1, columns, 1, len(weight)) / side**2
    squares = by_input.expand(-1, -1, side, -1, side, -1).reshape(average.channels, rows * side, columns * side, -1)
    beyond = (0, 0, 0, average.columns - columns * side, 0, average.rows - rows * side)
    return torch.nn.functional.pad(squares, beyond).reshape(average.inputs, -1).T
