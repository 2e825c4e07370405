"""The liquid state machine (Maass, Natschläger and Markram 2002): `model=lsm`.

A liquid of spiking neurons turns the input into a state, and a layer reads it out: logits z = W x, softmax and
cross-entropy, by backpropagation. Only W is trained. ST-RSBP's tables 2 and 3 compare such machines: 2,000 neurons and
2,000 x 26 trained weights for TI46-Alpha, 500 and 500 x 10 for TI46-Digits. They give no other constant. The defaults
here are those of Zhang, Li, Jin and Choe (2015), whose liquids the same group used for the same corpus: connectivity,
synaptic weights, the time constant of the membrane, refractory period and threshold.

Differs from Zhang et al. 2015: the neuron is ST-RSBP's, whose synaptic current has one time constant, not two for each
sign. An input reaches a share of the neurons (`input_share`), where theirs reaches 4 of 135. The readout is trained by
backpropagation, as ST-RSBP's tables say, not by their local rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from snnrun import declared
from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.kernels import Synapses, ops
from snnrun.liquid.readings import read, reading_weights
from snnrun.liquid.reservoir import Liquid, draw_inputs, draw_neurons
from snnrun.network.model import Connection, FanOut, Model, Signal

# The version of what a state is: a change of the liquid or of its reading makes stored states useless.
VERSION = 1
# Standard deviations below this share of the largest one are taken for it: a neuron that hardly fires says little.
SMALLEST_SPREAD = 0.02


@dataclass(frozen=True, kw_only=True)
class Lsm(Liquid):
    """A liquid state machine.

    Attributes, besides those of each liquid:
        neurons: N, of the liquid.
        input_share: Share of the neurons that each input reaches.
        input_weight: Weight of an input's synapse, mV; half of them have its negative.
        state: `counts` of spikes, or `filtered` spike trains.
        readings: How often the state is read in a presentation, evenly. Counts are those since the reading before.
        tau_state: Time constant of `filtered`, ms.
        normalise: `standard` shifts and scales each entry of the state to mean 0 and standard deviation 1 over the
            training samples; `length` scales the state of each sample to length 1; `none` does nothing.
        l2: Strength of the L2 penalty on the readout's weights, l2 / 2 |W|^2.
    """

    neurons: Annotated[int, Range(at_least=1, at_most=8192)] = 500
    input_share: Annotated[float, Range(above=0, at_most=1)] = 0.1
    input_weight: Annotated[float, Range(at_least=0)] = 2.0
    state: Literal["counts", "filtered"] = "counts"
    readings: Annotated[int, Range(at_least=1)] = 1
    tau_state: Annotated[float, Range(above=0)] = 64.0
    normalise: Literal["standard", "length", "none"] = "standard"
    l2: Annotated[float, Range(at_least=0)] = 0.001

    def __post_init__(self) -> None:
        declared.check("model", Lsm, vars(self))
        self.check_fours()

    def build(self, signal: Signal, outputs: int, seed: int) -> LsmModel:
        """Draw the liquid and make its readout, whose weights begin at 0. Raises UsageError for other than spikes."""
        self.check_spikes(signal, "lsm")
        if self.readings > max(signal.steps, 1):
            raise UsageError(f"model.readings: {self.readings} readings of {signal.steps} steps. Allowed: at most T.")
        return LsmModel(self, signal, outputs, seed)


class Response(NamedTuple):
    """The outcome of a batch: a score for each class, (B, C), and the spikes of each liquid.

    `counts` are (B, N) a liquid, `spikes` the bits (B, T, W) of its trains; stored states have none.
    """

    scores: Tensor
    counts: list[Tensor]
    spikes: list[Tensor]

    @property
    def passes(self) -> None:
        """None: a presentation is one pass."""
        return


class LsmModel(Model):
    """See `Lsm`. A batch is spikes, or what `respond` has made of them."""

    input_weight: Tensor
    recurrent_weight: Tensor
    recurrent_pre: Tensor
    recurrent_post: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, options: Lsm, signal: Signal, outputs: int, seed: int) -> None:
        super().__init__()
        self.options, self.inputs = options, signal.channels
        self.layer_names, self.sizes = ["liquid", "output"], [options.neurons, outputs]
        generator = torch.Generator().manual_seed(seed)
        with torch.device("cpu"):  # also where a model is only planned
            liquid = draw_neurons(options.neurons, options.wiring, generator)
            fan_out = max(1, round(options.input_share * options.neurons))
            weights = draw_inputs(self.inputs, options.neurons, fan_out, options.input_weight, generator)
            self._readings = reading_weights(options.state, options.readings, options.tau_state, signal.steps)
        self.register_buffer("input_weight", weights)
        for name, value in zip(("weight", "pre", "post"), liquid.recurrent, strict=True):
            self.register_buffer(f"recurrent_{name}", value)
        features = options.neurons * options.readings
        for name, make in (("mean", torch.zeros), ("spread", torch.ones)):
            self.register_buffer(name, make(features if options.normalise == "standard" else 0))
        self.readout = nn.Parameter(torch.zeros(outputs, features))
        self._state = nn.Identity()  # what the readout gets, for those who watch

    @property
    def chain(self) -> str:
        """Inputs, liquid and outputs, such as `78-R500-10`."""
        return f"{self.inputs}-R{self.sizes[0]}-{self.sizes[1]}"

    @property
    def spiking(self) -> Mapping[str, int]:
        """The liquid."""
        return {"liquid": self.sizes[0]}

    def forward(self, inputs: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Response:
        """Logits of spikes (B, T, W), or of responses (B, 1, K), see `respond`."""
        del labels, keys
        spikes = list[Tensor]()
        if inputs.dtype == torch.int64:
            own, counts = self.simulate(inputs)
            spikes.append(own)
            state = read(own, self.sizes[0], self._readings.to(inputs.device))
        else:
            counts, state = inputs[:, 0, : self.sizes[0]], inputs[:, 0, self.sizes[0] :]
        state = self._state(self.normalised(state.to(self.readout.dtype)))
        return Response(state @ self.readout.T, [counts], spikes)

    def simulate(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """The liquid's spikes (B, T, W) and counts (B, N)."""
        recurrent = Synapses(self.recurrent_weight, self.recurrent_pre, self.recurrent_post)
        return ops.lif_forward(spikes, self.input_weight, recurrent, self.options.lif)

    @torch.no_grad()
    def respond(self, spikes: Tensor) -> Tensor:
        """Counts and state of samples (B, T, W) side by side, (B, N + R N) float32: all that training needs of them."""
        own, counts = self.simulate(spikes)
        return torch.cat([counts, read(own, self.sizes[0], self._readings.to(spikes.device))], dim=1)

    def normalised(self, state: Tensor) -> Tensor:
        """The states (B, R N) as `normalise` has them."""
        if self.options.normalise == "standard":
            return (state - self.mean) / self.spread
        return nn.functional.normalize(state, dim=1) if self.options.normalise == "length" else state

    def standardise(self, mean: Tensor, spread: Tensor) -> None:
        """Take mean and standard deviation (R N,) of the states of the training samples."""
        self.mean.copy_(mean)
        self.spread.copy_(spread.clamp(min=max(SMALLEST_SPREAD * float(spread.max()), 1e-6)))

    def key(self) -> dict[str, Any]:
        """All that `respond` depends on besides the spikes and the seed, as JSON can hold it."""
        left_out = ("normalise", "l2")
        chosen = {name: value for name, value in vars(self.options).items() if name not in left_out}
        listed = {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in chosen.items()}
        return {"version": VERSION, "inputs": self.inputs, **listed}

    def sample_loss(self, outcome: Response, labels: Tensor) -> Tensor:
        """Cross-entropy of the softmax of each sample, (B,)."""
        return nn.functional.cross_entropy(outcome.scores, labels, reduction="none")

    def add_weight_penalty(self) -> None:
        """Add the gradient of the L2 penalty."""
        if self.options.l2 and self.readout.grad is not None:
            self.readout.grad += self.options.l2 * self.readout.detach()

    def layout(self) -> dict[str, dict[str, Any]]:
        """By layer: `inputs`, `neurons`, and whether it is `recurrent`."""
        neurons, outputs = self.sizes
        return {
            "liquid": {"inputs": self.inputs, "neurons": neurons, "recurrent": True},
            "output": {"inputs": self.readout.shape[1], "neurons": outputs, "recurrent": False},
        }

    def macs(self, passes: float) -> dict[str, float]:
        """Multiply-accumulates of the readout, which reads a state once."""
        del passes
        return {"output": float(self.readout.numel())}

    def fan_out(self) -> dict[str, FanOut]:
        """The synapses of the liquid."""
        inputs, size = (self.input_weight != 0).sum(dim=0), self.sizes[0]
        working = self.recurrent_pre[self.recurrent_weight != 0].bincount(minlength=size)
        return {"liquid": FanOut(inputs, self.recurrent_pre.bincount(minlength=size), FanOut(inputs, working))}

    def connections(self) -> dict[str, Connection]:
        """The readout, on the state."""
        return {"output": Connection(self._state, self.readout)}

    def trained(self) -> Iterator[tuple[nn.Parameter, Tensor | None]]:
        """The readout's weights."""
        yield self.readout, None
