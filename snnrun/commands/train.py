"""`snnrun train` under Hydra: one run or a sweep, and every error as one message.

HYDRA_FULL_ERROR=1 is set while Hydra works, so that Hydra raises its errors and does not print them. A user who sets it
gets the traceback and the message.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from snnrun.commands import ranks
from snnrun.commands.arguments import ordered, swept_launchers
from snnrun.config import check, failures, options
from snnrun.config.failures import TRACEBACKS, PointFailed
from snnrun.display import output
from snnrun.display.verbosity import as_told, verbosity
from snnrun.errors import INTERRUPTED, warn
from snnrun.record import names
from snnrun.sweep import lifecycle, points, sweeper

if TYPE_CHECKING:
    from snnrun.train.engine import Result


def main(arguments: list[str]) -> int:
    """Run `snnrun train` with these arguments; returns the exit code."""
    with as_told(arguments) as rest:
        for warning in swept_launchers(rest):
            warn(warning)
        words = ordered(rest)
        if ("--cfg", "job") in pairwise(words) and "--resolve" not in words:
            words.insert(0, "--resolve")  # each key with the value it would have
        return ranks.led(words, partial(_under_hydra, words))


def _under_hydra(arguments: list[str]) -> int:
    check.register()
    sweeper.register()
    OmegaConf.register_new_resolver("snnrun_groups", options.overview, replace=True)
    entry = hydra.main(version_base="1.3", config_path="pkg://snnrun.conf", config_name="train")(job)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1" or verbosity() == "verbose"
    with _environment(HYDRA_FULL_ERROR="1", **({TRACEBACKS: "1"} if wants_traceback else {})):
        try:
            with _argv(lifecycle.resumed(arguments)), _composed_once(arguments):
                entry()
            return lifecycle.close("FINISHED")
        except PointFailed:
            return lifecycle.close("FINISHED")
        except SystemExit as end:
            lifecycle.close("FAILED")
            return end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            lifecycle.close("KILLED")
            print("snnrun: interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            lifecycle.close("FAILED")
            return failures.report(error, arguments)


def job(cfg: DictConfig) -> float | None:
    """Hydra's task: one run, which `lifecycle` has checked, or a point of a sweep.

    Returns what the sweeper optimises, see `experiment.objective`, for a point; None for a single run.
    """
    settings = HydraConfig.get()
    run_dir, overrides = Path(settings.runtime.output_dir), lifecycle.overrides_of(settings)
    if settings.mode == RunMode.MULTIRUN:
        return _point(cfg, run_dir, Path(settings.sweep.dir).resolve(), overrides)
    from snnrun.sweep import worker

    try:
        worker.settle(_train(check.plain(cfg, overrides), run_dir, overrides, held=lifecycle.holds(run_dir)))
    except Exception as error:
        code = failures.report(error, overrides)
        failures.keep(error, overrides, run_dir)
        raise SystemExit(code) from None
    return None


@output.unfailing()  # in the processes of a launcher too
def _point(cfg: DictConfig, run_dir: Path, sweep: Path, overrides: list[str]) -> float | None:
    from snnrun import tracking
    from snnrun.sweep import worker

    point, record = points.read_point(run_dir), points.read_sweep(sweep)
    assert point is not None
    assert record is not None, "the sweeper writes both"
    parent = record.parent_run_id
    if point.workers == 1 and verbosity() != "quiet":
        print(f"\n{point.name}", flush=True)

    def train(*, workers: int, **more: Any) -> Result:
        check.check(cfg)
        values = check.plain(cfg, overrides)
        if workers > 1 and values["hardware"]["threads"] is None:
            from snnrun.train import hardware

            values["hardware"]["threads"] = hardware.share(workers * values["hardware"]["processes"])
        return _train(values, run_dir, overrides, parent_run_id=parent, **more)

    about: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("search", "sweep", "tracking")
    }
    return worker.run(point, sweep, about | {"outputs": cfg.outputs}, train, lambda: tracking.flatten(check.plain(cfg)))


def _train(values: dict[str, Any], run_dir: Path, overrides: list[str], *, resumed: bool = False, **how: Any) -> Result:
    """Write the values to the folder and train with them. A resumed run keeps its own until every check has passed."""
    from snnrun.run import checkpoint, experiment, resume

    text = OmegaConf.to_yaml(OmegaConf.create(values))
    write = partial((run_dir / names.CONFIG).write_text, text, encoding="utf-8")
    if resumed:
        resume.warn_of(checkpoint.load(run_dir))
    else:
        write()
    accepted = write if resumed else None
    command = ["snnrun", "train", *overrides]
    return experiment.run(values, run_dir, command=command, resumed=resumed, accepted=accepted, **how)


@contextmanager
def _composed_once(arguments: list[str]) -> Iterator[None]:
    """Spare Hydra the composition by which it looks for `hydra.mode`, where neither argument nor file can have set it.

    Without that key it is None. None of snnrun's own files has it.
    """
    before = Hydra.get_mode
    if not any(argument.startswith(("hydra", "+", "~", "-c", "--config")) for argument in arguments):
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = before  # type: ignore[method-assign]


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _argv(arguments: list[str]) -> Iterator[None]:
    before = sys.argv
    # Hydra takes no override after a flag that stands among the overrides.
    flags = [argument for argument in arguments if argument in lifecycle.FLAGS]
    sys.argv = ["snnrun train", *flags, *(argument for argument in arguments if argument not in flags)]
    try:
        yield
    finally:
        sys.argv = before
