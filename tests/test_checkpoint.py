"""Snapshots: a training that goes on from one is the training that never stopped."""

from __future__ import annotations

import dataclasses
import errno
import json
from typing import Any

import pytest
import torch
from test_engine import CPU, RULES, Notes, toy

from snnrun import encoders
from snnrun.errors import SnnrunError, UsageError
from snnrun.network import Network
from snnrun.record import atomic, names, run_lock
from snnrun.rules import LeeRule, SlayerRule
from snnrun.run import checkpoint
from snnrun.train import engine
from snnrun.train.averaging import Average
from snnrun.train.engine import Options, Snapshot
from snnrun.train.optimiser import Optimiser

TOPOLOGIES = {"strsbp": "R10", "hm2bp": "9", "stbp": "R8", "slayer": "R8", "lee": "9", "strsbp-drop": "9"}
TOPOLOGIES |= {"strsbp-delays": "8-R6+1", "stbp-delays": "7-8+1"}
TOPOLOGIES |= {"strsbp-constants": "R10", "stbp-constants": "R8"}
TRAINED = RULES | {
    "slayer": SlayerRule(v_th=[1.0], tau_s=2.0, desired=6.0, undesired=0.0, delays=True),
    "lee": LeeRule(v_th=[1.0]),
    "strsbp-delays": dataclasses.replace(RULES["strsbp"], delays="trained", max_delay=4),
    "stbp-delays": dataclasses.replace(RULES["stbp"], delays="trained", max_delay=4),
    "strsbp-drop": dataclasses.replace(RULES["strsbp"], drop_inputs=0.2, drop_hidden=0.3),
    "strsbp-constants": dataclasses.replace(RULES["strsbp"], train_constants="all", constants_range=1.1),
    "stbp-constants": dataclasses.replace(RULES["stbp"], train_constants="all", constants_lr=3.0),
}


class Collector:
    """Keeps every snapshot as the bytes of its file."""

    def __init__(self) -> None:
        self.files: list[bytes] = []

    def due(self) -> bool:
        return True

    def keep(self, snapshot: Snapshot) -> None:
        self.files.append(checkpoint.encode(snapshot, {}))


def train(rule: str, start: Snapshot | None = None, **options: Any) -> tuple[engine.Result, list[bytes]]:
    dataset = toy()
    frozen = options.pop("frozen", False)
    encoder = encoders.build("bernoulli", seed=1, steps=12, frozen=frozen)
    network = Network(TRAINED[rule], inputs=6, topology=TOPOLOGIES[rule], outputs=3, seed=1)
    keeper = Collector()
    result = engine.train(
        network,
        dataset,
        encoder,
        Options(**{"epochs": 3, "batch_size": 16, "lr": 0.02} | options),
        seed=1,
        device=CPU,
        observer=Notes(),
        keeper=keeper,
        start=start,
    )
    return result, keeper.files


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {key: value for key, value in metrics.items() if not key.startswith("time/") and key != "samples_per_s"}
        for metrics in history
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("strsbp", {"boosting": True, "shuffle": "transpositions"}),
        ("strsbp", {"optimizer": "sgd", "momentum": 0.9, "lr": 0.001, "schedule": "inverse_sqrt_late"}),
        ("hm2bp", {"clip_norm": 0.5, "frozen": True}),
        ("stbp", {"boosting": True, "schedule": "step", "schedule_milestones": (1,)}),
        ("slayer", {}),
        ("strsbp-delays", {"weight_decay": 0.01}),
        ("stbp-delays", {"average": "ema"}),
        ("lee", {}),
        ("strsbp-drop", {}),
        ("strsbp", {"average": "ema", "average_decay": 0.9, "warmup_epochs": 1.5}),
        ("stbp", {"average": "swa", "swa_start": 0.4, "schedule": "onecycle", "decoupled_decay": True}),
    ],
)
def test_going_on_from_any_snapshot_gives_the_same_bits(rule, options, tmp_path):
    """Four batches and the epoch's end, three times over: fifteen snapshots, each of which is gone on from."""
    whole, files = train(rule, **options)
    assert len(files) == 15
    for number, content in enumerate(files):
        (tmp_path / names.CHECKPOINT).write_bytes(content)
        loaded = checkpoint.load(tmp_path)
        assert loaded is not None
        rest, later = train(rule, start=loaded.snapshot, **options)
        assert len(later) == len(files) - number - 1
        assert without_times(rest.history) == without_times(whole.history)
        assert rest.summary == whole.summary
        assert (rest.confusion == whole.confusion).all()
        for state, expected in ((rest.last_state, whole.last_state), (rest.best_state, whole.best_state)):
            assert state is not None
            assert expected is not None
            assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_an_interrupt_while_a_snapshot_is_restored_writes_none(monkeypatch, tmp_path):
    """What is half restored would replace a whole snapshot."""
    _, files = train("stbp", average="ema")
    (tmp_path / names.CHECKPOINT).write_bytes(files[5])
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Average, "restore", interrupted)
    written: list[Any] = []
    monkeypatch.setattr(Collector, "keep", lambda _, snapshot: written.append(snapshot))
    with pytest.raises(KeyboardInterrupt):
        train("stbp", start=loaded.snapshot, average="ema")
    assert not written


