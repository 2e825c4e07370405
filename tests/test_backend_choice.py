"""Which backend is chosen, what it refuses, and what it keeps."""

from __future__ import annotations

import platform
import resource
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from kernel_cases import case, single

from snnrun import kernels
from snnrun.errors import UsageError
from snnrun.kernels import Lif, cpu, pack, reference
from snnrun.kernels.cpu import arrays


def test_the_choice_of_a_backend():
    assert kernels.active() is reference
    assert kernels.use("cpu") == "cpu"
    assert kernels.active() is cpu
    assert kernels.use("reference") == "reference"
    assert kernels.ready(), "the reference has nothing to compile"
    assert kernels.use("auto", "cpu") == "cpu"
    with pytest.raises(UsageError, match=r"hardware\.kernels: the cpu kernels need hardware\.device=cpu"):
        kernels.use("cpu", "cuda")
    with pytest.raises(UsageError, match=r"there is no 'tpu'\. Allowed: auto, reference, cpu, gpu"):
        kernels.use("tpu")
    assert kernels.active() is cpu, "a wrong choice changes nothing"


def test_the_gpu_kernels_need_triton_and_a_gpu(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert kernels.use("auto", "cuda") == "reference"
    with pytest.raises(UsageError, match=r"hardware\.kernels: the gpu kernels need Triton.*snnrun\[gpu\]"):
        kernels.use("gpu", "cuda")
    monkeypatch.setattr(kernels, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match=r"hardware\.kernels: the gpu kernels need hardware\.device=cuda"):
        kernels.use("gpu", "cpu")
    assert kernels.active() is reference
    monkeypatch.setitem(sys.modules, "snnrun.kernels.gpu", stand_in := ModuleType("snnrun.kernels.gpu"))
    monkeypatch.setattr(kernels, "gpu", stand_in, raising=False)
    for name in ("gpu", "auto"):
        kernels.use("reference")
        assert kernels.use(name, "cuda") == "gpu"
        assert kernels.active() is stand_in


def test_compiled_kernels_are_ready_once_they_have_run():
    kernels.use("cpu")
    cpu.lif_forward(torch.zeros(1, 5, 1, dtype=torch.int64), torch.zeros(3, 2), None, Lif(20.0, 8.0, 2, 1.0))
    assert kernels.ready()


def test_the_cpu_kernels_refuse_what_they_cannot_compute():
    layer = case(1, 5, 3, 2, 0.3, 1.0, 0)
    lif = Lif(20.0, 8.0, 2, 1.0)
    with pytest.raises(ValueError, match="float32"):
        cpu.lif_forward(layer.spikes_in, layer.weight, None, lif)
    with pytest.raises(ValueError, match="float64"):
        cpu.recurrent_spsp("strsbp", lif, *single(layer.spikes, layer.recurrent), 2, torch.float64)
    with pytest.raises(ValueError, match="65536 steps"):
        cpu.lif_forward(torch.zeros(1, 65537, 1, dtype=torch.int64), torch.zeros(1, 1), None, lif)


def test_more_spikes_than_32_bits_count_are_refused(monkeypatch):
    monkeypatch.setattr(arrays, "spikes_of", lambda trains: np.full(len(trains), 2**30))
    with pytest.raises(ValueError, match="at most 2,147,483,584 spikes a batch, not 2,147,483,656"):
        arrays.sort_by_neuron(torch.zeros(2, 1, 1, dtype=torch.int64), 1)


def test_more_neurons_than_16_bits_count_are_right_or_refused():
    spikes_in = torch.zeros(1, 30, 65538)
    spikes_in[0, 0, 65537] = 1
    weight = torch.zeros(1, 65538)
    weight[0, 65537 % 2**16] = 100.0
    try:
        counts = cpu.lif_forward(pack(spikes_in), weight, None, Lif(20.0, 8.0, 2, 1.0))[1]
    except ValueError:
        return
    assert counts.item() == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_the_memory_of_a_batch_is_kept_for_the_next():
    """Not given back to the system, which would zero its pages again."""
    kernels.use("cpu")

    def pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        batch = [torch.ones(2**21) for _ in range(20)]  # of 8 MiB, 2048 pages each
        del batch
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages()
    assert min(pages() for _ in range(3)) < 2048
