"""Compiled loops that share their items among threads, at once or begun for later."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from test_parallel import THREADS

from snnrun.compiled import parallel
from snnrun.compiled.jit import Counts, jit
from snnrun.compiled.threads import Ahead, share
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.train import hardware

# ---- loops that share their items -----------------------------------------------------------------------------------


@jit
def mark(visits: Counts, turn: Turn) -> None:
    """Count how often each item is taken, and work on it for a while."""
    while True:
        k = take(turn)
        if k == NONE:
            return
        x = np.uint64(k)
        for _ in range(2_000):
            x = x * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        visits[k] += 1 + np.int64(x == np.uint64(0))


@pytest.mark.parametrize("threads", THREADS)
def test_every_item_of_a_loop_is_taken_once(threads):
    parallel.set_threads(threads)
    for count in (0, 1, 2, 7, 500):
        visits = np.zeros(count, np.int64)
        share(count, lambda turn, visits=visits: mark(visits, turn))
        assert (visits == 1).all()


@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["watching", "asleep"])
def test_all_threads_work_on_a_loop(pause):
    """At the same time: each waits for the others."""
    parallel.set_threads(3)
    for _ in range(5):
        meeting, names = threading.Barrier(3), []

        def task(turn: Turn, meeting: threading.Barrier = meeting, names: list[str] = names) -> None:
            if take(turn) != NONE:
                meeting.wait(timeout=30)
                names.append(threading.current_thread().name)

        share(3, task)
        assert len(set(names)) == 3
        assert threading.main_thread().name in names
        time.sleep(pause)


def test_one_loop_after_another():
    """None of which a helper that comes late may disturb."""
    parallel.set_threads(4)
    visits = np.zeros((3000, 5), np.int64)
    for row in visits:
        share(5, lambda turn, row=row: mark(row[:], turn))
    assert (visits == 1).all()


def test_what_a_loop_of_the_caller_raises_is_raised_after_the_helpers_are_done():
    parallel.set_threads(3)
    visits, begun = np.zeros(400_000, np.int64), threading.Event()

    def task(turn: Turn) -> None:
        if threading.current_thread() is threading.main_thread():
            take(turn)
            begun.wait(timeout=30)
            raise LookupError
        visits[take(turn)] += 1
        begun.set()
        mark(visits, turn)

    with pytest.raises(LookupError):
        share(len(visits), task)
    after = visits.copy()
    time.sleep(0.05)
    assert (visits == after).all(), "nobody works any more"
    assert 0 < after.sum() < len(visits) - 1, "and nobody took what was left"
    share(500, lambda turn: mark(visits, turn))
    assert (visits[:500] == after[:500] + 1).all(), "the helpers still work"


def test_what_a_helper_raises_is_raised():
    parallel.set_threads(2)
    visits, raises = np.zeros(2000, np.int64), threading.Event()

    def task(turn: Turn) -> None:
        if threading.current_thread() is not threading.main_thread():
            raises.set()
            raise LookupError("helper")
        visits[take(turn)] = 1
        assert raises.wait(timeout=30)
        mark(visits, turn)

    with pytest.raises(LookupError, match="helper"):
        share(len(visits), task)
    assert (visits == 1).all(), "by the caller"


def test_ctrl_c_in_a_loop_passes_on_when_the_helpers_are_done():
    parallel.set_threads(2)
    visits = np.zeros(2000, np.int64)

    def task(turn: Turn) -> None:
        if threading.current_thread() is threading.main_thread():
            take(turn)
            signal.raise_signal(signal.SIGINT)
        mark(visits, turn)

    with pytest.raises(KeyboardInterrupt):
        share(len(visits), task)
    after = visits.copy()
    time.sleep(0.05)
    assert (visits == after).all()


def test_a_loop_may_share_inside_another():
    """Then the inner one runs on one thread, for the helpers are taken."""
    parallel.set_threads(3)
    visits = np.zeros((20, 50), np.int64)

    def outer(turn: Turn) -> None:
        while (k := take(turn)) != NONE:
            share(50, lambda inner, k=k: mark(visits[k], inner))

    share(20, outer)
    assert (visits == 1).all()


def test_callers_of_several_threads_do_not_disturb_one_another():
    """The encoder's thread and the one that trains."""
    parallel.set_threads(3)
    visits = np.zeros((3, 50), np.int64)

    def call(k: int) -> None:
        for _ in range(20):
            share(50, lambda turn: mark(visits[k], turn))

    callers = [threading.Thread(target=call, args=(k,)) for k in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (visits == 20).all()


# ---- loops that are begun for later ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_all_of_what_was_begun_is_done_when_it_is_finished(threads, count):
    """With other loops in between, and one that is begun before the last is finished."""
    parallel.set_threads(threads)
    visits, others = np.zeros((2, count), np.int64), np.zeros(300, np.int64)
    works = [Ahead(count, lambda turn, row=row: mark(row, turn)) for row in visits]
    for _ in range(3):
        share(300, lambda turn: mark(others, turn))
    for each in works:
        each.finish()
    assert (visits == 1).all()
    assert (others == 3).all()


def test_a_helper_works_ahead_but_leaves_for_what_is_urgent():
    parallel.set_threads(2)
    ahead, urgent, seen = np.zeros(300_000, np.int64), np.zeros(2, np.int64), threading.Event()
    work = Ahead(len(ahead), lambda turn: mark(ahead, turn))
    while not ahead.any():
        time.sleep(0.001)

    def task(turn: Turn) -> None:
        item = take(turn)
        if threading.current_thread() is threading.main_thread():
            assert seen.wait(timeout=30)
        else:
            seen.set()
        urgent[item] += 1

    share(2, task)
    assert (urgent == 1).all(), "one by the helper"
    assert 0 < ahead.sum() < len(ahead)
    work.finish()
    assert (ahead == 1).all()


def test_what_was_begun_is_finished_by_other_threads_if_these_are_others_by_then():
    parallel.set_threads(2)
    visits, others = np.zeros(100_000, np.int64), np.zeros(10, np.int64)
    work = Ahead(len(visits), lambda turn: mark(visits, turn))
    while not visits.any():
        time.sleep(0.001)
    parallel.set_threads(3)
    share(10, lambda turn: mark(others, turn))
    work.finish()
    assert (visits == 1).all()


def test_what_was_begun_and_forgotten_is_in_nobodys_way():
    parallel.set_threads(2)
    dropped, visits = np.zeros(50_000, np.int64), np.zeros(500, np.int64)
    Ahead(len(dropped), lambda turn: mark(dropped, turn))
    gc.collect()
    work = Ahead(len(visits), lambda turn: mark(visits, turn))
    while not visits.any():
        time.sleep(0.001)
    work.finish()
    assert (visits == 1).all()
    assert (dropped <= 1).all()


def test_what_the_caller_raises_in_finishing_is_raised():
    parallel.set_threads(2)

    def task(turn: Turn) -> None:
        while take(turn) != NONE:
            if threading.current_thread() is threading.main_thread():
                raise LookupError
            time.sleep(0.01)

    with pytest.raises(LookupError):
        Ahead(200, task).finish()
    visits = np.zeros(100, np.int64)
    share(100, lambda turn: mark(visits, turn))
    assert (visits == 1).all(), "the helpers still work"


def test_helpers_that_are_no_longer_wanted_end_with_the_next_loop():
    def ours() -> int:
        return sum(thread.name.startswith("snnrun-") for thread in threading.enumerate())

    parallel.set_threads(4)
    visits = np.zeros(10, np.int64)
    share(10, lambda turn: mark(visits, turn))
    assert ours() == 3
    parallel.set_threads(1)
    share(10, lambda turn: mark(visits, turn))
    assert ours() == 0
    assert (visits == 2).all()


def test_a_forked_process_has_helpers_of_its_own():
    parallel.set_threads(2)
    visits = np.zeros(100, np.int64)
    share(100, lambda turn: mark(visits, turn))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        share(100, lambda turn: mark(visits, turn))
        os._exit(0 if (visits == 2).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_helpers_do_not_work_on_denormal_numbers():
    hardware.set_up("cpu", threads=2)
    products, meeting = np.ones(2, np.float32), threading.Barrier(2)

    def multiply(turn: Turn) -> None:
        item = take(turn)
        meeting.wait(timeout=30)
        products[item] = np.float32(1e-37) * np.full(1, 1e-4, np.float32)[0]

    share(2, multiply)
    assert not products.any()