def test_an_interrupt_in_the_middle_of_an_update_keeps_the_snapshot_before(monkeypatch):
    """Half of what a step changes is changed: this is not a moment to go on from."""
    dataset = toy()
    network = Network(RULES["stbp"], inputs=6, topology="", outputs=3)
    encoder = encoders.build("bernoulli", seed=0, steps=10)
    keeper = Collector()
    monkeypatch.setattr(Collector, "due", lambda _: False)
    step = Optimiser.step

    def interrupted(self: Any, *arguments: Any) -> Any:
        step(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Optimiser, "step", interrupted)
    options = Options(epochs=2, batch_size=16)
    result = engine.train(network, dataset, encoder, options, seed=0, device=CPU, observer=Notes(), keeper=keeper)
    assert result.status == "interrupted"
    assert keeper.files == []


def test_an_interrupt_in_the_middle_of_a_shuffle_keeps_the_snapshot_before(monkeypatch):
    """Transpositions begin with the order that is there: made twice they give another one."""
    keeper = Collector()
    monkeypatch.setattr(Collector, "due", lambda _: False)
    shuffled = engine.shuffled

    def interrupted(order: Any, how: str, seed: int, epoch: int) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return shuffled(order, how, seed, epoch)

    monkeypatch.setattr(engine, "shuffled", interrupted)
    network = Network(RULES["stbp"], inputs=6, topology="", outputs=3)
    encoder = encoders.build("bernoulli", seed=0, steps=10)
    options = Options(epochs=2, batch_size=16, shuffle="transpositions")
    engine.train(network, toy(), encoder, options, seed=0, device=CPU, observer=Notes(), keeper=keeper)
    assert len(keeper.files) == 1, "that of the end of the first epoch"


def test_an_interrupt_elsewhere_is_a_moment_to_go_on_from():
    def stop(count: int) -> None:
        if count == 2:
            raise KeyboardInterrupt

    network = Network(RULES["stbp"], inputs=6, topology="", outputs=3)
    encoder = encoders.build("bernoulli", seed=0, steps=10)
    keeper = Collector()
    keeper.due = lambda: False  # type: ignore[method-assign]
    options = Options(epochs=2, batch_size=16)
    engine.train(network, toy(), encoder, options, seed=0, device=CPU, observer=Notes(stop), keeper=keeper)
    (content,) = keeper.files
    assert b'\\"samples\\": 32' in content


# ---- the file -------------------------------------------------------------------------------------------------------


def keep(folder, warn=lambda _: None, every=None):
    snapshot = Snapshot({"order": torch.arange(3)}, {"history": []})
    keeper = checkpoint.Keeper(folder, every, {"digest": "d"}, warn)
    keeper.keep(snapshot)
    return keeper


def test_a_file_comes_back_as_it_was(tmp_path):
    keep(tmp_path)
    found = checkpoint.load(tmp_path)
    assert found is not None
    (tensors, facts), about, fault = found
    assert torch.equal(tensors["order"], torch.arange(3))
    assert (facts, about, fault) == ({"history": []}, {"digest": "d"}, "")
    assert [path.name for path in tmp_path.iterdir()] == [names.CHECKPOINT]


