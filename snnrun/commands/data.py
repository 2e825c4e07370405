"""`snnrun data`: list the corpora, verify the files of one, encode one ahead of its first run, look at samples."""

from __future__ import annotations

import argparse
import inspect
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snnrun.commands import look
from snnrun.commands.flags import PARTS
from snnrun.config.paths import expanded
from snnrun.errors import SnnrunError, UsageError, unknown

_VERBS = {"train": "train", "validation": "validate", "test": "test"}
_OVERRIDES = "An override changes a key as in `snnrun train`: encoder.gain=1000, model=stbp, outputs=FOLDER."


def main(arguments: list[str]) -> int:
    """Run one of its commands; returns the exit code."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)  # `more` has the overrides after an option
    if more and ("overrides" not in options or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        options.overrides += more
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("snnrun data", description="Look after the corpora that `snnrun train` reads.")
    commands = parser.add_subparsers(required=True, metavar="list | verify | prepare | show | stats")
    listing = commands.add_parser("list", help="every corpus: what it is, its licence, and what is here of it")
    listing.set_defaults(run=_list)
    verify = commands.add_parser(
        "verify", help="read every file of a corpus as a run would, and tell every fault", epilog=_OVERRIDES
    )
    verify.add_argument("name", help="such as ti46_alpha")
    verify.add_argument("overrides", nargs="*", metavar="override")
    verify.set_defaults(run=_verify, config_dir=None)
    prepare = commands.add_parser(
        "prepare",
        help="encode the recordings of a corpus now, which its first run would do; download what may be",
        epilog=_OVERRIDES,
    )
    prepare.add_argument("name", help="such as ti46_alpha")
    prepare.add_argument("overrides", nargs="*", metavar="override")
    prepare.add_argument(
        "--config-dir", "-cd", type=Path, metavar="FOLDER", help="with options of your own, as in train"
    )
    prepare.set_defaults(run=_prepare)
    look.add(commands, _OVERRIDES)
    for command in listing, verify, prepare:
        command.add_argument(
            "--root",
            type=expanded,
            help="folder of the corpora, as data.root (default: SNNRUN_DATA, else data/)",
        )
    for command in listing, verify:
        command.add_argument("--json", action="store_true", help="for programs")
    return parser


def _list(options: argparse.Namespace) -> int:
    from snnrun.data import catalogue, data_root

    found = catalogue.survey(data_root(options.root))
    print(json.dumps(found, indent=2) if options.json else "\n".join(line for entry in found for line in _lines(entry)))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from snnrun import encoders
    from snnrun.compiled import parallel
    from snnrun.data import DATASETS, catalogue, data_root
    from snnrun.run import recordings
    from snnrun.train import hardware

    values = composed(options)
    encoder = encoders.build(seed=values["seed"], **values["encoder"])
    ear = recordings.Ear(encoder) if isinstance(encoder, encoders.RecordingEncoder) else None
    parameters = inspect.signature(DATASETS[options.name]).parameters.values()
    own = {p.name: values["data"][p.name] for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in values["data"]}
    parallel.set_threads(hardware.cores())
    report = catalogue.verify(options.name, data_root(values["data"]["root"]), ear, own)
    print(json.dumps(report, indent=2) if options.json else "\n".join(_report(report)))
    return SnnrunError.exit_code if report["faults"] else 0


def _prepare(options: argparse.Namespace) -> int:
    from snnrun.compiled import parallel
    from snnrun.run import build
    from snnrun.train import hardware

    values = composed(options)
    parallel.set_threads(hardware.cores())
    started = time.monotonic()
    dataset, _ = build.load(values)
    seconds = time.monotonic() - started
    train = len(dataset.train) + len(dataset.validation)
    print(f"{dataset.label}: {_pair(train, len(dataset.test))}, ready in {seconds:.1f} s")
    for note in dataset.notes:
        print(f"note: {note}")
    print(f"digest: {dataset.digest}")
    return 0


def composed(options: argparse.Namespace) -> dict[str, Any]:
    """The config of a run on the corpus `name`, with `root`, `overrides` and `config_dir`, as plain values."""
    from snnrun.config.compose import compose

    if options.config_dir is None:
        _check_name(options.name)
    root = [f"data.root={json.dumps(options.root, ensure_ascii=False)}"] if options.root is not None else []
    return compose([f"data={options.name}", *root, *options.overrides], options.config_dir)


def _check_name(name: str) -> None:
    from snnrun.data import DATASETS

    if name not in DATASETS:
        raise UsageError(unknown("corpus", name, DATASETS))


# ---- what is said ---------------------------------------------------------------------------------------------------


def _lines(entry: Mapping[str, Any]) -> list[str]:
    """The lines of one corpus in the list."""
    state = entry["state"]
    if "train" in entry:
        state += f", {_surrogate(entry['origin'])}{_pair(entry['train'], entry['test'])}"
    papers = f" (papers: {_pair(*entry['papers'])})" if entry["papers"] else ""
    about = [entry["about"], entry["licence"]]
    place = [f"looked for in {entry['place']}"] if entry["place"] else []
    if entry["name"] in ("audio_folder", "image_folder", "arrays"):
        place = [f"any {'file' if entry['name'] == 'arrays' else 'folder'} that data.root names"]
    elif entry["name"] in ("tonic", "torchvision"):
        place = [f"in {Path(entry['place']) / entry['name']}, once it has been downloaded"]
    remedy = (
        [f"`snnrun data verify {entry['name']}` says what to do"] if entry["state"] in ("missing", "damaged") else []
    )
    fault = entry["message"].splitlines()[:1] if entry["state"] == "damaged" else []
    more = [*about, *place, *entry.get("notes", []), *fault, *remedy]
    return [f"{entry['name']:<13} {state}{papers}", *(f"{'':<14}{line}" for line in more)]


def _report(report: Mapping[str, Any]) -> list[str]:
    """What `verify` found."""
    lines = [f"{report['name']} in {report['root']}"]
    if "train" in report:
        lines += _contents(report)
    lines += [f"note: {note}" for note in report["notes"]]
    lines += [f"fault: {fault}" for fault in report["faults"]]
    number = len(report["faults"])
    lines.append(f"{number:,} fault{'s' if number > 1 else ''}" if number else "no fault: every file can be used")
    return lines


def _contents(report: Mapping[str, Any]) -> list[str]:
    papers = f" (papers: {_pair(*report['papers'])})" if report["papers"] else ""
    counts = {part: report[part]["classes"] for part in PARTS if part in report}
    samples = ", ".join(f"{report[part]['samples']:,} to {_VERBS[part]}" for part in counts)
    lines = [f"samples: {_surrogate(report['origin'])}{samples}{papers}"]
    if report.get("form"):
        lines += _form(report["form"], report)
    for part, classes in counts.items():
        least, most = min(classes.values()), max(classes.values())
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        lines.append(f"classes of {part}: {len(classes)}, {each} samples each")
    lines += _table(counts)
    if report.get("rates"):
        rates = ", ".join(f"{int(rate):,} Hz ({count:,} files)" for rate, count in report["rates"].items())
        lines.append(f"sample rate: {rates}")
    if report.get("seconds"):
        seconds = report["seconds"]
        spread = f"{seconds['least']:.2f} to {seconds['most']:.2f} s, {seconds['mean']:.2f} s on average"
        lines.append(f"duration: {spread}, {seconds['total'] / 60:.1f} min in all")
    if report.get("spikes"):
        spikes = report["spikes"]
        lines.append(
            f"spikes of a sample: {spikes['least']:,.0f} to {spikes['most']:,.0f}, {spikes['mean']:,.0f} on average, "
            f"on {report['channels']} channels in {report['steps']} steps"
        )
    return [*lines, f"digest: {report['digest']}"] if report["digest"] else lines


def _form(form: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """What the rows of a user's array were taken for."""
    raw, last = form["raw"], form["time"] == "last"
    steps, channels = (raw[-1], raw[0]) if last else (raw[0], raw[-1] if len(raw) == 2 else 1)
    inputs = f"{channels:,} channel{'s' if channels > 1 else ''}"
    said = {
        "image": f"images of {' x '.join(map(str, report.get('shape', raw)))}",
        "vector": f"vectors of {raw[0]:,} values",
        "series": f"time series of {steps:,} steps in {inputs}",
        "spikes": f"spike trains of {steps:,} steps on {inputs}",
    }
    low, high = form.get("low", [0]), form.get("high", [1 if form["kind"] == "spikes" else 255])
    each = f", each of {len(low):,} by itself" if len(low) > 1 else ""
    return [f"kind: {said[form['kind']]}", f"range: {min(low):.6g} to {max(high):.6g}{each}"]


def _table(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The classes, a line each, with their counts in every part."""
    names = list(counts["train"])
    width = max(map(len, ("class", *names)))
    rows = [("class", *counts), *((name, *(f"{part[name]:,}" for part in counts.values())) for name in names)]
    return [f"  {name:<{width}}" + "".join(f"  {cell:>10}" for cell in cells) for name, *cells in rows]


def _pair(train: int, test: int) -> str:
    return f"{train:,} to train, {test:,} to test"


def _surrogate(origin: str) -> str:
    """The word for a corpus that is not recorded: its name never stands without it."""
    return "" if origin == "recorded" else f"{origin}, "
