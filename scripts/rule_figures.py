"""Draws what each rule sees of three neurons, by the package's own kernels and rules: docs/rules/*.svg.

Two inputs, A and B, lead to one neuron C, which should fire more often than it does. Each figure has the spikes,
what the rule reads of them, and the gradients of both weights, which come from the rule itself (`Network`, autograd).

    python scripts/rule_figures.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from snnrun.kernels import Lif, pack, unpack
from snnrun.kernels.reference import srm, time, wta
from snnrun.network import Network
from snnrun.rules import RULES, Rule

FOLDER = Path(__file__).parents[1] / "docs" / "rules"
STEPS, V_TH = 100, 10.0
# Steps of the spikes. A fires in bursts, B at a steady rate; A's last spike comes after the last one of C.
TRAINS = {"A": (4, 8, 12, 16, 20, 44, 48, 52, 56, 60, 92), "B": (6, 18, 30, 42, 54, 66, 78)}
# Grey and colours that can be read on white and on black.
GREY, COLOURS = "#808080", {"A": "#3f87d9", "B": "#d9822b", "C": "#2f9e63"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "snnrun",
    "path.simplify": True,
    "font.family": "sans-serif",
    "font.size": 9,
}


class Curve(NamedTuple):
    """A value for each step, (T,), of A, B or C. `read`: the steps at which the rule takes it, marked by dots."""

    who: str
    values: Tensor
    read: Sequence[int] = ()
    line: bool = True


class Picture(NamedTuple):
    """Spikes of C, the panels with their curves, and the gradient by the weights from A and from B, (2,)."""

    fired: list[int]
    panels: dict[str, list[Curve]]
    levels: dict[str, float]  # a dashed line in a panel
    gradient: Tensor


def inputs() -> Tensor:
    """Spikes of A and B, (1, T, 2)."""
    spikes = torch.zeros(1, STEPS, 2, dtype=torch.uint8)
    for column, times in enumerate(TRAINS.values()):
        spikes[0, list(times), column] = 1
    return spikes


def trained(rule: Rule, weights: Sequence[float], own_loss: bool = True) -> tuple[Tensor, Tensor]:
    """Spikes of C, (T,), and the gradient by its weights, (2,), of the rule's own loss, or of minus the count of C."""
    network = Network(rule, inputs=2, topology="", outputs=1)
    layer = network.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    label = torch.zeros(1, dtype=torch.int64)
    activity = network(inputs(), label)
    loss = rule.sample_loss(activity.output, label) if own_loss else -activity.output.counts
    loss.sum().backward()
    assert layer.weight.grad is not None
    return unpack(activity.output.spikes, 1)[0, :, 0].float(), layer.weight.grad[0]


def steps_of(spikes: Tensor) -> list[int]:
    """The steps at which a train (T,) has a spike."""
    return [int(step) for step in spikes.nonzero()[:, 0]]


def would_read(readout: Callable[[Tensor, Lif], Tensor], spikes: Tensor, lif: Lif) -> Tensor:
    """What each input would give to S-PSP if C fired at step t, (T, 2): its part of the membrane for a weight of 1."""
    so_far = torch.tril(torch.ones(STEPS, STEPS), -1) * spikes  # row t: the spikes before step t
    e = [readout(train[:, :, None].to(torch.uint8), lif) for train in (so_far, so_far + torch.eye(STEPS))]
    return (e[1] - e[0])[:, :, 0] @ inputs()[0].float()


def spike_train_level(name: str, title: str) -> Picture:
    """ST-RSBP and HM2-BP: the S-PSP of each synapse, read at the spikes of C."""
    settings = {"tau_m": 20.0, "tau_s": 5.0, "t_ref": 2, "v_th": [V_TH], "desired": 8.0, "margin": 0.0, "lateral": 0.0}
    weights = (7.0, 5.0)
    rule = RULES[name](**settings)
    spikes, gradient = trained(rule, weights)
    lif, fired = Lif(20.0, 5.0, 2, V_TH), steps_of(spikes)
    own = would_read(time.strsbp_readout, spikes, lif)
    parts = own if name == "strsbp" else would_read(time.hm2bp_readout, spikes, lif)
    curves = [Curve(who, parts[:, column], fired) for column, who in enumerate(TRAINS)]
    membrane = "membrane of C (mV)"
    panels = {membrane: [Curve("C", own @ torch.tensor(weights), fired)], title: curves}
    return Picture(fired, panels, {membrane: V_TH}, gradient)


def strsbp() -> Picture:
    """ST-RSBP."""
    return spike_train_level("strsbp", "A's and B's part, for a weight of 1")


def hm2bp() -> Picture:
    """HM2-BP."""
    return spike_train_level("hm2bp", "effect of A and of B, closed form")


def stbp() -> Picture:
    """STBP: the error at each step, through the surrogate and back through the membrane."""
    weights = (0.6, 0.4)
    rule = RULES["stbp"](v_th=[1.0], decay=0.85, bias=False)
    spikes, gradient = trained(rule, weights)
    neuron = rule.neuron(Network(rule, inputs=2, topology="", outputs=1).layers[0].kind)
    _, u = time.stbp_scan(inputs().float() @ torch.tensor([weights]).T, None, neuron)
    error = (spikes.mean() - 1.0) / STEPS  # of 1/2 (y - rate)^2 by a spike
    by_membrane = time.stbp_scan_backward(torch.full_like(u, error), spikes[None, :, None], u, None, neuron)
    panels = {
        "membrane of C (mV)": [Curve("C", u[0, :, 0], steps_of(spikes))],
        "surrogate h(u)": [Curve("C", time.surrogate(u, neuron)[0, :, 0])],
        "error of the membrane, -dL/du": [
            Curve("C", -by_membrane[0, :, 0]),
            *(Curve(who, -by_membrane[0, :, 0], steps, line=False) for who, steps in TRAINS.items()),
        ],
    }
    return Picture(steps_of(spikes), panels, {"membrane of C (mV)": 1.0}, gradient)


