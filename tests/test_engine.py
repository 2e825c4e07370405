"""The loop: it learns, repeats itself exactly, and ends well whatever happens in the middle."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from snnrun import encoders
from snnrun.compiled import parallel
from snnrun.data import Dataset, Split
from snnrun.errors import UsageError
from snnrun.network import Network
from snnrun.rules import Hm2Bp, StbpRule, StRsbp
from snnrun.train import boosting, engine, evaluation, hardware
from snnrun.train.batches import shuffled
from snnrun.train.engine import Options, Result
from snnrun.train.patience import stalled
from snnrun.train.training import Training

CPU = torch.device("cpu")
TARGETS = {"desired": 8.0, "undesired": 1.0, "margin": 1.0, "tau_m": 20.0}
RULES = {
    "strsbp": StRsbp(v_th=[1.0], **TARGETS),
    "hm2bp": Hm2Bp(v_th=[1.0], lateral=0.5, **TARGETS),
    "stbp": StbpRule(v_th=[0.5]),
}


def toy(samples: int = 60, validation: int = 12) -> Dataset:
    """Three classes of 6-pixel images, each with its own bright pair of pixels."""
    rng = np.random.default_rng(0)

    def split(size: int, first: int) -> Split:
        labels = np.arange(size, dtype=np.int64) % 3
        images = rng.integers(0, 40, (size, 6)).astype(np.uint8)
        for k in (0, 1):
            images[np.arange(size), 2 * labels + k] = 230
        return Split(images, labels, np.arange(first, first + size))

    train, held, test = split(samples, 0), split(validation, 1000), split(21, 2000)
    return Dataset("toy", "image", (2, 3), ("a", "b", "c"), train, held, test, "0" * 64)


class Notes:
    """An observer that remembers, and may do something at a batch."""

    def __init__(self, at_batch=None):
        self.calls, self.epochs, self.warnings, self.batches = [], [], [], 0
        self.at_batch = at_batch or (lambda count: None)

    def epoch_start(self, epoch, epochs, samples, done=0):
        self.calls.append(("start", epoch, epochs, samples))

    def batch(self, done, loss, accuracy, rates):
        self.batches += 1
        self.at_batch(self.batches)

    def evaluating(self, split, done, total):
        self.calls.append((split, done, total))

    def epoch_end(self, metrics):
        self.epochs.append(metrics)

    def warn(self, message):
        self.warnings.append(message)


class Last:
    """A keeper of the last snapshot."""

    def due(self):
        return False

    def keep(self, snapshot):
        self.snapshot = snapshot


def run(
    rule="strsbp", *, dataset=None, notes=None, seed=0, frozen=False, topology="10", keeper=None, start=None, **options
) -> Result:
    rule = RULES.get(rule, rule) if isinstance(rule, str) else rule
    network = Network(rule, inputs=6, topology=topology, outputs=3, seed=seed)
    encoder = encoders.build("bernoulli", seed=seed, steps=30, frozen=frozen)
    settings = Options(**{"epochs": 3, "batch_size": 5, "lr": 0.05} | options)
    observer = notes or Notes()
    where = {"seed": seed, "device": CPU, "observer": observer, "keeper": keeper, "start": start}
    return engine.train(network, dataset or toy(), encoder, settings, **where)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("topology", ["10", "R10"])
def test_it_learns(rule, topology):
    result = run(rule, epochs=6, topology=topology)
    assert result.status == "finished"
    assert result.history[-1]["test/accuracy"] == 1.0
    assert result.history[-1]["train/loss"] < 0.5 * result.history[0]["train/loss"]


@pytest.mark.parametrize("rule", RULES)
def test_the_same_run_twice_is_bitwise_the_same(rule):
    options = {"topology": "R10", "boosting": True}
    first, again, other = run(rule, **options), run(rule, **options), run(rule, seed=1, **options)
    assert all(torch.equal(first.last_state[name], again.last_state[name]) for name in first.last_state)
    timed = ("time/epoch_s", "time/cpu_s", "time/ms_per_sample", "samples_per_s")
    for a, b in zip(first.history, again.history, strict=True):
        assert {k: v for k, v in a.items() if k not in timed} == {k: v for k, v in b.items() if k not in timed}
    assert not torch.equal(first.last_state["layers.0.weight"], other.last_state["layers.0.weight"])


def test_metrics_and_observer_of_a_run():
    notes = Notes()
    result = run(epochs=2, notes=notes)
    assert [metrics["epoch"] for metrics in result.history] == [1.0, 2.0]
    assert notes.epochs == result.history
    assert set(result.history[0]) == {
        "epoch", "train/loss", "train/accuracy", "validation/accuracy", "test/accuracy", "rate/hidden1", "rate/output",
        "lr", "grad/norm", "time/epoch_s", "time/cpu_s", "time/ms_per_sample", "samples_per_s",
    }  # fmt: skip
    assert notes.calls[0] == ("start", 1, 2, 60)
    assert ("validation", 12, 12) in notes.calls
    assert ("test", 21, 21) in notes.calls
    assert notes.batches == 2 * 12
    assert result.confusion.sum() == 21
    assert result.confusion.sum(1).tolist() == [7, 7, 7]
    assert evaluation.accuracy(result.confusion) == result.history[-1]["test/accuracy"]
    assert not notes.warnings


def test_the_summary_chooses_the_epoch_on_the_validation_split():
    history = [
        {"test/accuracy": test, "validation/accuracy": validation}
        for test, validation in ((0.7, 0.9), (0.95, 0.8), (0.6, 0.9), (0.5, 0.1))
    ]
    summary = Result(history=history, best_epoch=3).summary
    assert summary == {
        "test/accuracy_last": 0.5,
        "test/accuracy_max_over_epochs": 0.95,
        "test/accuracy_best_validation": 0.6,
        "validation/accuracy_best": 0.9,
        "best_epoch": 3.0,
    }
    assert Result().summary == {}


def test_the_best_epoch_and_its_weights_are_kept():
    result = run(epochs=4)
    validation = [metrics["validation/accuracy"] for metrics in result.history]
    last_of_the_best = len(validation) - validation[::-1].index(max(validation))
    assert result.best_epoch == last_of_the_best
    assert result.best_state is not None
    assert set(result.best_state) == set(result.last_state)


def test_without_a_validation_split_nothing_is_chosen():
    result = run(dataset=toy(validation=0))
    assert result.best_epoch is None
    assert result.best_state is None
    assert set(result.summary) == {"test/accuracy_last", "test/accuracy_max_over_epochs"}


def interrupt_at(batch: int):
    def act(count: int) -> None:
        if count == batch:
            raise KeyboardInterrupt

    return act


def test_an_interrupt_keeps_what_was_reached():
    result = run(epochs=5, notes=Notes(interrupt_at(29)))
    assert result.status == "interrupted"
    assert result.message == "interrupted in epoch 3"
    assert len(result.history) == 2
    assert result.confusion is not None
    assert result.summary["test/accuracy_last"] == result.history[1]["test/accuracy"]
    assert set(result.last_state) == {"layers.0.weight", "layers.1.weight"}


def noise() -> Dataset:
    """Labels that mean nothing: the best epoch is not the last, so that its weights are tested after that."""
    dataset, rng = toy(), np.random.default_rng(0)
    for split in (dataset.train, dataset.validation, dataset.test):
        rng.shuffle(split.labels)
    return dataset


@pytest.mark.parametrize("average", ["none", "ema"])
def test_tested_at_the_end_alone_a_training_is_the_same(average):
    options = {"dataset": noise(), "epochs": 5, "topology": "R10", "average": average, "average_decay": 0.5}
    every, notes = run(**options), Notes()
    end = run(notes=notes, test="end", **options)
    assert end.best_epoch == every.best_epoch == 3
    assert all(torch.equal(end.last_state[name], every.last_state[name]) for name in every.last_state)
    assert all(torch.equal(end.best_state[name], every.best_state[name]) for name in every.best_state)
    assert ["test/accuracy" in metrics for metrics in end.history] == [False] * 4 + [True]
    assert every.summary == end.summary | {"test/accuracy_max_over_epochs": every.history[2]["test/accuracy"]}
    assert end.summary["test/accuracy_best_validation"] != end.summary["test/accuracy_last"]
    assert np.array_equal(end.confusion, every.confusion)
    assert notes.calls.count(("test", 21, 21)) == 2


def test_interrupted_in_its_last_evaluation_a_training_goes_on_to_the_same_end():
    class Stopper(Notes):
        def evaluating(self, split, done, total):
            super().evaluating(split, done, total)
            if self.calls.count(("test", 21, 21)) == 2:
                raise KeyboardInterrupt

    options, last = {"epochs": 5, "topology": "R10", "test": "end"}, Last()
    cut = run(dataset=noise(), notes=Stopper(), keeper=last, **options)
    assert (cut.status, len(cut.history)) == ("interrupted", 4)
    whole, again = run(dataset=noise(), **options), run(dataset=noise(), start=last.snapshot, keeper=last, **options)
    assert again.summary == whole.summary
    assert "test/accuracy_best_validation" in whole.summary
    ended = run(dataset=noise(), start=last.snapshot, **options)
    assert ended.summary == whole.summary, "what was tested is in the last snapshot"


def rises(*accuracies: float) -> list[dict[str, float]]:
    return [{"validation/accuracy": accuracy} for accuracy in accuracies]


@pytest.mark.parametrize(
    ("reached", "patience", "over"),
    [
        ((0.5, 0.6, 0.6, 0.5), 2, True),  # as high as before is no rise
        ((0.5, 0.6, 0.6, 0.5), 3, False),
        ((0.5, 0.6, 0.6, 0.7), 2, False),
        ((0.5, 0.4), 1, True),
        ((0.5,), 1, False),
        ((), 1, False),
        ((0.5, 0.4, 0.3, 0.2), None, False),
    ],
)
def test_patience_ends_when_validation_has_not_risen(reached, patience, over):
    assert stalled(rises(*reached), patience) is over


@pytest.mark.parametrize("test", ["every_epoch", "end"])
def test_a_training_without_patience_for_more_is_over_early(test):
    options = {"dataset": noise(), "topology": "R10", "schedule": "constant", "test": test}
    every, last = run(epochs=9, **options), Last()
    reached = [metrics["validation/accuracy"] for metrics in every.history]
    wanted = next(n for n in range(1, 10) if stalled(every.history[:n], 2))
    assert wanted < 9, reached
    short, early = run(epochs=wanted, **options), run(epochs=9, patience=2, keeper=last, **options)
    assert (early.status, len(early.history)) == ("finished", wanted)
    assert early.message == "ended early: validation has not risen for 2 epochs (train.patience)"
    assert early.summary == short.summary
    assert "test/accuracy_best_validation" in early.summary
    assert all(torch.equal(early.last_state[name], short.last_state[name]) for name in short.last_state)
    again = run(epochs=9, patience=2, start=last.snapshot, **options)
    assert (again.message, again.summary) == (early.message, early.summary), "a run that is over trains no further"


def test_tested_at_the_end_alone_an_interrupted_training_has_no_test_accuracy():
    result = run(epochs=5, notes=Notes(interrupt_at(29)), test="end")
    assert len(result.history) == 2
    assert result.confusion is None
    assert set(result.summary) == {"validation/accuracy_best", "best_epoch"}


def test_an_interrupt_in_the_first_epoch_keeps_the_weights():
    result = run(notes=Notes(interrupt_at(1)))
    assert result.status == "interrupted"
    assert result.history == []
    assert result.confusion is None
    assert result.last_state


def test_an_observer_ends_a_training_for_its_reason():
    class Impatient(Notes):
        def epoch_end(self, metrics):
            super().epoch_end(metrics)
            if metrics["epoch"] == 2:
                raise engine.Stop("late")

    result = run(epochs=5, notes=Impatient())
    assert (result.status, result.message, len(result.history)) == ("stopped", "late", 2)


@pytest.mark.parametrize("what", ["loss", "gradient", "weights"])
def test_a_divergence_ends_the_run_with_a_remedy(what, monkeypatch):
    """The update that would spoil the weights is not made."""
    notes = Notes()
    real = Training.gradients

    def gradients(self, *args):
        step = real(self, *args)
        if notes.batches < 23:  # the last of the second epoch
            return step
        if what == "weights":  # a neuron that always or never fires: loss and gradient stay finite
            self.network.layers[0].weight.data[0] = math.inf
            return step
        self.network.layers[0].weight.grad.fill_(math.nan)
        return step._replace(**{"loss": math.nan} if what == "loss" else {"norm": math.nan})

    monkeypatch.setattr(Training, "gradients", gradients)
    result = run("stbp", notes=notes)
    assert len(result.history) == 1
    if what != "weights":
        assert all(weights.isfinite().all() for weights in result.last_state.values())
    assert result.status == "diverged"
    assert f"The {what} became" in result.message
    assert "train.lr" in result.message
    assert "train.clip_norm" in result.message


def test_a_silent_layer_is_named_once():
    notes = Notes()
    run(StRsbp(v_th=[1e6, 1.0], **TARGETS), notes=notes, epochs=2)
    assert [message.split(" ")[1] for message in notes.warnings] == ["hidden1", "output"]
    assert all("model.v_th" in message and "`snnrun data stats`" in message for message in notes.warnings)


def test_clipping_bounds_the_step():
    """With plain gradient descent the weights move by lr * clip_norm at most."""
    start = Network(RULES["strsbp"], inputs=6, topology="10", outputs=3, seed=0).state_dict()
    dataset = toy(samples=5, validation=0)
    result = run(dataset=dataset, epochs=1, optimizer="sgd", schedule="constant", lr=0.01, clip_norm=0.5)
    moved = math.sqrt(sum((result.last_state[name] - start[name]).square().sum().item() for name in start))
    assert moved == pytest.approx(0.005, rel=1e-4)
    free = run(dataset=dataset, epochs=1, optimizer="sgd", schedule="constant", lr=0.01)
    moved = math.sqrt(sum((free.last_state[name] - start[name]).square().sum().item() for name in start))
    assert moved > 0.006


def test_frozen_spikes_are_the_same_in_every_epoch():
    """With one sample a batch, no update and no boosting, the loss of every epoch is the same."""
    losses = [metrics["train/loss"] for metrics in run(lr=1e-30, frozen=True).history]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    redrawn = [metrics["train/loss"] for metrics in run(lr=1e-30).history]
    assert redrawn[0] != pytest.approx(redrawn[1], rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("cosine", [1.0, 0.5 * (1 + math.sqrt(0.5)), 0.5, 0.5 * (1 - math.sqrt(0.5))]),
        ("inverse_sqrt", [1.0, 1 / math.sqrt(2), 1 / math.sqrt(3), 0.5]),
        ("inverse_sqrt_late", [1.0, 1.0, 1 / math.sqrt(2), 1 / math.sqrt(3)]),
        ("step", [1.0, 0.1, 0.1, 0.01]),
    ],
)
def test_schedules(schedule, rates):
    options = Options(epochs=4, lr=1.0, schedule=schedule, schedule_milestones=(1, 3))
    for epoch, expected in enumerate(rates):
        assert options.learning_rate(epoch, epoch / 4) == pytest.approx(expected)


def test_one_cycle_is_pytorchs():
    """At each of many steps of a run; PyTorch's phases end one step earlier."""
    moved = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.OneCycleLR(moved, 0.4, total_steps=1001, cycle_momentum=False)
    options = Options(epochs=10, lr=0.4, schedule="onecycle")
    for step in range(1001):
        at = step / 299.3 * 0.3 if step < 299.3 else 0.3 + (step - 299.3) / 700.7 * 0.7
        assert options.learning_rate(0, at) == pytest.approx(theirs.get_last_lr()[0])
        moved.step()
        if step < 1000:
            theirs.step()
    rates = [options.learning_rate(0, progress / 10) for progress in range(11)]
    assert rates[0] == pytest.approx(0.4 / 25)
    assert rates[3] == pytest.approx(0.4)
    assert rates[-1] == pytest.approx(0.4 / 25 / 1e4)


