"""Optuna's part of a sweep: a study in the sweep's folder proposes points and learns their results.

Only the process that started the sweep uses the study, so it may lie wherever sqlite works.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snnrun.errors import UsageError
from snnrun.sweep.points import Point
from snnrun.sweep.space import Choice, Interval, Space

STUDY_FILE = "optuna.db"


def require_optuna() -> None:
    """Raise UsageError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UsageError(
            "search=optuna: the package optuna is not installed. Write pip install 'snnrun[sweep]', or take "
            "search=random."
        )


class Study:
    """A tree-structured Parzen estimator over a space, with all trials that it has seen.

    Args:
        folder: where the study is kept. It goes on with one that is there.
        space: what is searched.
        seed: of the sampler.
        startup: so many trials are drawn at random at first.
        trials: how many are to run, with those that have run already.
        first: the values of the first trial of a new study.
        retry: whether trials that failed before run again. Otherwise they count as run.

    Raises:
        UsageError: the folder holds a study over another space.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        *,
        seed: int,
        startup: int,
        trials: int,
        first: Mapping[str, Any] | None = None,
        retry: bool = True,
    ) -> None:
        import optuna
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self._space, self._states, self._trials = space, TrialState, trials
        self._distributions = {key: _distribution(entry) for key, entry in space.items()}
        self._seed, self._startup = seed, startup
        with warnings.catch_warnings():
            # Deprecations of SQLAlchemy and experimental features of Optuna do not concern the user.
            warnings.simplefilter("ignore")
            storage = f"sqlite:///{folder / STUDY_FILE}"
            study = optuna.create_study(study_name="sweep", storage=storage, direction="maximize", load_if_exists=True)
            seen = study.get_trials(deepcopy=False)
        self._study = study
        for trial in seen:
            if trial.distributions and trial.distributions != self._distributions:
                raise UsageError(
                    f"sweep.resume: the study in {folder} is over {', '.join(trial.distributions)}, with other "
                    f"bounds or keys than {', '.join(space)} now. Leave the arguments out, or start a new sweep."
                )
        if first is not None and not seen:
            study.enqueue_trial(dict(first))
        killed = (TrialState.RUNNING, TrialState.FAIL) if retry else (TrialState.RUNNING,)
        again = [trial for trial in seen if trial.state in killed]
        for trial in again:
            if trial.state == TrialState.RUNNING:  # its process was killed
                study.tell(trial.number, state=TrialState.FAIL)
        known: list[Any] = [trial.params for trial in seen if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        known += [trial.system_attrs.get("fixed_params") for trial in seen if trial.state == TrialState.WAITING]
        for trial in again:
            if trial.params and trial.params not in known:
                study.enqueue_trial(trial.params)
                known.append(trial.params)
        # In this process alone, if a resumed sweep tries them again. One that was killed has been tried again since.
        failed = [place for place, trial in enumerate(seen) if trial.state == TrialState.FAIL and trial.params]
        later = [[trial.system_attrs.get("fixed_params") for trial in seen[place + 1 :]] for place in failed]
        again_since = [seen[place].params in known for place, known in zip(failed, later, strict=True)]
        self._failed = 0 if retry else again_since.count(False)

    @property
    def _tried(self) -> int:
        states = (self._states.COMPLETE, self._states.PRUNED)
        return len(self._study.get_trials(deepcopy=False, states=states)) + self._failed

    @property
    def left(self) -> int:
        """Number of trials that are still to run."""
        return self._trials - self._tried

    def ask(self, number: int) -> list[tuple[Any, dict[str, str]]]:
        """So many trials, each with the values of its keys, written as on the command line.

        What is proposed depends on the trials that came to an end, and not on how often the study was stopped.
        """
        from optuna.samplers import TPESampler

        trials, tried = [], self._tried
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for place in range(tried, tried + number):  # one sampler would begin its numbers anew after a stop
                seed = int(np.random.SeedSequence((self._seed, place)).generate_state(1)[0])
                self._study.sampler = TPESampler(seed=seed, n_startup_trials=self._startup, constant_liar=True)
                trials.append(self._study.ask(fixed_distributions=self._distributions))
        return [(trial, {key: self._text(key, trial.params[key]) for key in self._space}) for trial in trials]

    def tell(self, trial: Any, point: Point) -> None:
        """Learn the result of a trial."""
        if point.status in ("FINISHED", "PRUNED") and point.objective is not None:
            for epoch, value in enumerate(point.history, 1):
                trial.report(value, epoch)
            if point.status == "PRUNED":
                self._study.tell(trial, state=self._states.PRUNED)
            else:
                self._study.tell(trial, point.objective)
            return
        self._failed += 1
        self._study.tell(trial, state=self._states.FAIL)

    def _text(self, key: str, value: Any) -> str:
        entry = self._space[key]
        return entry.text(value) if isinstance(entry, Interval) else str(value)


def _distribution(entry: Choice | Interval) -> Any:
    from optuna import distributions

    if isinstance(entry, Choice):
        choices: Sequence[str] = entry.values
        return distributions.CategoricalDistribution(choices)
    if entry.integer:
        step = 1 if entry.log else int(entry.step or 1)
        return distributions.IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=step)
    return distributions.FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)
