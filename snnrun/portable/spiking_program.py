"""A spiking network as a PyTorch module."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from snnrun.kernels import Lif, Srm, Stbp, Window
from snnrun.portable import functions
from snnrun.portable.parts import AdaptiveStbp, Part
from snnrun.portable.program import Program


def spiking(parts: list[Part], *, inputs: int, steps: int, currents: bool) -> Program:
    """The program of a spiking network.

    Args:
        parts: Its layers.
        inputs: Number of input channels.
        steps: T of the samples that it was trained on.
        currents: Whether its input is currents, which are held for the steps.
    """
    given = f"spikes, 0.0 or 1.0, (B, T, {inputs}) float32; it was trained on {steps} steps."
    if currents:
        given = f"currents (B, K, {inputs}) float32; each of the K values is held for an equal part of {steps} steps."
    program = Program(given, f"how often each output neuron fires, (B, {parts[-1].neurons}).")
    for part in parts:
        sources = ["inputs" if source == "input" else source for source in part.sources]
        drive = _synapses(program, part, sources)
        if currents and part.sources[0] == "input":
            drive = program.call(functions.held, drive, str(steps))
        program.say(f"{part.name} = {_neurons(program, part, drive)}")
    program.say(f"return {parts[-1].name}.sum(1)")
    return program


def _synapses(program: Program, part: Part, sources: list[str]) -> str:
    """The expression of a layer's drive."""
    seen = sources[0] if len(sources) == 1 else f"torch.cat([{', '.join(sources)}], dim=2)"
    if part.delay is not None:
        seen = program.call(functions.delayed, seen, program.tensor(f"{part.name}_delay", part.delay))
    window, average = part.window, part.average
    if window is None:
        assert part.weight is not None
        layer = program.linear(part.name, part.weight, part.bias)
        if average is not None:
            image = average.channels, average.rows, average.columns
            seen = program.call(functions.each_step, f"nn.AvgPool2d({average.height})", seen, str(image))
        return f"{layer}({seen})"
    if window.pool > 1:
        image = window.channels, window.rows, window.columns
        program.say(f"averages = {program.call(functions.each_step, f'nn.AvgPool2d({window.pool})', seen, str(image))}")
        seen = "averages"
    image = window.channels, window.rows // window.pool, window.columns // window.pool
    if part.weight is None:
        pool = program.call(functions.each_step, _sums(window), seen, str(image))
        return pool if part.gain == 1.0 else f"{part.gain!r} * {pool}"
    layer = program.convolution(part.name, part.weight, part.bias, window.stride, window.padding)
    return program.call(functions.each_step, layer, seen, str(image))


def _sums(window: Window) -> str:
    """A pool that sums: an average over a divisor of 1."""
    return f"nn.AvgPool2d(({window.height}, {window.width}), {window.stride}, divisor_override=1)"


def _neurons(program: Program, part: Part, drive: str) -> str:
    """The expression of a layer's spikes."""
    neuron, v_th = part.neuron, part.threshold
    loop = "None" if part.loop is None else program.tensor(f"{part.name}_loop", part.loop)
    if isinstance(neuron, Stbp):
        how: dict[str, Any] = {"decay": neuron.decay, "after_spike": neuron.decay_after_spike, "strict": neuron.strict}
        return program.call(functions.stbp, drive, loop, v_th=v_th, **how)
    if isinstance(neuron, AdaptiveStbp):
        own = {"kept": neuron.kept, "after_spike": neuron.after_spike, "adaptation_decay": neuron.adaptation_decay}
        names = [program.tensor(f"{part.name}_{key}", value) for key, value in own.items()]
        return program.call(functions.alif, drive, loop, *names, v_th=v_th, rise=neuron.rise, strict=neuron.strict)
    if isinstance(neuron, Lif):
        how = {"tau_m": neuron.tau_m, "tau_s": neuron.tau_s, "t_ref": neuron.t_ref}
        return program.call(functions.lif, drive, loop, v_th=v_th, **how)
    if isinstance(neuron, Srm):
        how = {"rise": neuron.rise, "decay_s": neuron.decay_s, "refractoriness": neuron.refractoriness}
        how |= {"decay_r": neuron.decay_r, "alpha": neuron.alpha}
        return program.call(functions.srm, drive, loop, v_th=v_th, **how)
    assert isinstance(v_th, Tensor)
    threshold = program.tensor(f"{part.name}_threshold", v_th)
    how = {"decay": neuron.decay, "t_ref": float(neuron.t_ref), "inhibition": neuron.inhibition}
    return program.call(functions.wta, drive, threshold, **how)
