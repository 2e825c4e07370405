"""Compile every kernel of the gpu backend for the NVIDIA architecture that is named first; no GPU is needed.

The second argument names the kernels: `dense`, `adaptive` or `images`. Prints the names of those it compiled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from triton import compile as triton_compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from snnrun.kernels import Lif, Window, checks, gpu
from snnrun.kernels.checks import alif as alif_checks
from snnrun.kernels.checks import currents as current_checks
from snnrun.kernels.checks import images as image_checks
from snnrun.kernels.gpu import alif as gpu_alif
from snnrun.kernels.gpu import images as gpu_images
from snnrun.kernels.gpu import time

LIF = Lif(5.0, 4.0, 2, 1.0)
GROUPS: dict[str, tuple[Any, list[Any]]] = {
    "dense": (checks.CHECKS, [checks.Case(2, 25, 6, 5, LIF)]),
    "adaptive": (alif_checks.CHECKS, [current_checks.Case(2, 25, 5, 6, 5, LIF)]),
    "images": (image_checks.CHECKS, [image_checks.Case(2, 25, Window(2, 7, 9, 5, 2, 3, 2, 1), LIF)]),
}
POINTERS = {torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32"}
TYPES = {torch.Tensor: lambda x: POINTERS[x.dtype], int: lambda _: "i32", float: lambda _: "fp32"}


def sources(group: str) -> Iterator[tuple[ASTSource, dict[str, Any]]]:
    """What the checks would launch, each kind of launch once, and its options."""
    found: dict[str, tuple[ASTSource, dict[str, Any]]] = {}

    def collect(kernel, _grid, *arguments, num_warps, **constants):
        signature = dict.fromkeys(constants, "constexpr")
        for name, value in zip(kernel.arg_names, arguments, strict=False):
            if value is None or (isinstance(value, int) and value == 1):  # as Triton does when it launches
                signature[name], constants[name] = "constexpr", value
            else:
                signature[name] = TYPES[type(value)](value)
        source = ASTSource(kernel, signature, constants)
        found[source.hash()] = source, {"num_warps": num_warps, "enable_fp_fusion": False}

    for module in (gpu, time, gpu_alif, gpu_images):
        module.launch = collect
    all_checks, cases = GROUPS[group]
    for check, variants in all_checks:
        for options in variants:
            for case in cases:
                check(gpu, "cpu", case, **options)
    yield from found.values()


def main(architecture: int, group: str) -> None:
    """Compile them."""
    for source, options in sources(group):
        triton_compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
        print(source.fn.__name__)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
