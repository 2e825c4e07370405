"""The command `snnrun`: a table of commands. Each imports what it needs when it is called."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from snnrun import beside, collector, signals
from snnrun.display import output
from snnrun.errors import INTERRUPTED, SnnrunError, UsageError, unknown


def _of(name: str) -> Callable[[list[str]], int]:
    """The command of `commands/NAME.py`."""

    def command(arguments: list[str]) -> int:
        code: int = importlib.import_module(f"snnrun.commands.{name}").main(arguments)
        return code

    return command


def _completion(arguments: list[str]) -> int:
    from snnrun.commands.completion import main

    return main(arguments, COMMANDS)


# name: (function of the arguments that follow, one line of help)
COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_of("train"), "train and evaluate a network; -m sweeps over several settings"),
    "resume": (_of("resume"), "go on with a run that was killed, interrupted or failed"),
    "runs": (_of("runs"), "list the runs, show one, compare them over seeds, name the best"),
    "report": (_of("report"), "write a page that compares the runs with the papers' figures"),
    "reproduce": (_of("reproduce"), "train the rows of a published table, and print it with ours beside it"),
    "tune": (_of("tune"), "search the settings of a pair of model and corpus, and write its tuned file"),
    "evaluate": (_of("evaluate"), "evaluate a trained network: accuracy, classes, cost of an inference"),
    "predict": (_of("predict"), "class scores of files: recordings, images, spikes"),
    "export": (_of("export"), "hand a trained network over: PyTorch, ONNX, NIR, safetensors, MLflow's registry"),
    "ui": (_of("ui"), "open MLflow's pages: the newest sweep, its charts, a comparison"),
    "data": (_of("data"), "list the corpora, verify the files of one, or encode one ahead"),
    "bench": (_of("bench"), "measure time, memory and spikes of training and inference"),
    "doctor": (_of("doctor"), "say what runs here, and what is missing; --kernels checks the kernels"),
    "config": (_of("config"), "list the options of `train`, show one, or copy one to edit it"),
    "completion": (_completion, "print the completion script of bash, zsh or fish"),
}
# The result of these commands is what they write to files or start. That of the others is what they print.
WORK = ("train", "resume", "tune", "export", "ui")
# Flags with which `train` trains, and arguments with which MLflow records nothing.
RUNNING = {"-m", "--multirun", "-q", "--quiet", "-v", "--verbose"}
UNRECORDED = {"tracking=none", "tracking.kind=none"}


def _help() -> str:
    lines = [f"  {name:<10} {about}" for name, (_, about) in COMMANDS.items()]
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


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a failure, 2 for a wrong request, 130 for Ctrl-C."""
    if argv is None:
        _own_process(sys.argv[1:])
    return _answered(argv)


def _own_process(arguments: list[str]) -> NoReturn:
    """Run a command in a process that is there for nothing else, and end it."""
    collector.seldom()
    beside.allow()
    try:
        _foresee(arguments)
        code = _answered(arguments)
    finally:
        beside.stop()
    _end(code)


def _foresee(arguments: list[str]) -> None:
    """Have MLflow imported beside the command at once, if its arguments look like a run that is recorded there."""
    if arguments[:1] != ["train"] or "RANK" in os.environ:
        return
    flags = {argument for argument in arguments if argument.startswith("-")}
    if flags <= RUNNING and not UNRECORDED & set(arguments):
        from snnrun import tracking

        tracking.foresee()


def _end(code: int) -> NoReturn:
    """End this process as Python does, but leave its memory to the system.

    Python would give back half a million objects of imported packages one by one, which takes a fifth of a second.
    """
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads, as Python does at its end
    atexit._run_exitfuncs()
    os._exit(code)


def _answered(arguments: list[str]) -> int:
    with output.unfailing() as out:
        code = _main(arguments)
        out.flush()
        worthless = code == 0 and out.lost is not None and arguments[0] not in WORK
        return SnnrunError.exit_code if worthless else code


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"snnrun {version('snnrun')}")
        return 0
    name, *rest = arguments
    with signals.as_interrupts():
        try:
            if name not in COMMANDS:
                raise UsageError(unknown("command", name, COMMANDS))
            return COMMANDS[name][0](rest)
        except SnnrunError as error:
            print(f"snnrun: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("snnrun: interrupted", file=sys.stderr)
            return INTERRUPTED
