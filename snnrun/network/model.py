"""What a run trains: a model. A `Network` of a learning rule is one; so is any other module that keeps this protocol.

Training, evaluation, checkpoints, cost and figures ask a model for no more than `Model` declares. A model whose layers
fire (`spiking`) is measured in spikes and synaptic operations, any other in multiply-accumulates (`macs`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Signal(NamedTuple):
    """What a model is given of a sample.

    `channels` is N. With `spikes` a batch is bits (B, T, W) int64, see `kernels.packed`. Without, it is values
    (B, T, N) float32: T is 1 for a sample without time, and a sample that is shorter ends in NaN. `steps` is T, or 0
    for a sample without time. `image` is (channels, rows, columns), whose product is N, or None.
    """

    channels: int
    steps: int
    spikes: bool
    image: tuple[int, int, int] | None = None


class Outcome(Protocol):
    """What a model makes of a batch."""

    @property
    def scores(self) -> Tensor:
        """A number for each class, (B, C): the largest is the predicted one, or the first of several such."""

    @property
    def counts(self) -> Sequence[Tensor]:
        """Spikes of each neuron, (B, N), for each layer of `Model.spiking`."""

    @property
    def spikes(self) -> Sequence[Tensor]:
        """Bits of these layers' trains, (B, T, W)."""

    @property
    def passes(self) -> Tensor | None:
        """How often each sample passes through the layers, (B,); None for once."""


class FanOut(NamedTuple):
    """Number of a layer's synapses that start at each input of the model, (I,), and at each of its neurons, (N,).

    `working` are those whose weight is not 0; None for all of them.
    """

    inputs: Tensor
    recurrent: Tensor
    working: FanOut | None = None


class Connection(NamedTuple):
    """The weights of a layer that multiply real values.

    Attributes:
        module: What gets these values, as its first argument: (B, I), (B, T, I), or images (B, C, rows, columns).
        weight: (N, I), or the kernels (K, C, height, width) of a `nn.Conv2d`.
        activity: Makes the activities of the layer's neurons of what the module gives; None if they are none, as the
            logits.
        recurrent: Weights (M, N) that multiply what the module gave a step before, or None. The module then gives
            (B, T, N), alone or first.
    """

    module: nn.Module
    weight: Tensor
    activity: Callable[[Tensor], Tensor] | None = None
    recurrent: Tensor | None = None


class Scores(NamedTuple):
    """The outcome of a model without spikes: logits (B, C), and the steps that each sample has, (B,), or None."""

    scores: Tensor
    passes: Tensor | None = None

    @property
    def counts(self) -> list[Tensor]:
        """None."""
        return []

    @property
    def spikes(self) -> list[Tensor]:
        """None."""
        return []