def test_a_warm_up_rises_to_the_schedule_whatever_the_number_of_epochs():
    for epochs in (3, 7):
        options = Options(epochs=epochs, lr=0.5, schedule="constant", warmup_epochs=1.5)
        for done in (0.0, 0.1, 0.75, 1.2, 1.5, 2.9):
            expected = 0.5 * (0.04 + 0.96 * min(1.0, done / 1.5))
            assert options.learning_rate(int(done), done / epochs) == pytest.approx(expected, rel=1e-9)
    cosine, warm = Options(epochs=4, lr=1.0), Options(epochs=4, lr=1.0, warmup_epochs=1.0)
    assert warm.learning_rate(2, 0.5) == cosine.learning_rate(2, 0.5)
    assert warm.learning_rate(0, 0.125) == pytest.approx(cosine.learning_rate(0, 0.125) * 0.52)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"warmup_epochs": 1, "schedule": "onecycle"}, "train.warmup_epochs: train.schedule=onecycle begins with"),
        ({"warmup_epochs": 5}, "train.warmup_epochs: 5 is more than the 4 of train.epochs"),
        ({"warmup_epochs": -1}, "train.warmup_epochs: -1 is out of range"),
        ({"patience": 0}, "train.patience: 0 is out of range"),
        ({"patience": 3, "average": "swa"}, "train.patience: a training that it ends may end before train.average=swa"),
        ({"average": "mean"}, "train.average: 'mean' is not allowed"),
        ({"average_decay": 1.0}, "train.average_decay: 1 is out of range"),
        ({"swa_start": 1.0}, "train.swa_start: 1 is out of range"),
        ({"swa_lr": 0.0}, "train.swa_lr: 0 is out of range"),
    ],
)
def test_options_that_cannot_be_are_refused(options, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        Options(**{"epochs": 4} | options)


def test_boosting_by_hand():
    """Class 0: samples 0 and 1, the second wrong with weight 2 of 3; class 1: nothing wrong."""
    boost = np.array([1.0, 2.0, 5.0], dtype=np.float32)
    boosting.boost_wrong(boost, np.array([0, 0, 1]), np.array([False, True, False]))
    assert boost == pytest.approx([1.0, 2.0 * math.exp(2 / 3 / 20), 5.0])


@pytest.mark.parametrize(("shuffle", "in_place"), [("full", 0.01), ("transpositions", 0.85)])
def test_shuffles(shuffle, in_place):
    """The authors' 5,000 transpositions leave 85 % of 60,000 samples where they were."""
    start = np.arange(60_000)
    first = shuffled(start, shuffle, 0, 0)
    assert sorted(first) == list(range(60_000))
    assert (first == start).mean() == pytest.approx(in_place, abs=0.01)
    assert not np.array_equal(first, shuffled(first, shuffle, 0, 1))
    assert np.array_equal(start, np.arange(60_000)), "the order before stays"


def test_prediction_is_the_first_of_the_most_active():
    dataset = toy()
    encoder = encoders.build("bernoulli", seed=0, steps=10)
    silent = Network(StRsbp(v_th=[1e6]), inputs=6, topology="", outputs=3)
    assert set(evaluation.predict(silent, dataset.test, encoder, CPU)) == {0}


def test_the_raster_shows_every_layer():
    dataset = toy()
    encoder = encoders.build("bernoulli", seed=0, steps=10)
    network = Network(RULES["stbp"], inputs=6, topology="R10", outputs=3)
    layers, label, predicted = evaluation.record_raster(network, dataset.test, encoder, CPU, sample=4)
    assert {name: raster.shape for name, raster in layers.items()} == {
        "input": (10, 6), "hidden1": (10, 10), "output": (10, 3)
    }  # fmt: skip
    assert all(raster.dtype == np.uint8 for raster in layers.values())
    assert label == 1
    assert predicted == layers["output"].sum(0).argmax()


def test_an_absent_gpu_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"hardware\.device: no GPU .*hardware=cpu"):
        hardware.set_up("cuda")
    assert hardware.set_up("auto", threads=1) == (CPU, "cpu")
    assert torch.get_num_threads() == parallel.threads() == 1
    hardware.set_up("cpu", threads=3)
    assert parallel.threads() == 3, "of the kernels and encoders"
