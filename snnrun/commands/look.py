"""`snnrun data show` and `snnrun data stats`: look at samples, and at all of a corpus, as a network gets them."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnrun.commands.flags import PARTS, add_number
from snnrun.config.paths import expanded, folder
from snnrun.display.plots import FORMATS
from snnrun.errors import SnnrunError, UsageError

if TYPE_CHECKING:
    from snnrun.run.census import Census
    from snnrun.run.look import Look

LOOKED_AT = 5000  # samples, unless --all
_CURVES = 4  # so many channels of values are curves; more are a map
_NARROW, _LOW = 34, 12  # characters of a panel beside others, and its lines


def add(commands: Any, overrides: str) -> None:
    """Add both commands to the parser of `snnrun data`."""
    show = commands.add_parser(
        "show",
        help="draw samples as a network gets them, with their facts",
        epilog=f"{overrides} A path in place of a corpus is a picture, a recording, or a file of arrays.",
    )
    show.add_argument("name", help="such as fsdd, or a file")
    show.add_argument("overrides", nargs="*", metavar="override")
    add_number(show, "--sample", least=0, default=0, help="its number in the part, from 0")
    show.add_argument("--class", dest="wanted", metavar="NAME", help="number the samples of this class alone")
    add_number(show, "--grid", default=1, help="so many samples, from --sample on")
    show.add_argument("--file", type=folder, metavar="FILE", help="a file, made a sample as the corpus makes its own")
    show.add_argument("--invert", action="store_true", help="with a picture: take bright pixels for dark ones")
    add_number(show, "--epoch", least=0, default=0, help="as the training gets it in an epoch, augmented")
    show.add_argument("--out", type=folder, metavar="OUT.png", help="a figure, with the picture or the sound above")
    show.set_defaults(run=_show)
    stats = commands.add_parser(
        "stats",
        help="spikes a sample, channel and step, silent and saturated channels, lengths, classes",
        epilog=overrides,
    )
    stats.add_argument("name", help="such as fsdd")
    stats.add_argument("overrides", nargs="*", metavar="override")
    stats.add_argument("--all", action="store_true", help=f"every sample, not {LOOKED_AT:,} evenly over the part")
    stats.set_defaults(run=_stats)
    for command in show, stats:
        command.add_argument("--split", choices=PARTS, default="train", help="the part (default: train)")
        command.add_argument("--json", action="store_true", help="for programs")
        command.add_argument("--config-dir", "-cd", type=Path, metavar="FOLDER", help="with options of your own")
        command.add_argument("--root", type=expanded, help="folder of the corpora, as data.root")


# ---- show -----------------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    if options.out is not None and options.out.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {options.out}: a file ending in {', '.join(FORMATS)}.")
    looks = _looks(options)
    if options.json:
        print(json.dumps([look.facts() for look in looks], indent=2, ensure_ascii=False))
    else:
        print("\n".join(_drawn(looks)))
    if options.out is not None:
        from snnrun.display import sample_plots

        try:
            sample_plots.plot_samples(looks, [_title(look) for look in looks], options.out)
        except OSError as error:
            raise SnnrunError(f"--out {options.out}: it cannot be written ({error.strerror or error}).") from None
        print(f"wrote {options.out}", file=sys.stderr)
    return 0


def _looks(options: argparse.Namespace) -> list[Look]:
    from snnrun.commands.data import composed
    from snnrun.data import DATASETS
    from snnrun.run.look import Samples

    path = Path(expanded(options.name))
    if options.config_dir is None and options.name not in DATASETS and path.is_file():
        if options.file is not None:
            raise UsageError(f"--file {options.file}: {path} is a file already. Give one of them, or a corpus.")
        options.name = _corpus_of(path)
        if options.name == "arrays":
            options.root = str(path)
        else:
            options.file = path
    samples = Samples(composed(options), options.invert)
    if options.file is not None:
        return [samples.read_file(options.file)]
    numbers = samples.choose(options.split, options.sample, options.grid, options.wanted)
    return [samples.read(options.split, number, options.epoch) for number in numbers]


def _corpus_of(path: Path) -> str:
    """The corpus whose files are like this one, by its extension."""
    from snnrun.data import array_files, audio

    if path.suffix.lower() in audio.suffixes():
        return "audio_folder"
    if path.suffix.lower() in array_files.ENDINGS:
        return "arrays"
    if path.suffix.lower() in (".bin", ".dat", ".aedat", ".aedat4", ".gz"):
        raise UsageError(f"{path}: a file of this kind needs its corpus: snnrun data show CORPUS --file {path}")
    return "image_folder"


def _title(look: Look) -> str:
    name = Path(look.name).name if look.name else ""
    label = f"class {look.label}" if look.label is not None else ""
    return "  ".join(filter(None, [look.source, "" if name == look.source else name, label]))


def _drawn(looks: Sequence[Look]) -> list[str]:
    """Titles, pictures and facts, as they fit the window."""
    from rich.console import Console

    console = Console()
    width = console.width if console.is_terminal else 80
    height = console.height if console.is_terminal else 30
    unicode = "utf" in (console.encoding or "").lower()
    if len(looks) == 1:
        [look] = looks
        facts = _facts(look, width if console.is_terminal else None)
        rows = max(3, height - 4 - len(facts))
        return [_title(look), *_panel(look, width - 1, rows, unicode), *facts]
    abreast = max(1, min(len(looks), width // _NARROW))
    wide, lines = width // abreast - 2, list[str]()
    for start in range(0, len(looks), abreast):
        own = looks[start : start + abreast]
        panels = [[_title(look), *_panel(look, wide, _LOW, unicode), _short(look)] for look in own]
        high = max(map(len, panels))
        panels = [[*panel[:-1], *[""] * (high - len(panel)), panel[-1]] for panel in panels]
        lines += ["  ".join(f"{line[:wide]:<{wide}}" for line in each).rstrip() for each in zip(*panels, strict=True)]
        lines.append("")
    return lines[:-1]


def _panel(look: Look, width: int, rows: int, unicode: bool) -> list[str]:
    """The sample's input in a frame."""
    import numpy as np

    from snnrun.display import terminal_plots

    last = f"{look.input.shape[1] - 1:,}"
    if not look.spiking and len(look.input) == 1:
        if look.picture is not None and look.picture.shape[1] > 1:
            planes = look.picture.mean(axis=0)
            columns = min(width, rows * 4 * planes.shape[1] // max(planes.shape[0], 1) // 2 or 1)
            return terminal_plots.picture(planes.T, columns, rows, unicode)
        return terminal_plots.framed(
            [terminal_plots.bars(look.input[0], width - 8, unicode)], "value", "", "channel 0", last, width - 8
        )
    above, below, drawn = "0", last, terminal_plots.picture
    if not look.spiking and look.input.shape[1] <= _CURVES:
        above, below = (f"{bound(look.input):.3g}" for bound in (np.nanmax, np.nanmin))
        drawn = terminal_plots.curves
    margin = max(len(above), len(below)) + 1
    lines = drawn(look.input, width - margin, rows, unicode)
    used = max(len(line) for line in lines) if unicode else width - margin
    right = f"{look.steps:,} steps" if used < _NARROW else f"{look.steps:,} steps of {look.step_ms:g} ms"
    return terminal_plots.framed(lines, above, below, "0", right, used)


def _facts(look: Look, columns: int | None) -> list[str]:
    """What is known of a sample, a line each, wrapped to a width where one is given."""
    facts, rows = look.facts(), {}
    seconds = look.steps * look.step_ms / 1000
    if look.steps > 1:
        rows["steps"] = f"{look.steps:,} of {look.step_ms:g} ms: {seconds:.3g} s"
    quiet = facts["silent_channels"]
    how = "silent" if look.spiking else "0"
    rows["channels"] = f"{facts['channels']:,}, {f'{len(quiet):,} of them' if quiet else 'none'} {how}{_ranges(quiet)}"
    if look.spiking:
        rows["spikes"] = f"{facts['spikes']:,}: {facts['rate_hz']:.3g} Hz a channel"
        if facts["spikes"]:
            first, last = facts["first_step"], facts["last_step"]
            rows["spikes"] += (
                f"; the first at step {first:,}, the last at step {last:,} ({last * look.step_ms:,.0f} ms)"
            )
    elif facts["mean"] is not None:
        rows["values"] = f"{facts['least']:.3g} to {facts['most']:.3g}, {facts['mean']:.3g} on average"
        rows["values"] += ", the same at every step" if facts["constant"] else f", {facts['length']:,} steps long"
    width = max(map(len, rows))
    lines = [
        *(f"  {name:<{width}}  {text}" for name, text in rows.items()),
        *(f"  note: {note}" for note in look.notes),
    ]
    if columns is None:
        return lines
    indent = " " * (width + 4)
    return [part for line in lines for part in textwrap.wrap(line, columns, subsequent_indent=indent)]


def _short(look: Look) -> str:
    facts = look.facts()
    if not look.spiking:
        return "" if facts["mean"] is None else f"{facts['mean']:.3g} on average"
    return f"{facts['spikes']:,} spikes, {facts['rate_hz']:.3g} Hz" + ("; it is cut" if look.notes else "")


def _ranges(numbers: Sequence[int], most: int = 6) -> str:
    """' (0-11, 77)', or '' for none."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in found]
    more = [f"and {len(texts) - most:,} ranges more"] if len(texts) > most else []
    return f" ({', '.join([*texts[:most], *more])})" if texts else ""


# ---- stats ----------------------------------------------------------------------------------------------------------


def _stats(options: argparse.Namespace) -> int:
    from snnrun import kernels
    from snnrun.commands.data import composed
    from snnrun.compiled import parallel
    from snnrun.run import census
    from snnrun.train import hardware

    values = composed(options)
    parallel.set_threads(hardware.cores())
    kernels.use("auto", "cpu")
    found = census.take(values, options.split, None if options.all else LOOKED_AT)
    print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False) if options.json else "\n".join(_report(found)))
    return 0


def _report(found: Census) -> list[str]:
    from rich.console import Console

    from snnrun.display import terminal_plots

    console, facts = Console(), found.as_dict()
    unicode = "utf" in (console.encoding or "").lower()
    what, channels = ("spikes" if found.spiking else "mean value"), len(found.per_channel)
    looked = f", {len(found.positions):,} of them looked at" if len(found.positions) < found.size else ""
    rows = {
        f"samples to {found.part}" if found.part != "validation" else "validation samples": f"{found.size:,}{looked}",
        "steps": f"{found.steps:,} of {found.step_ms:g} ms: {found.steps * found.step_ms / 1000:.3g} s",
        f"{what} a sample": _spread(facts["per_sample"]),
        f"{what} a channel": f"{_spread(facts['per_channel'])}   (of {channels:,}, in a sample)",
        "silent channels": f"{len(found.silent_channels):,}{_ranges(found.silent_channels.tolist())}",
        "saturated channels": f"{len(found.saturated_channels):,}{_ranges(found.saturated_channels.tolist())}   "
        + ("(at more than half of all steps)" if found.spiking else "(above half of the largest value)"),
        "silent samples": f"{len(found.silent):,}" + (_named(found) if len(found.silent) else ""),
    }
    if len(found.by_step) == 1 and not found.spiking:
        rows["steps"] = "the same values at every step"
    else:
        late = f"   ({found.cut:,} end in the last hundredth)" if found.cut < len(found.positions) else ""
        rows["first step used"] = _spread(facts["first_step"])
        rows["last step used"] = _spread(facts["last_step"]) + late
    if found.spiking and found.by_step.any():
        rows["all spikes"] = ", ".join(
            f"{share} by step {step:,}" for share, step in facts["spikes_come_by_step"].items()
        )
        rows["rate of a channel"] = f"{found.rates.mean():.3g} Hz, at most {found.rates.max():.3g} Hz at one step"
    if len(found.by_step) > 1:
        rows["over time"] = f"|{terminal_plots.bars(found.by_step, 56, unicode)}|"
    rows["over channels"] = f"|{terminal_plots.bars(found.by_channel, 56, unicode)}|"
    width = max(map(len, rows))
    lines = [found.name, *(f"  {name:<{width}}  {text}" for name, text in rows.items())]
    lines += ["  classes", *_classes(facts["classes"], what)]
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _spread(values: dict[str, float]) -> str:
    if not values:
        return "-"
    texts = {name: _number(value) for name, value in values.items()}
    middle = f"{texts['quarter']} | {texts['median']} | {texts['three_quarters']}"
    return f"{texts['least']} .. {middle} .. {texts['most']}, mean {texts['mean']}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _named(found: Census, most: int = 6) -> str:
    numbers = [str(k) for k in found.silent[:most].tolist()]
    more = ", ..." if len(found.silent) > most else ""
    return f" (snnrun data show {found.name.split()[0]} --split {found.part} --sample {', '.join(numbers)}{more})"


def _classes(classes: dict[str, dict[str, Any]], what: str) -> list[str]:
    width = max(map(len, classes))
    return [
        f"    {name:<{width}}  {entry['samples']:>8,} samples"
        + ("" if entry["mean"] is None else f"  {_number(entry['mean']):>8} {what} each")
        for name, entry in classes.items()
    ]
