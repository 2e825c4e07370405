"""The command `snnrun`: a table of commands, each of which imports what it needs when it is called."""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from snnrun.errors import SnnrunError, UsageError


def _train(arguments: list[str]) -> int:
    from snnrun.app import main

    return main(arguments)


def _ui(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("snnrun ui", description="Open MLflow's pages on the store of the runs.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder that the runs wrote to")
    parser.add_argument("--uri", help="the store, if the runs were given tracking.uri")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    from snnrun import tracking

    return tracking.ui(options.outputs, host=options.host, port=options.port, uri=options.uri)


def _config(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("snnrun config", description="Look at the options that `snnrun train` composes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | show")
    listing = commands.add_parser("list", help="every option with what it is")
    listing.add_argument("group", nargs="?", help="one group only, such as model")
    show = commands.add_parser("show", help="one option with its values and comments")
    show.add_argument("option", help="such as model/strsbp")
    request = parser.parse_args(arguments)
    from snnrun import options

    known = options.groups()
    if request.command == "list":
        if request.group not in (None, *known):
            raise UsageError(_unknown("group", request.group, known))
        print(options.listing(request.group))
        return 0
    text = options.text(request.option)
    if text is None:
        everything = [f"{group}/{option}" for group, entry in known.items() for option in entry.options]
        raise UsageError(_unknown("option", request.option, everything))
    print(text, end="")
    return 0


def _bench(arguments: list[str]) -> int:
    from snnrun.bench import main

    return main(arguments)


def _data(arguments: list[str]) -> int:
    from snnrun.data_command import main

    return main(arguments)


def _runs(arguments: list[str]) -> int:
    from snnrun.runs_command import main

    return main(arguments)


def _resume(arguments: list[str]) -> int:
    from snnrun.resume import main

    return main(arguments)


def _report(arguments: list[str]) -> int:
    from snnrun.report_command import main

    return main(arguments)


def _doctor(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("snnrun doctor", description="Say what this installation can run on.")
    parser.add_argument("--kernels", action="store_true", help="check every kernel here against the reference")
    options = parser.parse_args(arguments)
    from snnrun import doctor

    doctor.describe()
    return 0 if not options.kernels or doctor.check_kernels() else SnnrunError.exit_code


def _evaluate(arguments: list[str]) -> int:
    from snnrun.evaluate import main

    return main(arguments)


def _predict(arguments: list[str]) -> int:
    from snnrun.predict import main

    return main(arguments)


def _export(arguments: list[str]) -> int:
    from snnrun.export import main

    return main(arguments)


# name: (function of the arguments that follow, one line of help)
COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_train, "train and evaluate a network; -m sweeps over several settings"),
    "resume": (_resume, "go on with a run that was killed, interrupted or failed"),
    "runs": (_runs, "list the runs, show one, compare them over seeds, name the best"),
    "report": (_report, "write a page that compares the runs with the papers' figures"),
    "evaluate": (_evaluate, "evaluate a trained network: accuracy, classes, cost of an inference"),
    "predict": (_predict, "class scores of files: recordings, images, spikes"),
    "export": (_export, "hand a trained network over: NIR or safetensors"),
    "ui": (_ui, "open MLflow's pages on the runs"),
    "data": (_data, "list the corpora, verify the files of one, or encode one ahead"),
    "bench": (_bench, "measure time, memory and spikes of training and inference"),
    "doctor": (_doctor, "say what this installation can run on; --kernels checks its kernels"),
    "config": (_config, "list the options of `train`, or show one"),
}


def _help() -> str:
    lines = [f"  {name:<8} {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: snnrun COMMAND [argument ...] | --help | --version",
            "",
            "Train spiking neural networks by backpropagation: ST-RSBP, HM2-BP and STBP.",
            "",
            "Commands:",
            *lines,
            "",
            "Start with `snnrun train`: it needs no download. `snnrun COMMAND --help` says more.",
        ]
    )


def _unknown(what: str, word: str, allowed: Iterable[str]) -> str:
    names = list(allowed)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"{word}: no such {what}. Allowed: {', '.join(names)}." + (f" Did you mean {near[0]}?" if near else "")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a failure, 2 for a wrong request, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"snnrun {version('snnrun')}")
        return 0
    name, *rest = arguments
    # Schedulers send SIGTERM before they kill: the command ends as on Ctrl-C, with what was reached.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if name not in COMMANDS:
            raise UsageError(_unknown("command", name, COMMANDS))
        return COMMANDS[name][0](rest)
    except SnnrunError as error:
        print(f"snnrun: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("snnrun: interrupted", file=sys.stderr)
        return 130
