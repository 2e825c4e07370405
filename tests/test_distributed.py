"""Several processes train what one trains, and end together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_engine import CPU, RULES, Notes, toy

from snnrun import cli, encoders
from snnrun.errors import SnnrunError, UsageError
from snnrun.network import Network
from snnrun.sweep import lifecycle
from snnrun.train import distributed, engine, launcher
from snnrun.train.distributed import Group

# A float32 sum in two parts rounds apart from one; after an epoch the weights differ by so much of the largest weight.
TOLERANCE = 1e-5
TINY = ["data.limit=21", "encoder.steps=8", "model.network=6", "model.v_th=2", "hardware=cpu", "train.batch_size=4"]


# ---- shares ----------------------------------------------------------------------------------------------------------


@given(length=st.integers(0, 50), size=st.integers(1, 9))
def test_shares_are_contiguous_even_and_whole(length: int, size: int) -> None:
    positions = np.random.default_rng(0).permutation(length)
    shares = []
    for rank in range(size):
        group = Group()
        group.rank, group.size = rank, size
        shares.append(group.share(positions))
    assert np.array_equal(np.concatenate(shares), positions)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_alone_nothing_is_done() -> None:
    with distributed.group(1, print) as group:
        assert (group.rank, group.size, group.leads) == (0, 1, True)
        values = np.array([1.0, 2.0])
        assert group.total(values) is values
        with group.first(), group.together():
            assert np.array_equal(group.share(np.arange(5)), np.arange(5))


# ---- the same numbers ------------------------------------------------------------------------------------------------


def train(group: Group, rule: str, epochs: int = 1) -> engine.Result:
    """61 samples in batches of 5: shares of 3 and 2, and a last batch of one sample, of which one process has none."""
    network = Network(RULES[rule], inputs=6, topology="12-R9", outputs=3, seed=0)
    encoder = encoders.build("bernoulli", seed=0, steps=30, frozen=False)
    options = engine.Options(epochs=epochs, batch_size=5, lr=0.01, clip_norm=2.0, boosting=True)
    rest: dict[str, Any] = {"seed": 0, "device": CPU, "observer": Notes(), "group": group}
    return engine.train(network, toy(samples=61), encoder, options, **rest)


def train_all(group: Group, marker: str) -> dict[str, engine.Result]:
    with group.first():
        if group.leads:
            time.sleep(0.2)
            Path(marker).touch()
        assert Path(marker).exists(), "the leader comes first"
    return {rule: train(group, rule, epochs=2 if rule == "strsbp" else 1) for rule in RULES}


@pytest.mark.launches
@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.long), 3])
def test_several_processes_train_what_one_trains(processes: int, tmp_path: Path) -> None:
    marker = str(tmp_path / "marker")
    alone = train_all(Group(), marker)
    Path(marker).unlink()
    with distributed.group(processes, train_all, marker) as group:
        assert group.size == processes
        shared = train_all(group, marker)
    for rule in RULES:
        for name, weights in alone[rule].last_state.items():
            apart = (weights.double() - shared[rule].last_state[name].double()).abs().max() / weights.max()
            print(f"{processes} processes, {rule}, {name}: largest difference {apart:.1e} of the largest weight")
            assert apart < TOLERANCE, (rule, name)
        for one, several in zip(alone[rule].history, shared[rule].history, strict=True):
            exact = {key for key in one if key.startswith(("rate/", "test/", "validation/", "train/acc"))} | {"lr"}
            assert {key: one[key] for key in exact} == {key: several[key] for key in exact}
            for key in ("train/loss", "grad/norm"):
                assert several[key] == pytest.approx(one[key], rel=1e-5)
        assert np.array_equal(alone[rule].confusion, shared[rule].confusion)


# ---- ends ------------------------------------------------------------------------------------------------------------


def fail(group: Group, how: str) -> None:
    """A follower's."""
    if how == "usage":
        raise UsageError("key: wrong")
    if how == "bug":
        raise ZeroDivisionError("first line\nsecond line")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        group.total(np.zeros(1))


