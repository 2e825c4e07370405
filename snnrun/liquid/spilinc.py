"""SpiLinC (Srinivasan, Panda and Roy 2018, Frontiers in Neuroscience 12:524): `model=spilinc`, learning without labels.

Parallel liquids each see a segment of the input. Spike-timing-dependent plasticity changes the synapses from the inputs
to their excitatory neurons; the recurrent synapses stay as drawn. Labels are used only afterwards. Each excitatory
neuron is tagged with the class for which it fires most over the training samples. A sample is given to the class whose
neurons fire most on average. With one liquid this is the article's Liquid-SNN.

What the article has, as far as its abstract and summaries of it tell: four excitatory neurons to an inhibitory one;
sparse plastic synapses from inputs, and sparse random ones within a liquid; the STDP of Diehl and Cook (2015), see
`kernels.reference.plastic`, whose thresholds grow with each spike; the tags, and the mean over a group's spike counts;
on the ten digits of TI46 with 1,594 samples to train and 2,542 to test 77.7 % with one liquid of 800 neurons, 86.66 %
with one of 3,200 (the figure in ST-RSBP's table), and 85.14 % with two of 1,600. Its full text was not at hand.

Not known from the article, and chosen here: all constants. Neurons are ST-RSBP's, with a current instead of a
conductance. The recurrent synapses are those of `model=lsm`. Segments are runs of neighbouring channels of one size but
for rounding.

Differs from the article: `response=share` divides a neuron's count by all spikes of the liquids in that sample, since
long samples would win all tags, and its vote by its mean share, since neurons that always fire would win all votes.
`response=count` is the article's. `vote=groups` is the article's; with `vote=likelihood` there are no tags, and each
neuron votes for all classes. Neurons are tagged by their counts in the present epoch, while they learn, so that no pass
over the samples comes on top. The rate of learning is `train.lr` with its schedule, and there is no loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from snnrun import declared
from snnrun.declared import Range
from snnrun.errors import UsageError
from snnrun.kernels import Synapses, ops
from snnrun.kernels.plastic import Liquids, Stdp
from snnrun.liquid.lsm import Response
from snnrun.liquid.reservoir import Liquid, draw_neurons
from snnrun.network.model import FanOut, LocalModel, Signal

# Variances below this share of the mean one are taken for it.
SMALLEST_VARIANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class SpiLinC(Liquid):
    """Parallel liquids that learn by STDP.

    Attributes, besides those of each liquid:
        liquids: L. Each sees a segment of the input channels.
        neurons: N, of each liquid.
        excitatory: Share of excitatory neurons. Inputs reach them alone, and they alone vote.
        input_share: Share of the excitatory neurons of its liquid that each input reaches.
        weight_max: Upper limit of the plastic weights, mV. The lower one is 0.
        weight_init: They are drawn uniform from 0 to this share of the limit.
        weight_total: Sum to which the plastic weights of each neuron are scaled after each presentation, mV; None:
            they are not.
        tau_trace, offset, power: Of the STDP, see `kernels.plastic.Stdp`.
        rise, tau_rise: What a spike adds to the neuron's threshold, mV, and the time in which it is forgotten, ms.
        response: What is compared between samples: the `count` of a neuron, or its `share` of all counts of a sample,
            in votes relative to its mean share.
        vote: `groups` of tagged neurons, or the `likelihood` of the responses of all neurons, each by itself normal
            with the means of the classes and one variance.
    """

    liquids: Annotated[int, Range(at_least=1)] = 4
    neurons: Annotated[int, Range(at_least=2, at_most=8192)] = 800
    excitatory: Annotated[float, Range(above=0, at_most=1)] = 0.8
    input_share: Annotated[float, Range(above=0, at_most=1)] = 0.3
    weight_max: Annotated[float, Range(above=0)] = 8.0
    weight_init: Annotated[float, Range(above=0, at_most=1)] = 0.6
    weight_total: Annotated[float | None, Range(above=0)] = None
    tau_trace: Annotated[float, Range(above=0)] = 20.0
    offset: Annotated[float, Range(at_least=0, at_most=1)] = 0.4
    power: Annotated[float, Range(at_least=0)] = 1.0
    rise: Annotated[float, Range(at_least=0)] = 0.05
    tau_rise: Annotated[float, Range(at_least=1)] = 20000.0
    response: Literal["share", "count"] = "share"
    vote: Literal["groups", "likelihood"] = "groups"

    def __post_init__(self) -> None:
        declared.check("model", SpiLinC, vars(self))
        self.check_fours()

    def build(self, signal: Signal, outputs: int, seed: int) -> SpiLinCModel:
        """Draw the liquids. Raises UsageError for other than spikes, and for more liquids than inputs."""
        self.check_spikes(signal, "spilinc")
        if self.liquids > signal.channels:
            raise UsageError(
                f"model.liquids: {self.liquids} for {signal.channels} input channels. Allowed: at most one a channel."
            )
        return SpiLinCModel(self, signal, outputs, seed)

    @property
    def stdp(self) -> Stdp:
        """Neuron and rule."""
        return Stdp(
            self.lif,
            tau=self.tau_trace,
            offset=self.offset,
            w_max=self.weight_max,
            power=self.power,
            rise=self.rise,
            keep=1.0 - 1.0 / self.tau_rise,
            total=self.weight_total or 0.0,
        )


class Seen(NamedTuple):
    """What the neurons did in the samples of an epoch, see `SpiLinCModel`."""

    responses: Tensor
    squares: Tensor
    shown: Tensor

    def with_(self, responses: Tensor, labels: Tensor) -> Seen:
        """The same with a batch of responses (B, L N) and its labels (B,) added."""
        return Seen(
            self.responses.index_add(0, labels, responses),
            self.squares + responses.square().sum(dim=0),
            self.shown + labels.bincount(minlength=len(self.shown)),
        )

    def means(self) -> Tensor:
        """Mean response to each class, (C, L N)."""
        return self.responses / self.shown.clamp(min=1)[:, None]

    def groups(self, relative: bool = False) -> Tensor:
        """The groups of neurons by class, (C, L N): 1 / size for each neuron of a group, else 0.

        A neuron is tagged with the class of its largest mean response, or the first of several such. One that never
        fired has no tag. With `relative` the votes of a neuron are divided by the mean of its mean responses.
        """
        means = self.means()
        tags = torch.nn.functional.one_hot(means.argmax(dim=0), len(means)).T * (self.responses.sum(dim=0) > 0)
        votes = tags / tags.sum(dim=1, keepdim=True).clamp(min=1)
        return votes / means.mean(dim=0).clamp(min=1e-12) if relative else votes

    def likelihood(self) -> tuple[Tensor, Tensor]:
        """Weights (C, L N) and bias (C,) of the log-likelihood of responses, but for what all classes share.

        Each neuron is normal by itself, with its mean response to the class and its variance within the classes.
        """
        means, share = self.means(), self.shown.double() / self.shown.sum().clamp(min=1)
        within = self.squares / self.shown.sum().clamp(min=1) - (share[:, None] * means.square()).sum(dim=0)
        within = within.clamp(min=max(SMALLEST_VARIANCE * float(within.mean()), 1e-12))
        return means / within, -0.5 * (means.square() / within).sum(dim=1)


class SpiLinCModel(LocalModel):
    """See `SpiLinC`.

    Its state has, besides weights and thresholds, the sum of the responses of each neuron to the samples of each class,
    `responses` (C, L N), the sum of their squares over all samples, `squares` (L N,), and the number of samples,
    `shown` (C,): in the epoch `epoch`, and in the one before it.
    """

    raised: Tensor
    excitatory: Tensor
    epoch: Tensor

    def __init__(self, options: SpiLinC, signal: Signal, outputs: int, seed: int) -> None:
        super().__init__()
        self.options, self.inputs = options, signal.channels
        self.layer_names = [f"liquid{number}" for number in range(1, options.liquids + 1)]
        self.sizes = [options.neurons] * options.liquids
        with torch.device("cpu"):  # also where a model is only planned
            self._draw(torch.Generator().manual_seed(seed))
        neurons = options.liquids * options.neurons
        self.register_buffer("raised", torch.zeros(neurons))
        for when in ("", "_before"):
            self.register_buffer(f"responses{when}", torch.zeros(outputs, neurons, dtype=torch.float64))
            self.register_buffer(f"squares{when}", torch.zeros(neurons, dtype=torch.float64))
            self.register_buffer(f"shown{when}", torch.zeros(outputs, dtype=torch.int64))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self._prepared: dict[str, Tensor] = {}

    def _draw(self, generator: torch.Generator) -> None:
        """Draw synapses and plastic weights, one liquid after another."""
        o = self.options
        self._edges = tuple(round(self.inputs * k / o.liquids) for k in range(o.liquids + 1))
        excitatory, plastic, around = [], [], []
        for number in range(o.liquids):
            liquid = draw_neurons(o.neurons, o.wiring, generator)
            low, high = self._edges[number : number + 2]
            chance = torch.rand(high - low, o.neurons, generator=generator)
            pre, post = ((chance < o.input_share) & liquid.excitatory).nonzero().T
            excitatory.append(liquid.excitatory)
            plastic.append(torch.stack([pre + low, post + number * o.neurons]))
            weight, pre, post = liquid.recurrent
            around.append((weight, pre + number * o.neurons, post + number * o.neurons))
        pre, post = torch.cat(plastic, dim=1)
        self.weight = nn.Parameter(torch.rand(len(pre), generator=generator), requires_grad=False)
        self.weight.mul_(o.weight_init * o.weight_max)
        self.register_buffer("excitatory", torch.cat(excitatory))
        self.register_buffer("pre", pre)
        self.register_buffer("post", post)
        for name, values in zip(Synapses._fields, zip(*around, strict=True), strict=True):
            self.register_buffer(f"recurrent_{name}", torch.cat(values))

    @property
    def liquids(self) -> Liquids:
        """The wiring."""
        recurrent = Synapses(*(self.get_buffer(f"recurrent_{name}") for name in Synapses._fields))
        return Liquids(self.options.neurons, self._edges, self.get_buffer("pre"), self.get_buffer("post"), recurrent)

    @property
    def chain(self) -> str:
        """Inputs, liquids and classes, such as `78-4xR800-10`."""
        times = f"{self.options.liquids}x" if self.options.liquids > 1 else ""
        return f"{self.inputs}-{times}R{self.options.neurons}-{len(self.seen.shown)}"

    @property
    def seen(self) -> Seen:
        """What the neurons did in the present epoch."""
        return Seen(*(self.get_buffer(name) for name in Seen._fields))

    @property
    def spiking(self) -> Mapping[str, int]:
        """The liquids."""
        return dict(zip(self.layer_names, self.sizes, strict=True))

    @torch.no_grad()
    def forward(self, inputs: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Response:
        """The votes on spikes (B, T, W). Nothing learns."""
        del labels, keys
        spikes, counts = ops.liquid_respond(inputs, self.liquids, self.weight, self.raised, self.options.stdp)
        return self._votes(spikes, counts, self.seen)

    @torch.no_grad()
    def present(self, inputs: Tensor, labels: Tensor, rate: float, epoch: int) -> Response:
        """Let the liquids learn from spikes (B, T, W), sample by sample; `accept` makes the changes last.

        The votes are those of the tags of the epoch before. In the first epoch they are those of the samples so far.
        """
        spikes, counts, weight, raised = ops.liquid_learn(
            inputs, self.liquids, self.weight, self.raised, self.options.stdp, rate
        )
        earlier, seen = Seen(*(self.get_buffer(f"{name}_before") for name in Seen._fields)), self.seen
        prepared = {"weight": weight, "raised": raised}
        if epoch != int(self.epoch):
            prepared |= {f"{name}_before": value for name, value in seen._asdict().items()}
            prepared["epoch"] = torch.full_like(self.epoch, epoch)
            earlier, seen = seen, Seen(*map(torch.zeros_like, seen))
        votes = self._votes(spikes, counts, earlier if epoch > 1 else seen)
        prepared |= seen.with_(self._response(counts).double(), labels)._asdict()
        self._prepared = {name: value.clone() for name, value in prepared.items()}
        return votes

    @torch.no_grad()
    def accept(self) -> None:
        """Make what the last `present` has prepared the model's state."""
        own = self.state_dict()
        for name, value in self._prepared.items():
            own[name].copy_(value)
        self._prepared = {}

    def _response(self, counts: Tensor) -> Tensor:
        """What is compared between samples, (B, L N); 0 for inhibitory neurons."""
        own = counts * self.excitatory
        return own / own.sum(dim=1, keepdim=True).clamp(min=1.0) if self.options.response == "share" else own

    def _votes(self, spikes: Tensor, counts: Tensor, seen: Seen) -> Response:
        responses = self._response(counts)
        if self.options.vote == "groups":
            weights, bias = seen.groups(relative=self.options.response == "share"), torch.zeros(())
        else:
            weights, bias = seen.likelihood()
        scores = responses @ weights.T.to(responses) + bias.to(responses)
        return Response(scores, list(torch.split(counts, self.options.neurons, dim=1)), list(spikes.unbind(1)))

    def shares(self, scores: Tensor) -> Tensor:
        """The votes of a sample (C,) as shares of their sum, or its likelihoods as probabilities."""
        if self.options.vote == "likelihood":
            return super().shares(scores)
        return scores.double() / scores.double().sum().clamp(min=1e-300)

    def fan_out(self) -> dict[str, FanOut]:
        """The synapses of each liquid."""
        wires = self.liquids
        every = self._fan_out(wires.pre, wires.recurrent.pre)
        working = self._fan_out(wires.pre[self.weight != 0], wires.recurrent.pre[wires.recurrent.weight != 0])
        return {name: fan._replace(working=working[name]) for name, fan in every.items()}

    def _fan_out(self, pre: Tensor, recurrent_pre: Tensor) -> dict[str, FanOut]:
        """Of synapses that start at these inputs and these neurons."""
        forward, found = pre.bincount(minlength=self.inputs), {}
        recurrent = torch.split(recurrent_pre.bincount(minlength=sum(self.sizes)), self.options.neurons)
        for name, low, high, own in zip(self.layer_names, self._edges, self._edges[1:], recurrent, strict=False):
            inputs = torch.zeros_like(forward)
            inputs[low:high] = forward[low:high]
            found[name] = FanOut(inputs, own)
        return found

    def synapses(self) -> int:
        """Number of plastic synapses."""
        return self.weight.numel()

    def layout(self) -> dict[str, dict[str, Any]]:
        """By layer: `inputs`, `neurons`, and that it is `recurrent`."""
        return {
            name: {"inputs": high - low, "neurons": size, "recurrent": True}
            for name, size, low, high in zip(self.layer_names, self.sizes, self._edges, self._edges[1:], strict=False)
        }