def slayer() -> Picture:
    """SLAYER: response of the inputs, and the error times the density rho."""
    weights = (4.0, 2.5)
    rule = RULES["slayer"](v_th=[10.0], tau_s=5.0, tau_r=5.0, desired=6.0)
    spikes, gradient = trained(rule, weights)
    neuron = rule.neuron(Network(rule, inputs=2, topology="", outputs=1).layers[0].kind)
    _, u = srm.srm_scan(inputs().float() @ torch.tensor([weights]).T, None, neuron)
    _, responses = srm.srm_scan(inputs().float(), None, neuron._replace(v_th=1e9, scale=0.0))
    reach = neuron.width * neuron.v_th
    rho = neuron.height / reach * torch.exp(-(u[0, :, 0] - neuron.v_th).abs() / reach)
    panels = {
        "membrane of C (mV)": [Curve("C", u[0, :, 0], steps_of(spikes))],
        "responses to A and B": [Curve(who, responses[0, :, column]) for column, who in enumerate(TRAINS)],
        "density rho of a spike more or less": [Curve("C", rho)],
    }
    return Picture(steps_of(spikes), panels, {"membrane of C (mV)": 10.0}, gradient)


def lee() -> Picture:
    """Backpropagation on membrane potentials: the traces, read at the end."""
    weights = (1.0, 0.5)
    rule = RULES["lee"](v_th=[2.0], tau_m=30.0, normalise=False, loss="squared")
    spikes, gradient = trained(rule, weights, own_loss=False)  # of one output, the loss is always 0
    neuron = rule.neuron(Network(rule, inputs=2, topology="", outputs=1).layers[0].kind)
    trains = torch.cat([inputs()[0].float(), spikes[:, None]], dim=1)
    ages = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
    traces = torch.where(ages >= 0, neuron.decay ** ages.float(), 0.0) @ trains
    assert torch.allclose(traces[-1, :2], wta.trace(pack(inputs()), 2, neuron)[0])
    curves = [Curve(who, traces[:, column], [STEPS - 1]) for column, who in enumerate("ABC")]
    return Picture(steps_of(spikes), {"traces x of A and B, a of C": curves}, {}, gradient)


PICTURES = {"strsbp": strsbp, "hm2bp": hm2bp, "stbp": stbp, "slayer": slayer, "lee": lee}


def draw(picture: Picture) -> Figure:
    """The figure, without a background of its own."""
    rows = 1 + len(picture.panels)
    figure = Figure(figsize=(7.2, 0.75 + 1.05 * rows))
    sides = {"left": 0.065, "right": 0.985, "top": 1 - 0.3 / (0.75 + 1.05 * rows), "bottom": 0.5 / (0.75 + 1.05 * rows)}
    grid = figure.add_gridspec(rows, 2, width_ratios=(5, 1.15), hspace=0.5, wspace=0.2, **sides)
    spikes = figure.add_subplot(grid[0, 0], title="spikes")
    for row, (who, times) in enumerate((TRAINS | {"C": picture.fired}).items()):
        spikes.vlines(times, 2.1 - row, 2.9 - row, color=COLOURS[who], linewidth=1.8)
    spikes.set(ylim=(0, 3), yticks=[2.5, 1.5, 0.5], yticklabels=list("ABC"), xlim=(0, STEPS))
    panels = [spikes]
    for row, (title, curves) in enumerate(picture.panels.items(), start=1):
        panels.append(figure.add_subplot(grid[row, 0], title=title, sharex=spikes))
        for who, values, read, line in curves:
            if line:
                panels[-1].plot(values, color=COLOURS[who], linewidth=1.2)
            panels[-1].plot(read, values[list(read)], "o", color=COLOURS[who], markersize=3.5)
        if title in picture.levels:
            panels[-1].axhline(picture.levels[title], color=GREY, linewidth=0.8, linestyle="--")
    for panel in panels[:-1]:
        panel.tick_params(labelbottom=False)
    panels[-1].set_xlabel("step (1 ms)")
    bars = figure.add_subplot(grid[:, 1], title="−dE/dw")
    drawn = bars.bar(["A", "B"], -picture.gradient.numpy(), color=[COLOURS["A"], COLOURS["B"]], width=0.6)
    bars.bar_label(drawn, fmt="%.3g", color=GREY, padding=2)
    bars.margins(y=0.1)
    for axes in [*panels, bars]:
        plain(axes)
    return figure


def plain(axes: Axes) -> None:
    """Take frame and background away, and draw the rest in the grey that can be read on white and on black."""
    axes.patch.set_alpha(0)
    axes.set_title(axes.get_title(), loc="left", color=GREY, fontsize=9)
    axes.set_title("")
    axes.xaxis.label.set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8, length=2)
    for name, spine in axes.spines.items():
        spine.set(visible=name in ("left", "bottom"), color=GREY)


def main(folder: Path = FOLDER) -> None:
    """Write all figures to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        text = StringIO()
        with matplotlib.rc_context(STYLE):
            draw(picture()).savefig(text, format="svg", transparent=True, metadata={"Date": None})
        short = re.sub(r"\d+\.\d{3,}(?![\d<])", lambda number: f"{float(number[0]):.2f}", text.getvalue())
        (folder / f"{name}.svg").write_text(re.sub(r" +\n", "\n", short), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