def test_no_file_is_no_checkpoint(tmp_path):
    assert checkpoint.load(tmp_path) is None


def test_how_often(tmp_path):
    assert keep(tmp_path, every=0).due()
    assert not keep(tmp_path, every=5).due()
    assert not keep(tmp_path, every=None).due()


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "foreign", "version", "folder", "bit"])
def test_a_damaged_file_is_one_message(kind, tmp_path):
    keep(tmp_path)
    path = tmp_path / names.CHECKPOINT
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "foreign":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, path)
    else:
        newer = content.replace(b'\\"format\\": 1', b'\\"format\\": 9')
        flipped = content[:-9] + bytes([content[-9] ^ 16]) + content[-8:]
        damaged = {"cut": content[:-5], "empty": b"", "text": b"hello" * 9, "version": newer, "bit": flipped}
        path.write_bytes(damaged[kind])
    with pytest.raises(SnnrunError, match=r"state.safetensors: the checkpoint cannot be read .*starts the run"):
        checkpoint.load(tmp_path)


def test_the_checkpoint_before_stands_in_for_a_damaged_one(tmp_path):
    keeper = keep(tmp_path)
    path, before = tmp_path / names.CHECKPOINT, tmp_path / names.CHECKPOINT_BEFORE
    keeper.keep(Snapshot({"order": torch.arange(4)}, {}))
    assert len(checkpoint.load(tmp_path).snapshot.tensors["order"]) == 4
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 16]) + content[-8:])
    found = checkpoint.load(tmp_path)
    assert len(found.snapshot.tensors["order"]) == 3
    assert str(path) in found.fault
    assert "its content is not what was written" in found.fault
    keep(tmp_path)  # another process, which must not take the damaged one for the one before
    assert checkpoint.load(tmp_path).fault == ""
    path.write_bytes(content[:50])
    assert len(checkpoint.load(tmp_path).snapshot.tensors["order"]) == 3
    before.write_bytes(b"")
    with pytest.raises(SnnrunError, match="cannot be read"):
        checkpoint.load(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {path.name, before.name}


def test_a_file_system_without_second_names_keeps_one_checkpoint(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(atomic.os, "link", refuse)
    keep(tmp_path).keep(Snapshot({"order": torch.arange(4)}, {}))
    assert len(checkpoint.load(tmp_path).snapshot.tensors["order"]) == 4
    assert [path.name for path in tmp_path.iterdir()] == [names.CHECKPOINT]


def test_the_first_versions_wrote_no_checksum(tmp_path):
    keep(tmp_path)
    path = tmp_path / names.CHECKPOINT
    content = path.read_bytes()
    assert b'\\"checksum\\": ' in content
    path.write_bytes(content.replace(b'\\"checksum\\"', b'\\"kcehcmus\\"'))
    assert checkpoint.load(tmp_path) is not None


def test_the_snapshot_of_another_network_is_refused():
    _, files = train("stbp")
    header = json.loads(files[-1][8 : 8 + int.from_bytes(files[-1][:8], "little")])
    facts = json.loads(header["__metadata__"]["snnrun"])["facts"]
    with pytest.raises(SnnrunError, match="the checkpoint is of another training"):
        train("strsbp", start=Snapshot({"network/layers.0.weight": torch.zeros(1)}, facts))


def test_a_full_disk_keeps_the_file_before_and_warns_once(tmp_path, monkeypatch):
    warnings: list[str] = []
    keeper = keep(tmp_path, warnings.append)
    before = (tmp_path / names.CHECKPOINT).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    for _ in range(2):
        keeper.keep(Snapshot({"order": torch.arange(9)}, {}))
    assert (tmp_path / names.CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [names.CHECKPOINT]
    (warning,) = warnings
    assert "No space left on device" in warning
    assert keeper.fault
    monkeypatch.undo()
    keeper.keep(Snapshot({"order": torch.arange(9)}, {}))
    assert not keeper.fault


def test_one_process_at_a_time(tmp_path):
    with (
        run_lock.alone(tmp_path),
        pytest.raises(UsageError, match=r"process \d+ on .* is working on this run"),
        run_lock.alone(tmp_path),
    ):
        pass
    with run_lock.alone(tmp_path):
        pass
