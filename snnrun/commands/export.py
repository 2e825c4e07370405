"""`snnrun export`: a trained model as a file for other programs."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnrun.commands.flags import add_number
from snnrun.config.paths import expanded, folder
from snnrun.errors import SnnrunError, UsageError, first_line, warn
from snnrun.record import names
from snnrun.tracking import registry

if TYPE_CHECKING:
    from snnrun.network import Network
    from snnrun.nir.check import Agreement
    from snnrun.portable.check import Agreement as Answers
    from snnrun.portable.quantise import Cost
    from snnrun.run.build import Inputs
    from snnrun.run.trained import Trained

FORMATS = {
    "nir": "network.nir",
    "onnx": "network.onnx",
    "pytorch": "network.py",
    "safetensors": "network.safetensors",
}
READERS = {"nir": "SpikingJelly", "onnx": "onnxruntime", "pytorch": "plain PyTorch"}  # that --check runs a file in
STEP_S = 1e-3
CHECKED = 100


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    _refuse(options)
    from snnrun.record import run_folder
    from snnrun.run import trained

    run = run_folder.find(options.run, options.outputs)
    values = run.values()
    if options.root is not None:
        values["data"]["root"] = options.root
    own = trained.load(run.path, values, options.weights)
    if options.format is not None:
        _export(own, options)
    if options.register is not None:
        _register(own, run.outputs or options.outputs, options)
    return 0


def _export(own: Trained, options: argparse.Namespace) -> None:
    """Write the file that --format asks for, and say what is asked about it."""
    path = options.out or own.folder / _usual_name(options)
    cost = None if options.quantise is None else _quantised(own, options)
    for warning in _written(own, path, options):
        warn(warning)
    print(f"{path}: the {own.weights} weights of {own.folder.name} as {options.format}")
    if cost is not None:
        beside = path.with_name(f"{path.name}.json")
        facts = {"file": path.name, "format": options.format, "weights": own.weights, **cost.as_dict()}
        _write(own, beside, lambda temporary: temporary.write_text(f"{json.dumps(facts, indent=2)}\n"))
        print(f"{beside}: {cost}")
    if options.check is not None:
        print(f"in {READERS[options.format]}: {_checked(own, path, options)}")


def _register(own: Trained, outputs: Path, options: argparse.Namespace) -> None:
    """Make the model a version of a registered one, and say how it is served."""
    from snnrun.run import served
    from snnrun.train import hardware

    wanted = own.values["tracking"]
    device, _ = hardware.set_up()
    model = served.Served(own, device)
    example = model.example()
    with tempfile.TemporaryDirectory() as temporary:
        package = registry.Package(
            loader=served.__name__, folder=Path(temporary) / "run", example=example, answer=model.predict(example),
            params=model.params, requirements=[f"snnrun=={importlib.metadata.version('snnrun')}"],
        )  # fmt: skip
        served.save(own, package.folder)
        place = outputs, options.uri or wanted["uri"], wanted["experiment"]
        version, store = registry.register(place, own.folder, options.register, package)
    uri = f"models:/{options.register}/{version}"
    print(f"{uri}: the {own.weights} weights of {own.folder.name}, in {store}")
    print(f"  serve it: MLFLOW_TRACKING_URI={store} mlflow models serve -m {uri} --env-manager local")


def _usual_name(options: argparse.Namespace) -> str:
    name = FORMATS[options.format]
    return name if options.quantise is None else name.replace(".", f"_{options.quantise}.")


def _refuse(options: argparse.Namespace) -> None:
    """Raise UsageError if flags do not fit one another."""
    if options.format is None and options.register is None:
        raise UsageError(f"--format {'|'.join(FORMATS)} or --register NAME is needed.")
    if options.register is not None:
        registry.check_name(options.register)
    for name, given in {"--out": options.out, "--quantise": options.quantise}.items():
        if given is not None and options.format is None:
            raise UsageError(f"{name}: it is for --format. A registered model is kept by MLflow, in float32.")
    if options.quantise is not None and options.register is not None:
        raise UsageError("--quantise: a registered model is in float32. Register it by a command of its own.")
    if options.uri is not None and options.register is None:
        raise UsageError("--uri: it is for --register.")
    for name, given in {"--allow": options.allow, "--dt": options.dt != STEP_S}.items():
        if given and options.format != "nir":
            raise UsageError(f"{name}: it is for --format nir.")
    if not 0 < options.dt < 1:
        raise UsageError(f"--dt {options.dt:g}: a step in seconds is needed, above 0 and below 1.")
    if options.check is not None and options.format not in READERS:
        raise UsageError(f"--check: it is for --format {', '.join(READERS)}, whose files can be run.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "snnrun export",
        description="Hand a trained model over: as an NIR graph that other simulators load, as an ONNX graph or a "
        "PyTorch module that need no snnrun, as safetensors, or to MLflow's registry of models.",
        epilog="What NIR cannot express is refused by name, unless --allow KEY lets it be left out. docs/export.md in "
        "the repository says what becomes what.",
    )
    parser.add_argument("run", help="a run's folder, the beginning of its name or MLflow id, or `last`")
    parser.add_argument("--format", choices=tuple(FORMATS))
    parser.add_argument(
        "--register", metavar="NAME", help="make it the next version of this model in MLflow, which serves it"
    )
    parser.add_argument("--uri", help="the store of --register (default: that of the run's config)")
    parser.add_argument("--out", type=folder, metavar="FILE", help="default: network.nir, .py, ... in its folder")
    parser.add_argument("--weights", choices=("best", "last"), help="default: best, where the run has them")
    parser.add_argument("--allow", action="append", default=[], metavar="KEY", help="leave out: t_ref, reset")
    parser.add_argument(
        "--dt", type=float, default=STEP_S, metavar="SECONDS",
        help="a step in the graph's time constants (default: 0.001; snnTorch reads everything at 0.0001)",
    )  # fmt: skip
    add_number(
        parser, "--check", nargs="?", const=CHECKED,
        help=f"run the file on N test samples (default: {CHECKED}) and say how far its answers agree",
    )  # fmt: skip
    parser.add_argument(
        "--quantise", choices=("int8",),
        help="round the weights to int8 with a scale for each neuron or kernel, and say what that costs on the test "
        "samples; FILE.json has it, too",
    )  # fmt: skip
    parser.add_argument(
        "--root", type=expanded, help="folder of the corpora, for --check and --quantise (default: as in the run)"
    )
    parser.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that the runs wrote to")
    return parser


def _written(own: Trained, path: Path, options: argparse.Namespace) -> list[str]:
    """Write the file. Returns warnings."""
    quantised = options.quantise is not None
    if options.format == "nir":
        return write_nir(own, path, dt=options.dt, allow=options.allow, quantised=quantised)
    write = {"onnx": write_onnx, "pytorch": write_pytorch, "safetensors": write_safetensors}[options.format]
    write(own, path, quantised=quantised)
    return []


def _quantised(own: Trained, options: argparse.Namespace) -> Cost:
    """Quantise the model. Returns what that costs."""
    from snnrun.portable import quantise

    _refuse_format(own, options)
    return quantise.cost(own.network, *_test_samples(own))


def _refuse_format(own: Trained, options: argparse.Namespace) -> None:
    """Raise UsageError, before anything is computed, if the format does not take the model."""
    from snnrun.portable import task

    if options.format in ("nir", "safetensors"):
        _network_of(own)
    else:
        task.task(own).spiking()


def _network_of(own: Trained) -> Network:
    """The network. Raises UsageError if the run trained another model."""
    from snnrun.network import Network
    from snnrun.portable import task

    if isinstance(own.network, Network):
        return own.network
    others = "Use --format pytorch or onnx; " if task.takes(own.network) else "No other format takes it; "
    raise UsageError(
        f"{own.folder}: model={own.values['model']['name']} is no network of a learning rule, as this format wants. "
        f"{others}{own.weights}.safetensors has its weights under PyTorch's names."
    )


def write_nir(
    own: Trained, path: Path, *, dt: float = STEP_S, allow: Collection[str] = (), quantised: bool = False
) -> list[str]:
    """Write the network as an NIR graph in HDF5. Returns a warning for each thing that was left out.

    Raises:
        UsageError: NIR cannot express something of the network, see `nir.graph`.
        SnnrunError: the package `nir` is missing, or the file cannot be written.
    """
    from snnrun.nir.graph import graph_of

    graph, warnings = graph_of(_network_of(own), own.about, dt=dt, allow=allow)
    import nir

    if quantised:
        graph.metadata["quantised"] = "int8: each row of weights is -127 to 127 times a number"
    _write(own, path, lambda temporary: nir.write(str(temporary), graph))
    return warnings


def write_pytorch(own: Trained, path: Path, *, quantised: bool = False) -> None:
    """Write the model as a PyTorch module, and its weights beside it, see `portable.pytorch`.

    Raises:
        UsageError: the model is of a kind that cannot be written, or the path does not end in .py.
        SnnrunError: a file cannot be written.
    """
    import torch

    from snnrun.portable import pytorch
    from snnrun.portable.task import task

    if path.suffix != ".py":
        raise UsageError(f"--out {path}: --format pytorch writes a file .py, and the weights beside it as .pt.")
    wanted = task(own)
    program = pytorch.program(wanted)
    state = program.packed() if quantised else program.state
    text = pytorch.text(wanted, program, quantised=quantised)
    _write(own, path.with_suffix(".pt"), lambda temporary: torch.save(state, temporary))
    _write(own, path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_onnx(own: Trained, path: Path, *, quantised: bool = False) -> None:
    """Write the model as an ONNX graph, see `portable.onnx`.

    Raises:
        UsageError: the package `onnx` is missing, or the model is of a kind that cannot be written, or too large.
        SnnrunError: the file cannot be written.
    """
    from snnrun.portable import onnx
    from snnrun.portable.task import task

    graph = onnx.graph(task(own), quantised=quantised)
    _write(own, path, lambda temporary: temporary.write_bytes(graph.SerializeToString()))


def write_safetensors(own: Trained, path: Path, *, quantised: bool = False) -> None:
    """Write the weights with a header: config, classes, layers, and what each tensor means.

    Raises:
        SnnrunError: the file cannot be written.
    """
    from safetensors.torch import save_file

    from snnrun.portable import tensors

    _network_of(own)
    state, about = tensors.state(own, quantised=quantised), tensors.header(own, quantised=quantised)
    _write(own, path, lambda temporary: save_file(state, temporary, about))


def _checked(own: Trained, path: Path, options: argparse.Namespace) -> object:
    """How far the answers of a written file agree with the model's, in words."""
    if options.format == "nir":
        return check(own, path, dt=options.dt, samples=options.check)
    return check_plain(own, path, options.format, samples=options.check)


