"""What `snnrun bench` measures: trained weights that stand still, layers, phases, pairs of runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_bench import TINY

from snnrun import data, kernels
from snnrun.bench import measure, phases
from snnrun.commands import bench
from snnrun.compiled import parallel
from snnrun.errors import SnnrunError
from snnrun.run import build
from snnrun.train.training import Step, Training

CPU = torch.device("cpu")


def values(*overrides: str) -> dict[str, Any]:
    return bench.compose("fashion", [*TINY, "train.batch_size=8", *overrides])


def training_of(settings: dict[str, Any], samples: int = 16) -> Training:
    return measure._training(settings, measure._measured(settings, build.load(settings), samples), CPU)


def test_what_is_measured_are_trained_weights_that_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "row_rate", lambda *_: 1e9)
    settings = values()
    training = training_of(settings, 40)
    initial = {name: value.clone() for name, value in training.network.state_dict().items()}
    measure._warm_up(training, 100)  # more than there are: a second epoch
    inputs = build.Inputs(training.dataset, training.encoder)
    trained = {name: value.clone() for name, value in training.network.state_dict().items()}
    assert not torch.equal(trained["layers.0.weight"], initial["layers.0.weight"])
    entry = measure.measure(measure.Job(settings, inputs, trained, threads=1, repeats=2), CPU, "reference", None)
    again = measure.measure(measure.Job(settings, inputs, trained, threads=1, repeats=1), CPU, "reference", None)
    assert entry["spikes_per_sample"] == again["spikes_per_sample"]
    assert entry["compiled_code_mib"] is None  # nobody said what the process had before
    assert entry["peak_memory_mib"] >= 0
    activity = training.network(batch_of(training)[0])
    assert entry["spikes_per_sample"]["hidden1"] == pytest.approx(activity.layers[0].counts.sum().item() / 40)
    assert entry["spikes_per_sample"]["input"] == pytest.approx(dense_of(training).sum().item() / 40)


def test_the_speed_up_is_that_of_pairs_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is slower in the second pair and a neighbour comes in the third: neither counts."""
    now, pace = [0.0], iter([1, 1, 5, 5, 1, 9])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def task() -> None:
        now[0] += next(pace) * {1: 1.0, 2: 0.5}[parallel.threads()]

    assert measure._speed_up(task, 2, 3) == 2.0
    assert parallel.threads() == 2


