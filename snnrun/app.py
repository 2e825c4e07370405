"""`snnrun train` under Hydra: one run or a sweep, and every error as one message.

HYDRA_FULL_ERROR=1 is set while Hydra works, so that it raises its errors instead of printing them. A user who sets it
gets the traceback besides the message.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from snnrun import config, config_errors, options, schemas
from snnrun.arguments import verbosity
from snnrun.errors import SnnrunError, UsageError, describe

INTERRUPTED = 130
PARENT_RUN = "SNNRUN_PARENT_RUN"  # MLflow run of the sweep: set here, read by the points in whatever process they run
TRACEBACKS = "SNNRUN_TRACEBACKS"  # whether the user set HYDRA_FULL_ERROR=1: for the points too
ERROR_FILE = "error.txt"  # what a failed run leaves in its folder


class PointFailed(SnnrunError):
    """A point of a sweep has failed; its message is printed and in its folder already."""


def main(arguments: list[str]) -> int:
    """Run `snnrun train` with these arguments; returns the exit code."""
    if "RANK" in os.environ:
        from snnrun import distributed, experiment

        code = distributed.follow(experiment.follow)
        return distributed.dismiss(_main(arguments)) if code is None else code
    return _main(arguments)


def _main(arguments: list[str]) -> int:
    config.register()
    OmegaConf.register_new_resolver("snnrun_groups", options.overview, replace=True)
    entry = hydra.main(version_base="1.3", config_path="pkg://snnrun.conf", config_name="train")(job)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1" or verbosity() == "verbose"
    with (
        _environment(HYDRA_FULL_ERROR="1", **({TRACEBACKS: "1"} if wants_traceback else {})),
        _argv(arguments),
    ):
        try:
            entry()
            return _close_sweep("FINISHED")
        except PointFailed:
            return _close_sweep("FINISHED")
        except SystemExit as end:
            _close_sweep("FAILED")
            return end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            _close_sweep("KILLED")
            print("snnrun: interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            _close_sweep("FAILED")
            return _report(error, arguments)


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The plain config that `train` would run with these overrides.

    Raises:
        UsageError: an override is wrong.
    """
    config.register()
    try:
        with hydra.initialize_config_module("snnrun.conf", version_base="1.3"):
            check_tuned(list(overrides))
            cfg = hydra.compose("train", list(overrides))
        config.check(cfg)
    except Exception as error:
        text = config_errors.explain(error, list(overrides))
        if text is None:
            raise
        raise UsageError(text) from None
    return config.plain(cfg)


def job(cfg: DictConfig) -> float | None:
    """Hydra's task: one run. Returns what a sweeper optimises, see `experiment.objective`."""
    settings = HydraConfig.get()
    run_dir = Path(settings.runtime.output_dir)
    overrides = _overrides(settings)
    single = settings.mode == RunMode.RUN
    if not single and verbosity() != "quiet":
        print(f"\npoint {settings.job.num}: {' '.join(overrides)}", flush=True)
    try:
        return _run(cfg, run_dir, overrides)
    except Exception as error:
        where = "" if single else f"point {settings.job.num} ({' '.join(overrides)}): "
        code = _report(error, overrides, where)
        text = f"{' '.join(overrides)}\n\n{''.join(traceback.format_exception(error))}"
        (run_dir / ERROR_FILE).write_text(text, encoding="utf-8")
        if single:
            raise SystemExit(code) from None
        raise PointFailed(str(error)) from None


def _run(cfg: DictConfig, run_dir: Path, overrides: list[str]) -> float | None:
    config.check(cfg)
    from snnrun import experiment

    values = config.plain(cfg)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8")
    result = experiment.run(
        values, run_dir, command=["snnrun", "train", *overrides], parent_run_id=os.environ.get(PARENT_RUN)
    )
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status == "diverged":
        raise SnnrunError(result.message)
    return experiment.objective(result)


def _overrides(settings: Any) -> list[str]:
    """The overrides as they were typed: `data.root=${oc.env:HOME}` is not resolved."""
    task: ListConfig = settings.overrides.task
    return [str(override) for override in task._iter_ex(resolve=False)]


# ---- errors ---------------------------------------------------------------------------------------------------------


