"""`snnrun train` under Hydra: one run or a sweep, and every error as one message.

HYDRA_FULL_ERROR=1 is set while Hydra works, so that it raises its errors instead of printing them. A user who sets it
gets the traceback besides the message.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from snnrun.config import check, explain, failures, options
from snnrun.config.failures import TRACEBACKS, PointFailed
from snnrun.display import output
from snnrun.display.verbosity import verbosity
from snnrun.errors import UsageError
from snnrun.record import names
from snnrun.sweep import lifecycle, points, sweeper

if TYPE_CHECKING:
    from snnrun.train.engine import Result

INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run `snnrun train` with these arguments; returns the exit code."""
    if "RANK" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it tells of every try to reach another process
        from snnrun.run import experiment
        from snnrun.train import distributed

        code = distributed.follow(experiment.follow, lifecycle.wait_minutes(arguments))
        return distributed.dismiss(_main(arguments)) if code is None else code
    return _main(arguments)


def _main(arguments: list[str]) -> int:
    check.register()
    sweeper.register()
    OmegaConf.register_new_resolver("snnrun_groups", options.overview, replace=True)
    entry = hydra.main(version_base="1.3", config_path="pkg://snnrun.conf", config_name="train")(job)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1" or verbosity() == "verbose"
    with _environment(HYDRA_FULL_ERROR="1", **({TRACEBACKS: "1"} if wants_traceback else {})):
        try:
            with _argv(lifecycle.resumed(arguments)):
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


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> dict[str, Any]:
    """The plain config that `train` would run with these overrides, and with this `--config-dir`.

    Raises:
        UsageError: an override is wrong.
    """
    check.register()
    try:
        with hydra.initialize_config_module("snnrun.conf", version_base="1.3"):
            lifecycle.check_tuned(list(overrides))
            place = [] if config_dir is None else [f"hydra.searchpath={json.dumps([config_dir.resolve().as_uri()])}"]
            cfg = hydra.compose("train", [*overrides, *place])
        check.check(cfg)
    except Exception as error:
        text = explain.explain(error, list(overrides))
        if text is None:
            raise
        raise UsageError(text) from None
    return check.plain(cfg)


@output.unfailing()  # in the processes of a launcher too
def job(cfg: DictConfig) -> float | None:
    """Hydra's task: one run, or a point of a sweep. Returns what a sweeper optimises, see `experiment.objective`."""
    settings = HydraConfig.get()
    run_dir = Path(settings.runtime.output_dir)
    overrides = lifecycle.overrides_of(settings)
    if settings.mode == RunMode.RUN:
        return _single(cfg, run_dir, overrides)
    from snnrun import tracking
    from snnrun.sweep import worker

    sweep = Path(settings.sweep.dir).resolve()
    point, record = points.read_point(run_dir), points.read_sweep(sweep)
    assert point is not None
    assert record is not None, "the sweeper writes both"
    if point.workers == 1 and verbosity() != "quiet":
        print(f"\n{point.name}", flush=True)
    about: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("search", "sweep", "tracking")
    }
    return worker.run(
        point,
        sweep,
        about | {"outputs": cfg.outputs},
        partial(_train, cfg, run_dir, overrides, parent_run_id=record.parent_run_id),
        lambda: tracking.flatten(check.plain(cfg)),
    )


def _single(cfg: DictConfig, run_dir: Path, overrides: list[str]) -> float | None:
    from snnrun.run import experiment
    from snnrun.sweep import worker

    try:
        result = _train(cfg, run_dir, overrides)
        worker.settle(result)
        return experiment.objective(result)
    except Exception as error:
        code = failures.report(error, overrides)
        failures.keep(error, overrides, run_dir)
        raise SystemExit(code) from None


def _train(
    cfg: DictConfig,
    run_dir: Path,
    overrides: list[str],
    *,
    parent_run_id: str | None = None,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
    tags: Mapping[str, str] | None = None,
    workers: int = 1,
    resumed: bool = False,
) -> Result:
    check.check(cfg)
    from snnrun.run import checkpoint, experiment, resume
    from snnrun.train import hardware

    values = check.plain(cfg)
    if workers > 1 and values["hardware"]["threads"] is None:
        values["hardware"]["threads"] = hardware.share(workers * values["hardware"]["processes"])
    text = OmegaConf.to_yaml(OmegaConf.create(values))
    write = partial((run_dir / names.CONFIG).write_text, text, encoding="utf-8")
    if resumed:
        resume.warn_of(checkpoint.load(run_dir))
    else:
        write()
    return experiment.run(
        values,
        run_dir,
        command=["snnrun", "train", *overrides],
        parent_run_id=parent_run_id,
        held=lifecycle.holds(run_dir),
        on_epoch=on_epoch,
        tags=tags or {},
        resumed=resumed,
        accepted=write if resumed else None,
    )


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
    # Hydra's parser takes no more overrides after a flag that stands among them.
    flags = [argument for argument in arguments if argument in lifecycle.FLAGS]
    sys.argv = ["snnrun train", *flags, *(argument for argument in arguments if argument not in flags)]
    try:
        yield
    finally:
        sys.argv = before