def batch_of(training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(phases.in_turn(training, measure.EPOCH))
    return torch.cat([spikes for _, spikes, _ in parts]), torch.cat([labels for _, _, labels in parts])


def dense_of(training: Training) -> torch.Tensor:
    return kernels.unpack(batch_of(training)[0], training.dataset.channels)


def test_the_reachable_rate_weighs_layers_by_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build.network(values(), data.load("digits"))
    rates = {(64, 20): 4e9, (20, 10): 2e9, (10, 10): 1e9}
    monkeypatch.setattr(measure, "row_rate", lambda inputs, neurons: rates[inputs, neurons])
    spikes = {"input": 100.0, "hidden1": 50.0, "hidden2": 25.0, "output": 9.0}
    additions = measure._row_additions(network, spikes, 0.001, 2, CPU)
    total = 2 * (100 * 20 + 50 * 10 + 25 * 10)
    fastest = 2 * (100 * 20 / 4e9 + 50 * 10 / 2e9 + 25 * 10 / 1e9) / 2  # seconds on two cores
    assert additions["per_sample"] == total
    assert additions["rate_gadd_s"] == pytest.approx(total / 1e-6 / 1e9)
    assert additions["bound_gadd_s"] == pytest.approx(total / fastest / 1e9)
    assert additions["share"] == pytest.approx(fastest / 1e-6)


def test_row_additions_of_a_convolution_are_its_weights_times_their_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spike that k x k positions see adds k^2 rows of weights; at the edges of 8 x 8 fewer do."""
    monkeypatch.setattr(measure, "row_rate", lambda rows, columns: {(9, 4): 1e9, (36, 10): 2e9}[rows, columns])
    settings = values("model.network=4C3-P2", "model.v_th=[1,1,1]")
    network = build.network(settings, data.load("digits"))
    spikes = {"input": 64.0, "conv1": 50.0, "pool2": 25.0, "output": 9.0}
    additions = measure._row_additions(network, spikes, 0.001, 1, CPU)
    synapses = 6 * 6 * 9 * 4  # one spike of each pixel crosses each once
    assert additions["per_sample"] == 2 * (synapses + 25 * 10)
    assert additions["bound_gadd_s"] == pytest.approx((synapses + 250) / (synapses / 1e9 + 250 / 2e9) / 1e9)


def test_no_spikes_and_no_cpu_have_no_reachable_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "row_rate", None)
    network = build.network(values(), data.load("digits"))
    for count, device in ((0.0, CPU), (1.0, torch.device("cuda"))):
        spikes = dict.fromkeys(["input", "hidden1", "hidden2", "output"], count)
        additions = measure._row_additions(network, spikes, 1.0, 1, device)
        assert additions["bound_gadd_s"] is additions["share"] is None


class Clock:
    """A backend in which every call takes a second, and the calls of two steps of a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(phases.time, "perf_counter", lambda: self.now)

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> str:
            self.now += 1
            return name

        return call


def test_calls_are_booked_on_the_layer_they_belong_to(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = phases._TimedBackend(Clock(monkeypatch), ["hidden1", "output"], CPU)
    for _ in range(2):
        timed.count_spikes()
        assert timed.lif_forward(1) == "lif_forward"
        timed.lif_forward(2)
        timed.recurrent_spsp()  # of the lateral inhibition
        timed.spsp_backward()
        timed.recurrent_spsp()
        timed.spsp_activation()
        timed.coupling()
        timed.coupling_solve()
        timed.spsp_backward()
        timed.recurrent_gradient()
    assert timed.seconds == {
        "count": 2.0,
        "forward hidden1": 2.0,
        "forward output": 2.0,
        "backward output": 4.0,
        "backward hidden1": 8.0,
        "solve": 4.0,
    }


def test_calls_of_a_layer_that_gets_currents_are_booked_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = phases._TimedBackend(Clock(monkeypatch), ["hidden1", "output"], CPU)
    for _ in range(2):
        timed.current_drive()
        timed.lif_driven()
        timed.lif_forward()
        timed.spsp_backward()
        timed.recurrent_spsp()
        timed.readout_sums()
        timed.recurrent_gradient()
    assert timed.seconds == {
        **{"count": 0.0, "forward hidden1": 4.0, "forward output": 2.0, "backward output": 2.0},
        **{"backward hidden1": 6.0, "solve": 0.0},
    }


def test_calls_of_adaptive_layers_are_booked_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = phases._TimedBackend(Clock(monkeypatch), ["hidden1", "hidden2", "output"], CPU)
    for _ in range(2):
        timed.current_drive()
        timed.alif_scan()
        timed.stbp_forward()
        timed.alif_scan()
        timed.stbp_near()
        timed.stbp_forward()
        timed.stbp_backward()
        timed.alif_scan_backward()
        timed.stbp_backward()  # of the recurrent weights
        timed.stbp_backward()
        timed.alif_scan_backward()
    assert timed.seconds == {
        **{"count": 0.0, "forward hidden1": 4.0, "forward hidden2": 6.0, "forward output": 2.0, "solve": 0.0},
        **{"backward output": 2.0, "backward hidden2": 6.0, "backward hidden1": 2.0},
    }


@pytest.mark.parametrize("network", ["20-R10", "2C3-P2-R5"])
@pytest.mark.parametrize("model", ["strsbp", "hm2bp", "stbp"])
def test_every_rule_has_phases_and_the_backend_comes_back(model: str, network: str) -> None:
    training = training_of(values(f"model={model}", f"model.network={network}", "model.v_th=1"))
    backend = kernels.ops.backend
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    times = phases.phases(training, 1, 1)
    assert kernels.ops.backend is backend
    assert all(value > 0 for phase, value in times.items() if phase != "solve")
    assert (times["solve"] > 0) == (model != "stbp")
    for name, value in training.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_training_that_diverges_is_told() -> None:
    training = training_of(values())
    with torch.no_grad():
        training.network.get_parameter("layers.0.weight").fill_(float("nan"))
    training.gradients = lambda *_: Step(float("nan"), 1.0, torch.zeros(0, 10))  # type: ignore[method-assign]
    with pytest.raises(SnnrunError, match=rf"diverged\. Lower train\.lr \(now {training.options.lr:g}\)"):
        measure._warm_up(training, 8)


def test_a_network_without_a_gradient_is_not_measured() -> None:
    training = training_of(values())
    measure._try(training)
    training.gradients = lambda *_: Step(1.0, float("inf"), torch.zeros(0, 10))  # type: ignore[method-assign]
    with pytest.raises(SnnrunError, match="gradient of the first batch is not finite"):
        measure._try(training)


def test_samples_are_repeated_where_a_corpus_has_too_few() -> None:
    settings = values()
    inputs = build.load(settings)
    train = measure._measured(settings, inputs, 90).dataset.train
    assert len(train) == 90
    assert set(train.index) == set(inputs.dataset.train.index)
    assert np.array_equal(train.index[40:80], train.index[:40])


def test_a_batch_for_other_libraries_is_what_is_measured() -> None:
    spikes, labels = bench.batch("fashion", 10, TINY)
    assert (spikes.dtype, spikes.shape) == (np.uint8, (10, 20, 64))
    assert (labels.dtype, labels.shape) == (np.int64, (10,))
    training = training_of(values())
    assert np.array_equal(spikes, dense_of(training)[:10].numpy())
    assert labels.tolist() == training.dataset.train.labels[:10].tolist()
    spikes, _ = bench.batch("alpha", 2, ["data.samples=1", "data.classes=2"])
    assert spikes.shape == (2, 700, 78)
    assert spikes.max() == 1
