"""The networks of the workloads in the layers of snnTorch, SpikingJelly and Norse, for `bench_peers`.

Each library gets the fastest form that we found of the nearest neuron it has, eager as its documentation shows: a
layer's linear map is one product over the whole sequence, its neurons then go through time. Neurons without a reset,
which run in parallel over time (snnTorch's StateLeaky, SpikingJelly's PSN), are other models and left out.
"""
# Whether mypy sees the peers depends on the environment, and none of them has complete types.
# mypy: disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TAU_MEMBRANE, TAU_SYNAPSE = 64, 8  # steps of 1 ms, as in snnrun's ST-RSBP
STBP_DECAY = 0.2


@dataclass(frozen=True)
class Workload:
    """A network (R: a recurrent layer, C and P as in snnrun), its steps, mean of its input and kind of its neurons."""

    network: str
    steps: int
    rate: float
    current_based: bool = True


WORKLOADS = {
    "fashion": Workload("784-400-R400-10", steps=400, rate=0.05),
    "alpha": Workload("78-R800-26", steps=700, rate=0.07),
    "alpha3": Workload("78-400-R400-400-26", steps=700, rate=0.07),
    "mnist": Workload("784-400-10", steps=20, rate=0.13, current_based=False),
    "stbp_cnn": Workload("784-15C5-P2-40C5-P2-300-10", steps=20, rate=0.13, current_based=False),
}


class Convolution(nn.Conv2d):
    """A convolution of all steps at once: spikes (T, B, inputs), averaged over squares, to currents (T, B, outputs)."""

    def __init__(self, channels: int, side: int, kernels: int, width: int, pool: int) -> None:
        super().__init__(channels, kernels, width, bias=False)
        self.images, self.pool = (channels, side, side), pool
        self.out_side = side // pool - width + 1

    def forward(self, spikes: Tensor) -> Tensor:
        images = spikes.reshape(-1, *self.images)
        if self.pool > 1:
            images = functional.avg_pool2d(images, self.pool)
        return super().forward(images).reshape(*spikes.shape[:2], -1)