@pytest.mark.launches
@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("usage", UsageError, "^key: wrong"),
        ("bug", SnnrunError, r"^unexpected ZeroDivisionError: first line \(set HYDRA_FULL_ERROR=1"),
        ("killed", SnnrunError, r"^process 2 of 2 was ended by SIGKILL\. .*hardware\.processes"),
    ],
)
def test_what_ends_a_follower_ends_all_with_its_message(how: str, kind: type[SnnrunError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught, distributed.group(2, fail, how) as group:
        fail(group, "never")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    if how == "bug":
        assert "in fail" in caught.value.__notes__[0]
    assert not torch.distributed.is_initialized()


@pytest.mark.launches
def test_an_error_of_the_leader_is_its_own_and_a_signal_stops_all() -> None:
    def stopped_then_wrong(group: Group) -> None:
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), group.together():
            stop_itself(group)
        assert signal.getsignal(signal.SIGINT) == before
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"), distributed.group(2, fail, "never") as group:
        stopped_then_wrong(group)


def stop_itself(group: Group) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    group.total(np.zeros(1))


# ---- the command -----------------------------------------------------------------------------------------------------


def snnrun(folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "snnrun", "train", *TINY, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, env=os.environ | more, start_new_session=True, **pipes)


@pytest.mark.launches
def test_a_sweep_of_runs_in_two_processes_leaves_one_folder_each(tmp_path: Path) -> None:
    run = snnrun(tmp_path, "-m", "seed=0,1", "train.epochs=1", "hardware.processes=2")
    out, err = run.communicate(timeout=300)
    assert (run.returncode, err) == (0, "")
    assert out.count("2 processes, each: CPU") == 2
    [sweep] = (tmp_path / "outputs" / "sweeps").iterdir()
    points = [folder for folder in sweep.iterdir() if folder.is_dir()]
    assert sorted(folder.name for folder in points) == ["0", "1"]
    assert all((folder / "last.safetensors").exists() for folder in points)
    assert not (tmp_path / "outputs" / "runs").exists()


@pytest.mark.launches
def test_ctrl_c_in_the_terminal_ends_all_with_one_message_and_what_it_has(tmp_path: Path) -> None:
    run = snnrun(tmp_path, "tracking=none", "train.epochs=100000", "hardware.processes=2")
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("epoch 2/"):
            break
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: all processes get it
    out, err = run.communicate(timeout=120)
    assert (run.returncode, err) == (130, "snnrun: interrupted\n")
    assert "interrupted" in out
    [folder] = (tmp_path / "outputs" / "runs").iterdir()
    assert (folder / "last.safetensors").exists()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.launches
def test_under_an_outer_launcher_rank_0_sweeps_and_the_others_make_nothing(tmp_path: Path) -> None:
    """One point fails, on both; the other is trained."""
    outer = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = [tmp_path / "rank0", tmp_path / "rank1"]
    runs = []
    for rank, place in enumerate(places):
        place.mkdir()
        arguments = ("-m", "data.limit=1,21", "train.epochs=1", "tracking=none")
        runs.append(snnrun(place, *arguments, RANK=str(rank), **outer))
    (out, err), nothing = [run.communicate(timeout=300) for run in runs]
    assert nothing[0] == ""
    assert all(line.startswith("snnrun: waiting for") for line in nothing[1].splitlines())  # on a busy machine
    assert [run.returncode for run in runs] == [1, 1]
    assert "hardware.processes: 2 processes for 1 training samples" in err
    assert out.count("2 processes, each: CPU") == 1
    [sweep] = (places[0] / "outputs" / "sweeps").iterdir()
    assert not (sweep / "0" / "last.safetensors").exists()
    assert (sweep / "1" / "last.safetensors").exists()
    assert list(places[1].iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "not WORLD_SIZE, MASTER_ADDR, MASTER_PORT.*unset RANK"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x in the environment: a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 in the environment: with WORLD_SIZE=2, 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "hardware.processes: 4, but .* one of 2 processes"),
    ],
)
def test_a_wrong_environment_is_told(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(environment) == 2:
        environment = environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message), distributed.group(4, print):
        pass


def test_a_sweep_over_other_processes_does_not_go_with_an_outer_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(launcher.LEADER, "1")
    with pytest.raises(UsageError, match="hydra/launcher: only basic"), distributed.group(1, print):
        pass


def test_a_launcher_of_one_process_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1", launcher.LEADER: "1"}
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    assert distributed.follow(print) is None
    assert distributed.dismiss(7) == 7
    with distributed.group(1, print) as group:
        assert group.size == 1


@pytest.mark.parametrize(("rank", "followed", "code"), [("1", 7, 7), ("0", None, 2)])
def test_a_run_is_resumed_under_a_launcher_as_it_is_trained(
    rank: str, followed: int | None, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dismissed: list[int] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(distributed, "follow", lambda *_: followed)
    monkeypatch.setattr(distributed, "dismiss", dismissed.append)
    assert cli.main(["resume", "nothing", "--outputs", str(tmp_path)]) == code
    assert dismissed == ([] if rank == "1" else [2])


# ---- left-over variables of a launcher -------------------------------------------------------------------------------


@pytest.fixture(params=["0", "1"])
def left_over(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The environment of one of two processes, of which the other is nowhere."""
    monkeypatch.chdir(tmp_path)
    outer = {"RANK": request.param, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(launcher.LEADER, str(os.getpid()))
    for name, value in {"NOTICE_S": 0.0, "_store": None, "_meeting": None}.items():
        monkeypatch.setattr(launcher, name, value)
    return str(request.param)


@pytest.mark.slow
def test_who_waits_for_nobody_says_so_and_gives_up(
    left_over: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *TINY, "hardware.wait_minutes=0.005"]) == 1
    waiting, gave_up = capsys.readouterr().err.splitlines()
    assert f"waiting for the other processes of RANK={left_over} WORLD_SIZE=2 MASTER_ADDR=127.0.0.1" in waiting
    assert "hardware.wait_minutes" in waiting
    assert "waited 0.005 minutes" in gave_up
    assert "unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT" in gave_up
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_nobody_can_be_interrupted(number: signal.Signals, left_over: str) -> None:
    before = signal.signal(number, signal.default_int_handler)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), number))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            launcher.meet(0.5)
    finally:
        timer.join()
        signal.signal(number, before)


@pytest.mark.parametrize("left_over", ["0"], indirect=True)
def test_a_port_that_another_server_has_is_told(left_over: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(os.environ["MASTER_PORT"])))
        taken.listen()
        with pytest.raises(SnnrunError, match=r"cannot meet \(.*address already in use.*unset RANK"):
            launcher.meet()


@pytest.mark.parametrize("value", ["0", "x"])
def test_a_wrong_time_to_wait_is_told_without_composing(value: str) -> None:
    with pytest.raises(UsageError, match=f"hardware.wait_minutes: {value} is not a number"):
        lifecycle.wait_minutes([f"hardware.wait_minutes={value}"])
    assert lifecycle.wait_minutes(["seed=1"]) == launcher.WAIT_MINUTES
