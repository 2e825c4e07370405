"""LRA-E, error-driven local representation alignment (Ororbia and Mali, AAAI 2019), for dense layers.

h_l = W_l z_{l-1} and z_l = tanh(h_l); the output is a softmax. Each layer has a target, and learns to come closer to it
alone. The error of the output is that of cross-entropy, e_L = softmax - one-hot. Error weights E_l carry the error of a
layer to the one below, whose target is what it would give with its drive moved against the error:

    target_{l-1} = tanh(h_{l-1} - beta E_l e_l),    e_{l-1} = z_{l-1} - target_{l-1}

so e_{l-1} is the gradient of half the squared distance (L2) from the target. The weights move against
Delta W_l = e_l z_{l-1}^T, and the error weights against Delta E_l = gamma Delta W_l^T. No derivative of an activation
is needed. Delta W and Delta E go where gradients go, so that any optimiser moves the weights.

Differs from the paper: Delta W_l leaves out the derivative of the activation, and the sign of Delta E_l is that of
Delta W_l, both as in the code of the authors. Updates are not normalised; `train.clip_norm` bounds their norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrun import declared
from snnrun.ann.inputs import Bins
from snnrun.ann.mlp import dense_connections, dense_macs, linear_layers, widths
from snnrun.ann.module import AnnModel, seeded
from snnrun.declared import Range
from snnrun.network.model import Connection, Design, Signal


@dataclass(frozen=True, kw_only=True)
class Lra(Design):
    """Dense layers that learn by LRA-E.

    Attributes:
        network: Widths of the hidden layers.
        beta: How far a target is moved by the error of the layer above.
        gamma: How fast the error weights follow the weights.
        init: How initial weights are drawn. normal: with `init_scale` and `feedback_scale`; torch: weights and error
            weights as PyTorch draws those of a linear layer, uniform within the root of 1 / fan-in. Biases begin at 0.
        init_scale: Standard deviation of normal weights.
        feedback_scale: That of normal error weights.
        bias: Whether neurons have biases.
        bin: Steps of a bin in which spikes are counted; None for all. The bins of a sample stand side by side.
    """

    network: str = "256-256-256-256-256"
    beta: Annotated[float, Range(above=0)] = 0.1
    gamma: Annotated[float, Range(at_least=0)] = 1.0
    init: Literal["normal", "torch"] = "normal"
    init_scale: Annotated[float, Range(above=0)] = 0.05
    feedback_scale: Annotated[float, Range(above=0)] = 1.0
    bias: bool = False
    bin: Annotated[int | None, Range(at_least=1)] = None

    def __post_init__(self) -> None:
        declared.check("model", Lra, vars(self))
        widths(self.network, "lra")

    def build(self, signal: Signal, outputs: int, seed: int) -> LraModel:
        """Make the model."""
        with seeded(seed):
            return LraModel(self, signal, outputs)


class States(NamedTuple):
    """Drives h_l, the output's included, and activities z_{l-1} that made them, the input first; (B, N) each."""

    drives: list[Tensor]
    activities: list[Tensor]

    @property
    def scores(self) -> Tensor:
        """Logits (B, C)."""
        return self.drives[-1]

    @property
    def counts(self) -> list[Tensor]:
        """None."""
        return []

    @property
    def spikes(self) -> list[Tensor]:
        """None."""
        return []

    @property
    def passes(self) -> None:
        """None: once through the layers."""
        return


