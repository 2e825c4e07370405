"""Trainings that are interrupted at an odd moment, or begin differently: what is kept is whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_engine import CPU, RULES, Last, Notes, interrupt_at, noise, run, toy

from snnrun import encoders
from snnrun.errors import SnnrunError
from snnrun.network import Network
from snnrun.train.distributed import Group
from snnrun.train.engine import Options
from snnrun.train.progress import Progress
from snnrun.train.training import Training


def test_the_last_weights_are_those_of_the_last_finished_epoch():
    """They go with its accuracies, also where a resumed training is interrupted in the same epoch once more."""
    keeper, options = Last(), {"schedule": "constant", "topology": "R10"}
    whole = run(epochs=2, **options)
    cut = run(epochs=5, notes=Notes(interrupt_at(29)), keeper=keeper, **options)
    again = run(epochs=5, notes=Notes(interrupt_at(1)), start=keeper.snapshot, **options)
    for result in (cut, again):
        assert (result.status, len(result.history)) == ("interrupted", 2)
        assert all(torch.equal(result.last_state[name], whole.last_state[name]) for name in whole.last_state)


def test_an_interrupt_while_the_chosen_weights_are_tested_leaves_the_last(monkeypatch):
    options = {"dataset": noise(), "schedule": "constant", "test": "end", "epochs": 4, "lr": 0.2}
    whole, keeper, loading = run(**options), Last(), Network.load_state_dict
    assert whole.chosen_test is not None, "the last epoch is the best, so nothing is loaded"

    def interrupted(self, *arguments, **more):
        monkeypatch.setattr(Network, "load_state_dict", loading)
        loading(self, *arguments, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "load_state_dict", interrupted)
    assert run(keeper=keeper, **options).status == "interrupted"
    rest = run(start=keeper.snapshot, **options)
    assert rest.summary == whole.summary
    assert all(torch.equal(rest.last_state[name], whole.last_state[name]) for name in whole.last_state)


def test_processes_that_begin_differently_are_refused():
    class Two(Group):
        rank, size, other = 0, 2, 0.0

        def total(self, values):
            self.mine = values[0]
            return np.array([self.mine, self.other])

    group, data = Two(), toy()
    network = Network(RULES["stbp"], inputs=6, topology="", outputs=3)
    training = Training(network, data, encoders.build("bernoulli", seed=0, steps=10), Options(epochs=1), seed=0,
                        device=CPU, group=group)  # fmt: skip
    progress = Progress(training)
    with pytest.raises(SnnrunError, match="do not begin alike"):
        progress.agree()
    group.other = group.mine
    progress.agree()
    progress.result.history.append({})
    with pytest.raises(SnnrunError, match="do not begin alike"):
        progress.agree()