class Pooled(nn.Linear):
    """A linear map after averages over squares: spikes (T, B, inputs) to currents (T, B, outputs)."""

    def __init__(self, channels: int, side: int, outputs: int, pool: int) -> None:
        super().__init__(channels * (side // pool) ** 2, outputs, bias=False)
        self.images, self.pool = (channels, side, side), pool

    def forward(self, spikes: Tensor) -> Tensor:
        images = functional.avg_pool2d(spikes.reshape(-1, *self.images), self.pool)
        return super().forward(images.reshape(*spikes.shape[:2], -1))


class Layer(nn.Module):
    """A linear map and a library's neurons: spikes (T, B, inputs) to spikes (T, B, outputs)."""

    def __init__(self, linear: nn.Linear | Convolution, outputs: int, recurrent: bool, current_based: bool) -> None:
        super().__init__()
        self.linear = linear
        self.recurrent = nn.Linear(outputs, outputs, bias=False) if recurrent else None
        self.current_based = current_based
        self.neurons = self.build()

    def build(self) -> Any:
        """The library's neurons."""
        raise NotImplementedError

    def forward(self, spikes: Tensor) -> Tensor:
        return self.run(self.linear(spikes))

    def run(self, currents: Tensor) -> Tensor:
        # unbind, never currents[t]: each index has a gradient as large as the whole sequence, so backward would take
        # time quadratic in T. Norse's LIF and SpikingJelly's CUBALIFNode in step mode 'm' do that; hence this loop.
        state, spikes, out = None, None, []
        for current in currents.unbind(0):
            if self.recurrent is not None and spikes is not None:
                current = current + self.recurrent(spikes)
            spikes, state = self.step(current, state)
            out.append(spikes)
        return torch.stack(out)

    def step(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError


class SnnTorchLayer(Layer):
    """Synaptic, RSynaptic or Leaky; reset by subtraction where two states make reset to zero cost double."""

    def build(self) -> Any:
        import snntorch

        surrogate = snntorch.surrogate.fast_sigmoid()  # faster than their default
        if not self.current_based:
            return snntorch.Leaky(beta=STBP_DECAY, spike_grad=surrogate, reset_mechanism="zero")
        alpha, beta = 1 - 1 / TAU_SYNAPSE, 1 - 1 / TAU_MEMBRANE
        if self.recurrent is None:
            return snntorch.Synaptic(alpha, beta, spike_grad=surrogate)
        neurons = snntorch.RSynaptic(alpha, beta, linear_features=self.recurrent.out_features, spike_grad=surrogate)
        neurons.recurrent = self.recurrent  # theirs has a bias, which would only cost time
        return neurons

    def run(self, currents: Tensor) -> Tensor:
        state = self.neurons.reset_mem()
        state = (state,) if isinstance(state, Tensor) else state
        out = []
        for current in currents.unbind(0):
            spikes, *rest = self.neurons(current, *state)
            state = (spikes, *rest) if self.recurrent is not None else rest
            out.append(spikes)
        return torch.stack(out)


class SpikingJellyLayer(Layer):
    """CUBALIFNode step by step, or LIFNode on the whole sequence (step mode 'm')."""

    def build(self) -> Any:
        from spikingjelly.activation_based import neuron, surrogate

        atan = surrogate.ATan()
        if self.current_based:
            neurons = neuron.CUBALIFNode(1 - 1 / TAU_SYNAPSE, 1 - 1 / TAU_MEMBRANE, 1.0, surrogate_function=atan)
        else:
            tau = 1 / (1 - STBP_DECAY)
            neurons = neuron.LIFNode(tau, decay_input=False, surrogate_function=atan, step_mode="m")
        neurons.detach_reset = True  # faster; CUBALIFNode's constructor does not offer it
        return neurons

    def run(self, currents: Tensor) -> Tensor:
        self.neurons.reset()
        return super().run(currents) if self.current_based else self.neurons(currents)

    def step(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.neurons(current), state


class NorseLayer(Layer):
    """LIFCell or LIFBoxCell: LIFRecurrent would multiply its input step by step."""

    def build(self) -> Any:
        from norse.torch import LIFBoxCell, LIFBoxParameters, LIFCell, LIFParameters

        def per_second(tau: float) -> Tensor:
            return torch.tensor(1000 / tau)

        if not self.current_based:
            return LIFBoxCell(LIFBoxParameters(tau_mem_inv=per_second(1 / (1 - STBP_DECAY))))
        return LIFCell(LIFParameters(tau_mem_inv=per_second(TAU_MEMBRANE), tau_syn_inv=per_second(TAU_SYNAPSE)))

    def step(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        spikes, state = self.neurons(current, state)
        return spikes, state


LAYERS: dict[str, type[Layer]] = {"snntorch": SnnTorchLayer, "spikingjelly": SpikingJellyLayer, "norse": NorseLayer}


def build(peer: str, workload: Workload) -> list[Layer]:
    """The workload's network in a library's layers. A pool belongs to the layer after it."""
    layers = []
    first, *sizes = workload.network.split("-")
    channels, side, pool, inputs = 1, int(int(first) ** 0.5), 1, int(first)
    linear: nn.Linear | Convolution
    for size in sizes:
        if size.startswith("P"):
            pool = int(size.removeprefix("P"))
            continue
        if "C" in size:
            kernels, width = map(int, size.split("C"))
            linear = Convolution(channels, side, kernels, width, pool)
            channels, side = kernels, linear.out_side
            outputs = channels * side**2
        else:
            outputs = int(size.removeprefix("R"))
            linear = nn.Linear(inputs, outputs, bias=False) if pool == 1 else Pooled(channels, side, outputs, pool)
        layers.append(LAYERS[peer](linear, outputs, size.startswith("R"), workload.current_based))
        inputs, pool = outputs, 1
    return layers
