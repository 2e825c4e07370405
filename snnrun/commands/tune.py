"""`snnrun tune`: search the settings of a pair of model and corpus, confirm them over seeds, write its tuned file."""

from __future__ import annotations

import argparse
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from snnrun.commands import flags
from snnrun.commands.flags import add_number
from snnrun.config.paths import folder, quoted
from snnrun.display.verbosity import as_told
from snnrun.errors import INTERRUPTED, SnnrunError, UsageError, warn

if TYPE_CHECKING:
    from snnrun.sweep.points import Point
    from snnrun.tune.facts import Measured
    from snnrun.tune.plan import Plan, Settings

EPILOG = """\
The search: Optuna proposes settings from the space of the model (conf/search/space/tune.yaml), the settings of now
first. A trial trains for a few epochs, and ends early if its validation accuracy falls behind the median of the others.
Then the best few and the settings of now are trained at full length over the same seeds, none of them the search's. The
file gets the best of these, and what it rests on. Test samples choose nothing.

Stopped in any way, the same command goes on with it, from the last checkpoint. What was tried is kept as a sweep.
Overrides such as data.root=FOLDER or hardware.threads=1 are for all its runs."""
ROUNDING = 1e-9  # of a mean accuracy: settings this near are as good


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    with as_told(arguments) as rest:
        return _tune(rest)