class Model(nn.Module, ABC):
    """What a run trains, evaluates and keeps.

    Its state (parameters and buffers) is what checkpoints and weight files hold.

    Attributes:
        inputs: Number of input channels.
        layer_names: The layers that have neurons, from the input on, the output last.
        sizes: Their numbers of neurons.
    """

    inputs: int
    layer_names: list[str]
    sizes: list[int]

    @property
    @abstractmethod
    def chain(self) -> str:
        """The model from input to output as one word, such as `784-400-R400-10`."""

    @property
    def spiking(self) -> Mapping[str, int]:
        """The layers that fire, with their numbers of neurons, in the order of `Outcome.counts`. Here none."""
        return {}

    @abstractmethod
    def forward(self, inputs: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Outcome:
        """Run a batch.

        Args:
            inputs: Bits (B, T, W) int64, or values (B, T, N) float32, see `Signal`.
            labels: Classes (B,). Training gives them.
            keys: A number for each sample, (B,) int64, that depends on seed, epoch and sample alone. What a model
                draws for a sample of a training batch, such as the units that it drops, depends on its key alone.
                None in evaluation: nothing is drawn.
        """

    @abstractmethod
    def sample_loss(self, outcome: Any, labels: Tensor) -> Tensor:
        """Loss of each sample, (B,), from the outcome of a forward pass with these labels; differentiable."""

    def trained(self) -> Iterator[tuple[nn.Parameter, Tensor | None]]:
        """The parameters that an optimiser moves, each with the mask of the entries that exist, or None for all."""
        return ((parameter, None) for parameter in self.parameters() if parameter.requires_grad)

    def apart(self) -> dict[nn.Parameter, float]:
        """Parameters that are no weights: they do not decay, and have this factor of the learning rate. Here none."""
        return {}

    def figures(self) -> dict[str, float]:
        """What is recorded of the model itself after each epoch, by the name of the metric. Here nothing."""
        return {}

    def at_bounds(self) -> dict[str, str]:
        """What training has moved to the end of its range: a name and a message for each. Here nothing."""
        return {}

    def add_weight_penalty(self) -> None:
        """Add a regulariser to the gradients of a backward pass. Here there is none."""

    def constrain(self) -> None:
        """Keep the parameters to their bounds, after each update. Here there are none."""

    def synapses(self) -> int:
        """Number of trained weights and biases. A weight that neurons share counts once."""
        return sum(parameter.numel() for parameter, _ in self.trained())

    @abstractmethod
    def layout(self) -> dict[str, dict[str, Any]]:
        """By layer: `inputs`, `neurons`, and whether it is `recurrent`."""

    def macs(self, passes: float) -> dict[str, float]:
        """Multiply-accumulates of an inference of so many passes, by layer with real-valued activities. Here none."""
        del passes
        return {}

    def fan_out(self) -> dict[str, FanOut]:
        """The synapses of the layers that fire, all of which the input reaches directly. Here there is none."""
        return {}

    def connections(self) -> dict[str, Connection]:
        """The weights that multiply real values, by layer, see `Connection`. Here none.

        Without one for each layer that `macs` has, the operations of such a layer are not counted by what is 0.
        """
        return {}

    def shares(self, scores: Tensor) -> Tensor:
        """The scores of a sample (C,) as shares, which sum to 1: here their softmax."""
        return scores.double().softmax(dim=0)

    def called(self, key: str) -> str:
        """What people call the parameter that the state has under this key."""
        return key.replace(".", " ").replace("_", " ")

    def study(self, dataset: Any, encoder: Any, device: torch.device) -> tuple[Any, Any]:
        """See the corpus once before the training, for what a model computes from it.

        Args:
            dataset: A `data.Dataset`; its test samples are not looked at.
            encoder: Its `encoders.Encoder`.
            device: Where the model will be trained.

        Returns:
            The corpus and the encoder to train with: those given, unless the model has computed others from them.
        """
        del device
        return dataset, encoder


class LocalModel(Model):
    """A model that learns by itself: it has no loss, and no optimiser moves it. One process trains it."""

    @abstractmethod
    def present(self, inputs: Tensor, labels: Tensor, rate: float, epoch: int) -> Outcome:
        """Run a batch of training samples, in their order, and prepare what they change. The state stays.

        Args:
            inputs: As in `forward`.
            labels: Classes (B,).
            rate: Learning rate.
            epoch: From 1.
        """

    @abstractmethod
    def accept(self) -> None:
        """Make the state what the last `present` has prepared."""

    def sample_loss(self, outcome: Any, labels: Tensor) -> Tensor:
        """Not to be called: there is no loss."""
        raise NotImplementedError

    def trained(self) -> Iterator[tuple[nn.Parameter, Tensor | None]]:
        """None: no optimiser moves a parameter."""
        return iter(())


class Design(ABC):
    """The options of a model that is no `Network` of a rule: a frozen dataclass with a field for each.

    An entry of `models.MODELS`. It raises UsageError when it is made with an option out of range, or with options that
    do not fit one another.
    """

    @abstractmethod
    def build(self, signal: Signal, outputs: int, seed: int) -> Model:
        """Make the model with its initial weights, on PyTorch's default device.

        Raises:
            UsageError: samples of this kind do not fit the model.
        """