def check_plain(own: Trained, path: Path, format_: str, *, samples: int = CHECKED) -> Answers:
    """Run an exported file of a format that needs no snnrun on test samples, see `portable.check`.

    Raises:
        SnnrunError: the corpus is missing.
    """
    from snnrun.portable import onnx, pytorch
    from snnrun.portable.check import agreement
    from snnrun.portable.task import task
    from snnrun.train import firing

    dataset, encoder = _test_samples(own)
    compute = (onnx if format_ == "onnx" else pytorch).compute(path)
    return agreement(task(own), compute, dataset.test, encoder, firing.spread(dataset.test, samples))


def check(own: Trained, path: Path, *, dt: float, samples: int = CHECKED) -> Agreement:
    """Run an exported graph in another library on test samples of the run's corpus, see `nir.check`.

    Raises:
        SnnrunError: the corpus or that library is missing, or the library does not take the graph.
    """
    import torch

    from snnrun import encoders
    from snnrun.nir.check import agreement
    from snnrun.nir.graph import delay
    from snnrun.train import firing

    dataset, encoder = _test_samples(own)
    if encoders.makes_currents(encoder):
        raise UsageError(
            f"--check compares the answers to spikes, and the input of this run has currents "
            f"(encoder={own.values['encoder']['name']})."
        )
    split = dataset.test
    at = firing.spread(split, samples)
    bits = torch.from_numpy(encoder.encode(split.samples[at], split.index[at], 0))
    network = _network_of(own)
    return agreement(network, path, bits, torch.from_numpy(split.labels[at]), dt=dt, delay=delay(network))


def _test_samples(own: Trained) -> Inputs:
    """The corpus of a run and its encoder; the kernels are ready."""
    from snnrun.run import build
    from snnrun.train import hardware

    hardware.set_up("cpu")
    return build.load(own.values)


def _write(own: Trained, path: Path, write: Any) -> None:
    """Write to a temporary name, then rename. So no half of a file stays behind, and the run keeps its weights."""
    kept = [own.folder / name for name in (names.BEST, names.LAST, names.NETWORK)]
    if path.resolve() in [weights.resolve() for weights in kept]:
        raise UsageError(f"--out {path}: this file is the run's own. Choose another name.")
    if path.is_dir():
        raise UsageError(f"--out {path}: this is a folder. Give the name of a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except Exception as error:  # also SafetensorError and the errors of h5py
        with contextlib.suppress(OSError):  # a read-only file system refuses this, too
            temporary.unlink(missing_ok=True)
        reason = first_line(error)
        raise SnnrunError(f"{path}: it cannot be written ({reason}). Write elsewhere by --out FILE.") from None
