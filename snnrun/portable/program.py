"""A PyTorch module that is being written, line by line."""

from __future__ import annotations

import inspect
import pprint
import textwrap
from collections.abc import Callable
from typing import Any

from torch import Tensor

from snnrun.portable import functions, quantise

_FILE = '''\
"""{title}

    scores = load()(inputs)    # see Network.forward
    CLASSES[scores[0].argmax()]
"""

from __future__ import annotations

{imports}from pathlib import Path

import torch
from torch import Tensor, nn

CLASSES = {classes}


{functions}class Network(nn.Module):
    """{chain}"""

    def __init__(self) -> None:
        super().__init__()
{made}

    def forward(self, inputs: Tensor) -> Tensor:
        """From {inputs}

        To {returns}
        """
{done}


def load(path: str | Path = Path(__file__).with_suffix(".pt")) -> Network:
    """The network with its weights, on the CPU."""
    network, state = Network(), torch.load(path, map_location="cpu", weights_only=True)
{dequantised}    network.load_state_dict(state)
    return network.eval()
'''
_DEQUANTISED = """\
    for key in [key for key, value in state.items() if value.dtype == torch.int8]:  # to be multiplied by their scales
        state[key] = state[key].float() * state.pop(f"{key}_scale")
"""


class Program:
    """A module that is being written.

    Attributes:
        state: Its tensors, by the names that its `state_dict` has.
    """

    def __init__(self, inputs: str, returns: str) -> None:
        self.state: dict[str, Tensor] = {}
        self._inputs, self._returns = inputs, returns
        self._made: list[str] = []
        self._done: list[str] = []
        self._used: dict[str, Callable[..., Any]] = {}

    def module(self, name: str, made: str, **tensors: Tensor | None) -> str:
        """Make a submodule with these parameters. Returns how the file calls it."""
        self._made.append(f"self.{name} = {made}")
        self.state |= {f"{name}.{key}": value.detach() for key, value in tensors.items() if value is not None}
        return f"self.{name}"

    def tensor(self, name: str, value: Tensor) -> str:
        """Keep a tensor. Returns how the file calls it."""
        kind = "" if value.is_floating_point() else f", dtype={value.dtype}"
        self._made.append(f'self.register_buffer("{name}", torch.empty({list(value.shape)}{kind}))')
        self.state[name] = value.detach()
        return f"self.{name}"

    def linear(self, name: str, weight: Tensor, bias: Tensor | None) -> str:
        """Make a dense layer."""
        neurons, inputs = weight.shape
        bare = ", bias=False" if bias is None else ""
        return self.module(name, f"nn.Linear({inputs}, {neurons}{bare})", weight=weight, bias=bias)

    def convolution(self, name: str, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> str:
        """Make a convolution."""
        kernels, channels, *size = weight.shape
        bare = ", bias=False" if bias is None else ""
        made = f"nn.Conv2d({channels}, {kernels}, {tuple(size)}, {stride}, {padding}{bare})"
        return self.module(name, made, weight=weight, bias=bias)

    def call(self, function: Callable[..., Any], *arguments: str, **more: object) -> str:
        """An expression that calls one of `functions`, whose text the file gets."""
        self._used[function.__name__] = function
        named = (f"{key}={value}" for key, value in more.items())
        return f"{function.__name__}({', '.join([*arguments, *named])})"

    def say(self, line: str) -> None:
        """Add a line to the forward pass."""
        self._done.append(line)

    def packed(self) -> dict[str, Tensor]:
        """The state with weights that are int8 times a scale stored so."""
        return quantise.packed(self.state, [key for key, value in self.state.items() if value.dim() > 1])

    def text(self, title: str, classes: tuple[str, ...], chain: str, *, quantised: bool = False) -> str:
        """The file."""
        used = [function for name, function in vars(functions).items() if name in self._used]
        return _FILE.format(
            title=title.replace("\\", "/").replace('"', "'"),
            imports="from collections.abc import Callable\n" if functions.each_step in used else "",
            classes=pprint.pformat(list(classes), width=106, compact=True),
            functions="".join(f"{inspect.getsource(function)}\n\n" for function in used),
            chain=chain,
            made=textwrap.indent("\n".join(self._made), " " * 8),
            inputs=self._inputs,
            returns=self._returns,
            done=textwrap.indent("\n".join(self._done), " " * 8),
            dequantised=_DEQUANTISED if quantised else "",
        )