def _tune(arguments: list[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    from snnrun.config.check import register
    from snnrun.sweep.study import require_optuna
    from snnrun.tune import plan

    launcher = flags.launcher(options.launcher, options.jobs)
    require_optuna()
    register()
    request = plan.Request(
        tuple(options.overrides),
        trials=options.trials,
        minutes=options.minutes,
        epochs=options.epochs or plan.EPOCHS,
        samples=options.samples,
        confirm=options.confirm,
        seed=options.seed,
        finalists=options.finalists,
        also=tuple(options.also),
    )
    made = plan.plan(request, options.outputs)
    study = None if options.new else plan.find(made)
    if study is None:
        study = options.outputs / "sweeps" / f"{flags.stamp()}_tune_{made.pair}"
    _say_what_runs(made)
    go_on = f"Go on by: {shlex.join(['snnrun', 'tune', *(word for word in arguments if word != '--new')])}"
    code = _search(made, study, launcher)
    if code == UsageError.exit_code:
        return code
    ranked = plan.ranked(study)
    if code == INTERRUPTED or (code and plan.at_work(study)):
        print(f"{_best_so_far(ranked)} {go_on}", flush=True)
        return code
    if not ranked:
        raise SnnrunError(_why_none(study))
    finalists = plan.finalists(made, study)
    confirmation = study.with_name(f"{study.name}_confirm")
    code = _confirm(made, confirmation, finalists, launcher)
    if code == UsageError.exit_code:
        return code
    if code == INTERRUPTED or not plan.confirmed(made, confirmation, finalists):
        print(f"{_best_so_far(ranked)} {go_on}", flush=True)
        return code or SnnrunError.exit_code
    return _conclude(made, study, confirmation, finalists, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "snnrun tune",
        usage="snnrun tune model=MODEL data=CORPUS [override ...] [options]",
        description="Search the settings of a pair of model and corpus by its validation samples, confirm them over "
        "seeds, and write its tuned file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="override", help="such as model=stbp data=mnist")
    add_number(parser, "--trials", default=30, help="how many are tried (default: 30)")
    parser.add_argument(
        "--minutes", type=_minutes, metavar="M", help="begin no trial after so many (default: no limit)"
    )
    add_number(parser, "--epochs", help="of a trial (default: 5)")
    add_number(parser, "--samples", help="training samples of a trial (default: all)")
    add_number(parser, "--confirm", default=3, metavar="K", help="seeds at full length (default: 3)")
    add_number(parser, "--finalists", default=3, help="how many of the best are confirmed (default: 3)")
    add_number(parser, "--seed", least=0, most=2**32 - 1, default=0, help="of the search (default: 0)")
    parser.add_argument(
        "--also", action="append", default=[], metavar="KEY=SPACE",
        help="search this key too, such as 'model.delays=choice(none,trained)'; may be given several times",
    )  # fmt: skip
    parser.add_argument("--new", action="store_true", help="begin another study, whatever there is")
    flags.add_launcher(parser)
    parser.add_argument(
        "--out", type=folder, metavar="FOLDER", help="a folder of your own for the file (default: conf/tuned of snnrun)"
    )
    parser.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that runs write to")
    return parser


def _minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"--minutes: {text!r} is not a number greater than 0.")
    return number


# ---- the sweeps ------------------------------------------------------------------------------------------------------


def _say_what_runs(made: Plan) -> None:
    request, model, data = made.request, made.values["model"]["name"], made.values["data"]["name"]
    some = "all" if request.samples is None else f"{request.samples:,}"
    late = "" if request.minutes is None else f", none begun after {request.minutes:g} minutes"
    print(
        f"tuning model={model} on data={data}: {request.trials} trials of {_epochs(request.epochs)} on {some} training "
        f"samples{late}; then the best {request.finalists} and the settings of now over {request.confirm} "
        f"seed{'s' if request.confirm > 1 else ''} of {_epochs(made.values['train']['epochs'])}",
        flush=True,
    )


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count != 1 else ''}"


def _search(made: Plan, study: Path, launcher: Sequence[str]) -> int:
    """Make the trials that are missing. Returns the exit code of the sweep; trials that failed are no failure."""
    from snnrun.commands import train
    from snnrun.sweep import points
    from snnrun.tune import plan

    if plan.complete(made, study):
        return 0
    new = not study.exists()
    plan.keep(made, study)
    arguments = [*made.searched, *made.budget, f"outputs={quoted(str(made.outputs))}", *launcher, *points.place(study)]
    code = train.main(["-m", *arguments])
    if new:
        plan.drop_if_empty(study)
    return code


def _confirm(made: Plan, confirmation: Path, finalists: Sequence[Settings], launcher: Sequence[str]) -> int:
    from snnrun.commands import train
    from snnrun.sweep import points

    arguments = [
        *made.confirmed(finalists),
        f"outputs={quoted(str(made.outputs))}",
        *launcher,
        *points.place(confirmation),
    ]
    return train.main(["-m", *arguments])


def _best_so_far(ranked: Sequence[Point]) -> str:
    if not ranked or ranked[0].objective is None:
        return "No trial has come to its end yet."
    return f"The best so far: validation {100 * ranked[0].objective:.2f} % with {' '.join(ranked[0].swept)}."


def _why_none(study: Path) -> str:
    from snnrun.tune import plan

    failed = [point for point in plan.trials(study) if point.status == "FAILED"]
    why = f" The first of them: {failed[0].error}" if failed else ""
    return f"tune: no trial came to its end, so nothing is written.{why}"


# ---- what comes of them ----------------------------------------------------------------------------------------------


def _conclude(made: Plan, study: Path, confirmation: Path, finalists: Sequence[Settings], out: Path | None) -> int:
    """Compare, and write the file of the best; the settings of before stay where none is better. Returns the code."""
    from snnrun.config.compose import compose
    from snnrun.tune import facts, file, plan

    old = facts.measure(plan.outcome(made, confirmation, None), made.request.confirm)
    measured = [facts.measure(plan.outcome(made, confirmation, found), made.request.confirm) for found in finalists]
    _say_what_came(old, finalists, measured)
    complete = [(settings, found) for settings, found in zip(finalists, measured, strict=True) if found is not None]
    if not complete:
        raise SnnrunError(
            f"tune: the best settings of the search failed at full length, so nothing is written. {confirmation} has "
            "the reasons."
        )
    settings, new = max(complete, key=lambda entry: entry[1].mean)
    if old is None:
        failed = [point for point in plan.outcome(made, confirmation, None) if point.status == "FAILED"]
        why = f": {failed[0].error}" if failed else ""
        warn(f"the settings of before failed at full length, so the new ones are compared with none{why}")
    if old is not None and new.mean <= old.mean + ROUNDING:
        print("The settings of before are as good or better, so they stay.", flush=True)
        settings, new = None, old
    common = [word for word in made.request.words if not word.startswith("hydra.launcher.")]
    now = compose(common)
    if any(now[section] != made.values[section] for section in ("encoder", "model", "train")):
        raise SnnrunError(
            f"tune: the settings of {made.pair} have changed while it was tuned, perhaps since its file builds on that "
            f"of another pair, so nothing is written. The study is kept: {study}. Bring back what they were, and give "
            "the same command again; or tune anew by --new."
        )
    values = compose([*common, *(settings or ())])
    own, others = file.settings_of(made.pair)
    own = file.changed(own, [*made.settings, *(settings or ())], values)
    path, use = file.target(made.pair, out, plain=not made.settings)
    run = plan.outcome(made, confirmation, settings)[0].folder(confirmation)
    told = facts.facts(made, study, new, old, run, time.strftime("%Y-%m-%d"))
    title = f"{made.values['model']['name']} on {made.values['data']['name']}"
    file.write(path, file.text(made.pair, title, own, others, told, made.command))
    print(f"{path}\n{use}{'' if path.stem == made.pair else f' {shlex.join(made.groups)}'}", flush=True)
    if settings is not None:
        _say_what_builds_on_it(made.pair, path)
    return 0


def _say_what_came(old: Measured | None, finalists: Sequence[Settings], measured: Sequence[Measured | None]) -> None:
    print(f"before: {old or 'failed'}")
    for settings, found in zip(finalists, measured, strict=True):
        what = "the settings of before" if settings is None else " ".join(settings)
        print(f"tuned:  {found or 'failed'}  {what}")


def _say_what_builds_on_it(pair: str, path: Path) -> None:
    from snnrun.tune import file

    others = file.building_on(pair) if path.stem == pair else []
    if others:
        print(
            f"These pairs take from that file what they do not set themselves, so they have changed too: "
            f"{', '.join(others)}. Tune them next.",
            flush=True,
        )
