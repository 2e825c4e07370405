"""Hydra's sweeper of snnrun: a grid, a list, random points or Optuna's, with any launcher.

It composes every point of a batch before it starts one, gives each a numbered folder, leaves out finished points
(`sweep.resume`), and tells each point how many points share its machine.
"""

from __future__ import annotations

import os
import socket
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from snnrun.config import check, schemas
from snnrun.config.failures import PointFailed
from snnrun.errors import SnnrunError, UsageError, first_line, warn
from snnrun.record import names
from snnrun.sweep import points, space, study
from snnrun.sweep.points import Point

TARGET = "hydra_plugins.snnrun.Search"
NOT_SWEPT = ("search", "sweep", "outputs", "tracking")
JOBLIB, SUBMITIT_LOCAL, SLURM, RAY = "JoblibLauncher", "LocalLauncher", "SlurmLauncher", "RayLauncher"


def register() -> None:
    """Let Hydra find the sweeper. Hydra only takes names below `hydra_plugins`, where plugins of packages lie."""
    Plugins.instance().class_name_to_class[TARGET] = Search


def workers(launcher: DictConfig) -> int:
    """Number of points that a launcher runs on one machine at the same time.

    Raises:
        UsageError: the launcher is set to run none.
    """
    kind = launcher._target_.rpartition(".")[2]
    from snnrun.train import hardware  # this loads PyTorch

    cores = hardware.cores()
    if kind == JOBLIB:
        jobs = launcher.n_jobs
        if jobs == 0:
            raise UsageError(
                "hydra.launcher.n_jobs: 0 processes run nothing. Allowed: at least 1, or -1 for all cores."
            )
        jobs = jobs or 1
        return max(1, cores + 1 + jobs if jobs < 0 else jobs)
    if kind == SUBMITIT_LOCAL:
        return max(1, cores // (launcher.cpus_per_task or 1))
    if kind == RAY:
        return max(1, int((launcher.ray.init.get("num_cpus") or cores) // (launcher.ray.remote.get("num_cpus") or 1)))
    return 1


class Named(NamedTuple):
    """What a point of a list is called, and its values in which it differs from others of that name."""

    label: str
    values: dict[str, str]


class Search(Sweeper):
    """`hydra/sweeper=snnrun`. `params` are more sweeps beside the command line's, as for Hydra's own sweepers."""

    config: DictConfig
    launcher: Launcher
    loader: ConfigLoader

    def __init__(self, params: DictConfig | None = None) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepare the sweep. Hydra calls this before `sweep`."""
        self.loader, self.config = hydra_context.config_loader, config
        self.folder = Path(config.hydra.sweep.dir).resolve()
        self.workers = workers(config.hydra.launcher)
        self.warned = self.announced = False
        self.launched = 0
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run every point.

        Raises:
            PointFailed: some points failed. It is raised after all others have run.
        """
        search = self.config.search
        given = [f"{key!s}={value}" for key, value in (self.params or {}).items()]
        self.fixed, dimensions = self._split([*given, *arguments], search.method)
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        if search.method in ("random", "optuna") and (search.with_space or not dimensions):
            dimensions = self._default_space() | dimensions
        if search.method == "grid":
            self._run(space.grid(dimensions))
        elif search.method == "list":
            self._run(*self._listed(search.points, dimensions))
        elif search.method == "random":
            self._run([space.draw(dimensions, self.config.seed, number) for number in range(search.trials)])
        else:
            self._optimise(dimensions)
        failed = [point for point in points.latest(points.attempts(self.folder)) if point.status == "FAILED"]
        if failed:
            raise PointFailed(failed[0].error)

    # ---- the space -------------------------------------------------------------------------------------------------

    def _split(self, arguments: list[str], method: str) -> tuple[list[str], dict[str, Any]]:
        """The overrides that all points share, and the dimensions."""
        fixed, dimensions = {}, {}
        for override in OverridesParser.create(self.loader).parse_overrides(arguments):
            key = override.get_key_element()
            if key == "search.points":  # which the points themselves need not know
                continue
            if not override.is_sweep_override():
                fixed[key] = f"{key}={override.get_value_element_as_str()}"
                continue
            if key.partition(".")[0].lstrip("+~") in NOT_SWEPT:
                raise UsageError(f"{key}: has one value for the whole sweep.")
            dimensions[key] = _dimension(key, override, method, whole=_takes_whole_numbers(self.config, key))
        return list(fixed.values()), dimensions

    def _listed(self, entries: Sequence[str], dimensions: dict[str, Any]) -> tuple[list[dict[str, str]], list[Named]]:
        """The points of `search.points`, each with every combination of the dimensions, and how they are named."""
        batch, named = [], []
        for entry in entries:
            label, colon, text = entry.partition(": ")
            words = text.split()
            if not colon or not label.strip() or not all("=" in word for word in words):
                raise UsageError(f'search.points: {entry!r} is no point. Write "NAME: key=value key=value".')
            fixed, own = self._split(words, "grid")
            for values in space.grid(dimensions | own):
                batch.append(dict(word.split("=", 1) for word in fixed) | values)
                named.append(Named(label.strip(), values))
        if not batch:
            raise UsageError("search.points: names no point. Write 'search.points=[\"NAME: key=value\"]'.")
        return batch, named

    def _default_space(self) -> dict[str, Any]:
        model = self.config.model.name
        entries = self.config.search.space.get(model)
        if not entries:
            raise UsageError(
                f"search: there is no default space for model={model}. Say what to search, such as "
                "'train.lr=tag(log,interval(1e-4,1e-2))'."
            )
        words = [f"{key}={entry}" for key, entry in entries.items() if not OmegaConf.is_list(entry)]
        _, dimensions = self._split(words, self.config.search.method)
        for key, entry in entries.items():  # a list has multiples of what the config has
            if OmegaConf.is_list(entry):
                dimensions[key] = space.multiples(_plain(OmegaConf.select(self.config, key)), list(entry))
        taken = {text.partition("=")[0] for text in self.fixed}
        return {key: dimensions[key] for key in entries if key not in taken}

    def _baseline(self, dimensions: dict[str, Any]) -> dict[str, Any] | None:
        """The point of the settings as they are; None if one of them is not in its dimension."""
        found = {key: entry.place(_plain(OmegaConf.select(self.config, key))) for key, entry in dimensions.items()}
        outside = [key for key, value in found.items() if value is None]
        if outside:
            warn(f"search.baseline: {', '.join(outside)} as it is lies outside of what is searched.")
        return None if outside else found

    # ---- running ---------------------------------------------------------------------------------------------------

    def _optimise(self, dimensions: dict[str, Any]) -> None:
        search = self.config.search
        first = self._baseline(dimensions) if search.baseline else None
        optimiser = study.Study(
            self.folder,
            dimensions,
            seed=self.config.seed,
            startup=search.startup,
            trials=search.trials,
            first=first,
            retry=search.retry,
        )
        while optimiser.left > 0:
            if search.minutes is not None and points.minutes(self.folder) / self.workers >= search.minutes:
                print(f"search.minutes: {search.minutes:g} minutes are spent, so no more points begin.", flush=True)
                return
            trials = optimiser.ask(min(search.parallel or self.workers, optimiser.left))
            outcomes = self._run([values for _, values in trials])
            for (trial, _), point in zip(trials, outcomes, strict=True):
                optimiser.tell(trial, point)
            if self.config.sweep.fail_fast and any(point.status == "FAILED" for point in outcomes):
                return

    def _run(self, batch: Sequence[dict[str, str]], listed: Sequence[Named] = ()) -> list[Point]:
        """Run the points that are not finished yet. Returns the record of each point, in order."""
        every = points.attempts(self.folder)
        known = {point.id: point for point in every}
        number = max((point.number for point in every), default=-1) + 1
        todo: dict[str, Point] = {}
        ids = []
        for values, named in zip(batch, listed or [Named("", entry) for entry in batch], strict=True):
            fixed = [word for word in self.fixed if word.partition("=")[0] not in values]
            point = self._compose([*fixed, *_words(values)])
            point.swept, point.label = _words(named.values), named.label
            ids.append(point.id)
            twin = todo.get(point.id)
            if point.label and twin is not None and twin.label != point.label:
                warn(f"search.points: {point.label!r} has the settings of {twin.label!r}, whose runs stand for both.")
            old = known.get(point.id)
            if point.id in todo or (old is not None and old.status in points.DONE):
                continue
            if old is not None and not (old.folder(self.folder) / names.ERROR).exists():
                old.take_over(point)
            else:
                point.number, number = number, number + 1
            todo[point.id] = point
        if not self.announced or len(todo) < len(set(ids)):
            self.announced = True
            done = f", {len(set(ids)) - len(todo)} of them finished already" if len(todo) < len(set(ids)) else ""
            count = "" if self.config.search.method == "optuna" else f": {len(set(ids))} points{done}"
            print(f"sweep {self.folder.name} in {self.folder.parent}{count}", flush=True)
        waiting = list(todo.values())
        for point in waiting:
            point.workers = min(self.workers, len(waiting))
            if type(self.launcher).__name__ != SLURM:  # its jobs shall outlive the command
                point.owner = [socket.gethostname(), os.getpid()]
            point.save(self.folder)
        self._launch(waiting)
        known = {point.id: point for point in points.attempts(self.folder)}
        return [known[id_] for id_ in ids]

    def _compose(self, overrides: list[str]) -> Point:
        cfg = self.loader.load_sweep_config(self.config, overrides)
        if not self.warned and cfg.hydra.launcher != self.config.hydra.launcher:
            self.warned = True
            warn(
                f"{cfg.hydra.launcher._target_.rpartition('.')[2]}: the launcher that an option's file chooses has no "
                "effect when the option itself is swept. Write hydra/launcher=NAME on the command line."
            )
        with_hydra = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(with_hydra, dict)
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in with_hydra if key != "hydra"])
        try:
            values = check.plain(cfg)
            return Point(-1, points.identity(values), overrides, epochs=values["train"]["epochs"])
        except (ValueError, TypeError, KeyError):  # the message comes when the point runs
            return Point(-1, points.identity({"overrides": overrides}), overrides)

    def _launch(self, waiting: list[Point]) -> None:
        kind = type(self.launcher).__name__
        # On this machine, Submitit starts all points that it gets at once.
        size = self.workers if kind == SUBMITIT_LOCAL else len(waiting)
        while waiting:
            part, waiting = waiting[:size], waiting[size:]
            jobs = [[*point.overrides, f"hydra.sweep.subdir={point.number}"] for point in part]
            try:
                self.launcher.launch(jobs, initial_job_idx=self.launched)
            except SnnrunError:
                raise
            except Exception as error:
                waiting = self._survivors(kind, part, error) + waiting
            self.launched += len(part)

    def _survivors(self, kind: str, part: list[Point], error: Exception) -> list[Point]:
        """After the launcher itself failed: mark the points that died as FAILED. Returns those that have not begun."""
        now = [points.read_point(point.folder(self.folder)) or point for point in part]
        died = [point for point in now if point.status == "RUNNING"]
        if kind != JOBLIB or not died:  # other launchers may still have processes at work
            raise SnnrunError(
                f"the launcher failed ({type(error).__name__}: {first_line(error, '')}). What is finished is kept: go "
                f"on by snnrun train -m sweep.resume={self.folder.name}"
            ) from error
        for point in died:
            point.status, point.error = "FAILED", "its process died (out of memory?)"
            point.save(self.folder)
            warn(f"{point.name}: {point.error}")
        return [point for point in now if point.status == "WAITING" and not self.config.sweep.fail_fast]


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _words(values: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _takes_whole_numbers(cfg: DictConfig, key: str) -> bool:
    """Whether a key takes only whole numbers, in the chosen option or in another option of its group."""
    section, _, name = key.rpartition(".")
    known = [OmegaConf.get_type(OmegaConf.select(cfg, section)) if section else schemas.Config]
    if not any(name in typing.get_type_hints(schema) for schema in known if schema is not None):
        known = list(schemas.SCHEMAS.get(section, {}).values())
    kinds = [typing.get_type_hints(schema).get(name) for schema in known if schema is not None]
    return any(kind in (int, int | None) for kind in kinds)


def _dimension(key: str, override: Override, method: str, *, whole: bool) -> space.Choice | space.Interval:
    value = override.value()
    if isinstance(value, IntervalSweep):
        if method == "grid":
            raise UsageError(f"{key}: an interval is no list of values. Add search=random or search=optuna.")
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        log, integer = "log" in value.tags, whole or (isinstance(low, int) and isinstance(high, int))
        if integer and (low != round(low) or high != round(high)):
            raise UsageError(f"{key}: takes whole numbers, and {low:g} to {high:g} does not end with them.")
        if low > high or (log and low <= 0):
            raise UsageError(f"{key}: from {low} to {high}{' by logarithm' if log else ''} there is no interval.")
        return space.Interval(low, high, log=log, integer=integer)
    # A glob over the options of a group also finds their schemas.
    values = tuple(text for text in override.sweep_string_iterator() if not text.endswith("_schema"))
    if not values:
        raise UsageError(f"{key}: {override.get_value_string()} has no values.")
    if isinstance(value, RangeSweep) and method != "grid" and not value.shuffle and len(values) > 1:
        integer = all("." not in text and "e" not in text for text in values)
        first, second, last = float(values[0]), float(values[1]), float(values[-1])
        if second > first:
            return space.Interval(first, last, integer=integer, step=second - first)
    return space.Choice(values)