def _report(error: Exception, overrides: list[str], where: str = "") -> int:
    """Print the one message for an error; returns the exit code."""
    if os.environ.get(TRACEBACKS) == "1":
        traceback.print_exception(error)
    if isinstance(error, SnnrunError):
        print(f"snnrun: {where}{error}", file=sys.stderr)
        return error.exit_code
    text = config_errors.explain(error, overrides)
    if text is not None:
        print(f"snnrun: {where}{text}", file=sys.stderr)
        return UsageError.exit_code
    print(f"snnrun: {where}{describe(error)}", file=sys.stderr)
    return SnnrunError.exit_code


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in (*variables, PARENT_RUN)}
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
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    sys.argv = ["snnrun train", *flags, *(argument for argument in arguments if argument not in flags)]
    try:
        yield
    finally:
        sys.argv = before


# ---- sweeps ---------------------------------------------------------------------------------------------------------


@dataclass
class _Sweep:
    """The sweep that this process started; the points may run in others."""

    folder: Path
    parent_run_id: str | None
    outputs: Path
    uri: str | None
    swept: list[str]  # keys of the config, as MLflow's parameters have them


_sweep: _Sweep | None = None


class Lifecycle(Callback):
    """Hydra's callback: checks a single run before its folder is made, and starts a sweep's parent run.

    Hydra turns what a callback raises into a warning; SystemExit it lets pass.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the config of a single run."""
        _checked(config, full=True)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Create the store before any worker can race for it, and the sweep's parent run in it."""
        _checked(config, full=False)


def _checked(cfg: DictConfig, *, full: bool) -> None:
    overrides = _overrides(cfg.hydra)
    try:
        check_tuned(overrides)
        if full:
            config.check(cfg)
        else:
            _start_sweep(cfg, overrides)
    except Exception as error:
        raise SystemExit(_report(error, overrides)) from None


def check_tuned(overrides: list[str]) -> None:
    """The group is optional for Hydra, which takes a mistyped name for a pair without settings."""
    allowed = GlobalHydra.instance().config_loader().get_group_options("tuned")
    for override in overrides:
        key, _, names = override.partition("=")
        for name in names.split(",") if key == "tuned" else ():
            if name not in allowed:
                nearest = config.did_you_mean(name, allowed)
                raise UsageError(f"tuned: there is no {name!r}. Allowed: {', '.join(allowed)}.{nearest}")


def _start_sweep(cfg: DictConfig, overrides: list[str]) -> None:
    global _sweep
    folder = Path(cfg.hydra.sweep.dir)
    where = {"outputs": Path(cfg.outputs), "uri": cfg.tracking.uri}
    parent = None
    if cfg.tracking.kind == "mlflow":
        from snnrun import sweeps, tracking

        parent = sweeps.start_sweep(
            **where,
            experiment=cfg.tracking.experiment,
            run_name=cfg.tracking.run_name or folder.name,
            tags=tracking.provenance(["snnrun", "train", "-m", *overrides]),
        )
        os.environ[PARENT_RUN] = parent
    _sweep = _Sweep(folder, parent, **where, swept=[_parameter(override) for override in overrides])


def _parameter(override: str) -> str:
    """The parameter that an override sets: a group's choice shows in its name."""
    key = override.partition("=")[0].lstrip("+~")
    return f"{key}.name" if key in schemas.SCHEMAS else key


def _close_sweep(status: Literal["FINISHED", "FAILED", "KILLED"]) -> int:
    """End the parent run, print the table of the points and name those that failed; returns the exit code."""
    global _sweep
    sweep, _sweep = _sweep, None
    if sweep is None:
        return 0
    failed = sorted(sweep.folder.rglob(ERROR_FILE))
    if sweep.parent_run_id is not None:
        from snnrun import report, sweeps

        rows = sweeps.finish_sweep(
            sweep.parent_run_id,
            "FAILED" if failed and status == "FINISHED" else status,
            outputs=sweep.outputs,
            uri=sweep.uri,
        )
        report.sweep_table(rows, sweep.swept)
    if failed:
        names = [f"{path.parent.name} ({path.read_text('utf-8').splitlines()[0]})" for path in failed]
        print(
            f"snnrun: {len(failed)} of the points failed: {', '.join(names)}. "
            f"Each folder under {shlex.quote(str(sweep.folder))} has the reason in {ERROR_FILE}.",
            file=sys.stderr,
        )
    return SnnrunError.exit_code if failed else 0