class LraModel(AnnModel):
    """See `Lra`.

    Attributes:
        feedback: E_l of each layer but the first, by its name, (N_{l-1}, N_l).
    """

    def __init__(self, options: Lra, signal: Signal, outputs: int) -> None:
        super().__init__()
        self.inputs, self._beta, self._gamma = signal.channels, options.beta, options.gamma
        self.bins, self.scale = Bins(signal, options.bin), None
        self.sizes = [*widths(options.network, "lra"), outputs]
        self.layer_names = [*(f"hidden{number}" for number in range(1, len(self.sizes))), "output"]
        self.features = self.bins.number * signal.channels
        self.layers = nn.ModuleDict(linear_layers(self.layer_names, self.features, self.sizes, options.bias))
        for layer in self.layers.values():
            assert isinstance(layer, nn.Linear)
            if options.init == "normal":
                nn.init.normal_(layer.weight, std=options.init_scale)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        pairs = zip(self.layer_names[1:], self.sizes, self.sizes[1:], strict=False)
        self.feedback = nn.ParameterDict({name: _error_weights(options, below, size) for name, below, size in pairs})

    @property
    def chain(self) -> str:
        """Inputs, widths and outputs, such as `784-256-256-10`."""
        return "-".join(map(str, (self.features, *self.sizes)))

    @torch.no_grad()
    def forward(self, inputs: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> States:
        """Drives and activities of a batch, see `Model.forward`."""
        del labels, keys
        values, states = self.values(inputs).nan_to_num().flatten(1), States([], [])
        for layer in self.layers.values():
            states.activities.append(values)
            states.drives.append(layer(values))
            values = torch.tanh(states.drives[-1])
        return states

    def sample_loss(self, outcome: Any, labels: Tensor) -> Tensor:
        """Cross-entropy of each sample, (B,). Its backward pass leaves Delta W and Delta E in the gradients."""
        tensors = dict(self.layers.named_parameters())
        weights = [tensors[f"{name}.weight"] for name in self.layer_names]
        biases = [tensors[f"{name}.bias"] for name in self.layer_names if f"{name}.bias" in tensors]
        losses: Tensor = _Updates.apply(
            outcome, labels, self._beta, self._gamma, len(weights), *weights, *self.feedback.values(), *biases
        )  # type: ignore[no-untyped-call]
        return losses

    def synapses(self) -> int:
        """Number of weights and biases. Error weights, which only training has, are not among them."""
        return sum(parameter.numel() for parameter in self.layers.parameters())

    def macs(self, passes: float) -> dict[str, float]:
        """Multiply-accumulates of each layer: a weight is used once."""
        del passes
        return dense_macs(self.layers)

    def connections(self) -> dict[str, Connection]:
        """The layers, without their error weights."""
        return dense_connections(self.layers, torch.tanh)


def _error_weights(options: Lra, below: int, size: int) -> nn.Parameter:
    """E_l (N_{l-1}, N_l) of a layer, as drawn."""
    if options.init == "torch":
        return nn.Parameter(nn.Linear(size, below, bias=False).weight.detach())
    return nn.Parameter(torch.randn(below, size) * options.feedback_scale)


class _Updates(torch.autograd.Function):
    """The loss as a node whose gradients are the updates of LRA-E. The tensors are weights, error weights, biases."""

    @staticmethod
    def forward(
        ctx: Any, states: States, labels: Tensor, beta: float, gamma: float, layers: int, *tensors: Tensor
    ) -> Tensor:
        ctx.states, ctx.labels, ctx.beta, ctx.gamma, ctx.layers = states, labels, beta, gamma, layers
        ctx.save_for_backward(*tensors[layers : 2 * layers - 1])
        ctx.biased = len(tensors) > 2 * layers - 1
        return functional.cross_entropy(states.scores, labels, reduction="none")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weight: Tensor) -> Sequence[Tensor | None]:
        drives, activities = ctx.states
        one_hot = functional.one_hot(ctx.labels, drives[-1].shape[1]).to(drives[-1].dtype)
        errors = [drives[-1].softmax(dim=1) - one_hot]
        for feedback, drive in zip(reversed(ctx.saved_tensors), reversed(drives[:-1]), strict=True):
            moved = torch.tanh(drive - ctx.beta * (errors[0] @ feedback.T))
            errors.insert(0, torch.tanh(drive) - moved)
        weighted = [error * weight[:, None] for error in errors]
        updates = [error.T @ activity for error, activity in zip(weighted, activities, strict=True)]
        feedback_updates = [ctx.gamma * update.T for update in updates[1:]]
        bias_updates = [error.sum(dim=0) for error in weighted] if ctx.biased else []
        return (None, None, None, None, None, *updates, *feedback_updates, *bias_updates)
