"""`snnrun predict`: class scores of single files by a trained network."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snnrun.commands.flags import PARTS, add_number
from snnrun.config.paths import expanded, folder
from snnrun.display.plots import FORMATS
from snnrun.errors import SnnrunError, UsageError

if TYPE_CHECKING:
    from snnrun.run.samples import Sample


@dataclass(frozen=True)
class Prediction:
    """What a model says about one sample.

    Attributes:
        source: The file, or `test:17`.
        classes: Names of the classes, (C,).
        scores: Spikes of the output neurons, int64 (C,), or, of a model without such, the shares of the classes in
            its answer, float (C,): probabilities, or votes.
        layers: Spikes (T, N) of the input and every layer; empty of a model without spikes.
        label: The true class, where it is known.
        notes: What the user should know.
    """

    source: str
    classes: tuple[str, ...]
    scores: NDArray[Any]
    layers: dict[str, NDArray[np.uint8]]
    label: int | None
    notes: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """Whether the scores are counts of spikes."""
        return self.scores.dtype.kind == "i"

    @property
    def predicted(self) -> str:
        """The class with the largest score, such as the neuron that fires most. Of several such, the first."""
        return self.classes[int(self.scores.argmax())]

    def ranking(self) -> list[tuple[str, int | None, float]]:
        """Class, count (None if scores are no counts) and share of all scores, the largest first."""
        order = np.argsort(-self.scores, kind="stable")
        if not self.counts:
            return [(self.classes[k], None, float(self.scores[k])) for k in order]
        total = max(int(self.scores.sum()), 1)
        return [(self.classes[k], int(self.scores[k]), float(self.scores[k] / total)) for k in order]

    def as_dict(self) -> dict[str, Any]:
        """One entry of the output of `--json`."""
        entry: dict[str, Any] = {
            "source": self.source,
            "predicted": self.predicted,
            "label": None if self.label is None else self.classes[self.label],
        }
        if self.counts:
            entry["scores"] = [{"class": name, "count": count, "share": part} for name, count, part in self.ranking()]
        else:
            entry["scores"] = [{"class": name, "probability": part} for name, _, part in self.ranking()]
        if self.layers:
            entry["spikes"] = {name: int(spikes.sum()) for name, spikes in self.layers.items()}
        return {**entry, "notes": list(self.notes)}


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    if options.raster is not None and (len(options.sources) > 1 or options.raster.suffix.lower() not in FORMATS):
        raise UsageError(f"--raster {options.raster}: one file ending in {', '.join(FORMATS)}, for one sample.")
    if options.layers and options.raster is None:
        raise UsageError("--layers: it is about the figure of --raster FILE.")
    predictions = predict(
        options.run, options.sources, outputs=options.outputs, weights=options.weights, root=options.root,
        invert=options.invert, presentations=options.presentations,
    )  # fmt: skip
    if options.raster is not None and not predictions[0].layers:
        raise UsageError(f"--raster {options.raster}: this run's model has no spikes to draw.")
    if options.raster is not None:
        _draw(predictions[0], options.raster, options.layers)
    if options.json:
        print(json.dumps([prediction.as_dict() for prediction in predictions], indent=2, ensure_ascii=False))
        return 0
    for prediction in predictions:
        print("\n".join(_lines(prediction, options.top)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "snnrun predict",
        description="What a trained network takes files for: recordings, images, events, or spikes as .npy.",
        epilog="Files are prepared as the corpus prepares its own. For a corpus without files, such as MNIST, images "
        "are made grey (or RGB), filled up with black to its proportions and brought to its size. An image's spikes "
        "are drawn as those of sample 0. test:17 is a sample of the corpus, which must be there then.",
    )
    parser.add_argument("run", help="a run's folder, the beginning of its name or MLflow id, or `last`")
    parser.add_argument(
        "sources", nargs="+", metavar="FILE", help="a file, shd_test.h5:17 or my.npz:3 of a file of many, or test:17"
    )
    parser.add_argument("--weights", choices=("best", "last"), help="default: best, where the run has them")
    add_number(parser, "--top", default=3, help="so many classes (default: 3)")
    add_number(parser, "--presentations", default=1, help="sum the spikes of N drawings of each sample")
    parser.add_argument("--invert", action="store_true", help="take bright pixels for dark ones")
    parser.add_argument("--raster", type=folder, metavar="OUT.png", help="draw the output spikes of one sample")
    parser.add_argument("--layers", action="store_true", help="with --raster: the input and every layer")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--root", type=expanded, help="folder of the corpora, for test:17 (default: as in the run)")
    parser.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that the runs wrote to")
    return parser


def predict(
    name: str,
    sources: list[str],
    *,
    outputs: Path = Path("outputs"),
    weights: str | None = None,
    root: str | None = None,
    invert: bool = False,
    presentations: int = 1,
) -> list[Prediction]:
    """Classify files, or samples of the corpus, by the network of a run, on the fastest device of this machine.

    Args:
        name: Folder, name or id of the run below `outputs`, see `run_folder.find`.
        sources: Files, or samples such as `test:17`.
        weights: `best`, `last`, or None: `best` where the run has them.
        root: Folder of the corpora. None: as in the run.
        invert: Take bright pixels for dark ones.
        presentations: So many of each sample, whose scores are summed.

    Raises:
        UsageError: there is no such run, file or sample, the network does not take it, or each presentation would be
            the same.
        SnnrunError: a file is damaged.
    """
    from snnrun.network import Network
    from snnrun.record import run_folder
    from snnrun.run import trained
    from snnrun.run.samples import Reader
    from snnrun.train import hardware
    from snnrun.train import presentations as drawings
    from snnrun.train.batches import as_input

    run = run_folder.find(name, outputs)
    values = run.values()
    if root is not None:
        values["data"]["root"] = root
    device, _ = hardware.set_up()
    own = trained.load(run.path, values, weights)
    reader = Reader(values, own.about, invert)
    shown = [[reader.read(source) for source in sources]]
    for number in range(1, presentations):
        reader.epoch = drawings.epoch(number)
        shown.append([reader.read(source) for source in sources])
    model, classes, predictions = own.network.to(device), own.about.classes, []
    for source, sample, *more in zip(sources, *shown, strict=True):
        inputs = [each.inputs for each in (sample, *more)]
        drawings.refuse_equal(presentations, inputs, source)
        notes = (*sample.notes, *_where_to_look(own.about.data, source, sample))
        shares, layers = trained.outcome(model, [as_input(reader.encoder, each) for each in inputs], device)
        if isinstance(model, Network):
            counts = layers["output"].sum(axis=0, dtype=np.int64)
            silent = () if counts.any() else ("no output neuron fired, which the first class stands for",)
            predictions.append(Prediction(source, classes, counts, layers, sample.label, (*notes, *silent)))
        else:
            predictions.append(Prediction(source, classes, shares, layers, sample.label, notes))
    return predictions


def _where_to_look(corpus: str, source: str, sample: Sample) -> tuple[str, ...]:
    """How to look at a sample of which there is something to say."""
    part, _, number = source.partition(":")
    indexed = part in PARTS and not Path(source).exists()
    which = f"--split {part} --sample {number}" if indexed else f"--file {source}"
    return (f"to look at it: snnrun data show {corpus} {which}",) if sample.notes else ()


def _draw(prediction: Prediction, path: Path, every_layer: bool) -> None:
    from snnrun.display import console

    output = {name: spikes for name, spikes in prediction.layers.items() if name == "output"}
    layers = output if output and not every_layer else prediction.layers
    try:
        console.plot_raster(layers, f"{Path(prediction.source).name}, taken for {prediction.predicted}", path)
    except OSError as error:
        raise SnnrunError(f"--raster {path}: it cannot be written ({error.strerror or error}).") from None
    print(f"wrote {path}", file=sys.stderr)


def _lines(prediction: Prediction, top: int) -> list[str]:
    truth = "" if prediction.label is None else f" (it is {prediction.classes[prediction.label]})"
    width = max(map(len, prediction.classes))
    return [
        f"{prediction.source}: {prediction.predicted}{truth}",
        *(
            f"  {name:<{width}}  " + ("" if count is None else f"{count:>5,} spikes  ") + f"{100 * share:>5.1f} %"
            for name, count, share in prediction.ranking()[:top]
        ),
        *(f"  note: {note}" for note in prediction.notes),
    ]
