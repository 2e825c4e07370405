"""`snnrun evaluate`: a trained network on the samples of a split, with accuracy, classes and cost."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snnrun.commands.flags import add_number
from snnrun.config.paths import folder
from snnrun.errors import SnnrunError, UsageError, warn
from snnrun.metric_names import BEST_VALIDATION, TEST_CHOSEN, TEST_LAST
from snnrun.record import journal, names

if TYPE_CHECKING:
    from snnrun.run.trained import Trained
    from snnrun.train.cost import Spent
    from snnrun.train.firing import Firing

SPLITS = ("test", "validation", "train")
# The name under which a run records the accuracy of these weights on this split.
RECORDED = {
    ("last", "test"): TEST_LAST,
    ("best", "test"): TEST_CHOSEN,
    ("best", "validation"): BEST_VALIDATION,
}


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one split. `confusion` is (classes, classes); its rows are the true classes."""

    trained: Trained
    split: str
    data: str
    confusion: NDArray[np.int64]
    firing: Firing
    cost: Spent
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of the samples on the diagonal."""
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))

    def classes(self) -> dict[str, dict[str, float]]:
        """Samples, recall, precision (0 where no sample was taken for the class) and F1 of each class."""
        right, truth, taken = np.diag(self.confusion), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return {
            name: {
                "samples": int(truth[k]),
                "recall": float(right[k] / max(truth[k], 1)),
                "precision": float(right[k] / max(taken[k], 1)),
                "f1": float(2 * right[k] / max(truth[k] + taken[k], 1)),
            }
            for k, name in enumerate(self.trained.about.classes)
        }

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "run": str(self.trained.folder),
            "weights": self.trained.weights,
            "data": self.data,
            "split": self.split,
            "samples": int(self.confusion.sum()),
            "presentations": self.firing.presentations,
            "accuracy": self.accuracy,
            "classes": self.classes(),
            "confusion": self.confusion.tolist(),
            "cost": self.cost.as_dict(),
            "notes": list(self.notes),
        }


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    from snnrun.config import overrides
    from snnrun.record import run_folder

    run = run_folder.find(options.run, options.outputs)
    values = overrides.overridden(run.values(), options.overrides)
    evaluation = evaluate(
        run.path, values, weights=options.weights, split=options.split, presentations=options.presentations
    )
    if not options.overrides and options.presentations == 1:
        _compare_with_record(evaluation)
    if options.out is not None:
        write(evaluation, options.out)
    print(json.dumps(evaluation.as_dict(), indent=2) if options.json else "\n".join(_lines(evaluation)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "snnrun evaluate",
        description="Evaluate a trained model: accuracy, every class, and what an inference costs.",
        epilog="An override changes a key of the run's data, encoder or hardware: encoder.steps=100, data.root=FOLDER, "
        "hardware.kernels=reference.",
    )
    parser.add_argument("run", help="a run's folder, the beginning of its name or MLflow id, or `last`")
    parser.add_argument("overrides", nargs="*", metavar="override", help="KEY=VALUE")
    parser.add_argument("--weights", choices=("best", "last"), help="default: best, where the run has them")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    add_number(parser, "--presentations", default=1, help="sum the spikes of N drawings of each sample")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--out", type=folder, metavar="FOLDER", help="write evaluation.json and figures there")
    parser.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that the runs wrote to")
    return parser


def evaluate(
    folder: Path,
    values: Mapping[str, Any],
    *,
    weights: str | None = None,
    split: str = "test",
    presentations: int = 1,
) -> Evaluation:
    """Evaluate the network of a run as the run did: each sample has the same spikes.

    Args:
        folder: The folder of the run.
        values: Its config, with the changes.
        weights: `best`, `last`, or None: `best` where the run has them.
        split: `test`, `validation` or `train`. Training samples are not augmented.
        presentations: So many of each sample, whose scores and costs are summed. The first is that of the run.

    Raises:
        UsageError: there are no such weights or samples, the data no longer fit the network, or each presentation would
            be the same.
        SnnrunError: the corpus is missing, or files of the run are damaged.
    """
    from snnrun.run import build, trained
    from snnrun.train import cost, firing, hardware
    from snnrun.train.evaluation import confusion_matrix

    wanted = values["hardware"]
    device, _ = hardware.set_up(wanted["device"], wanted["threads"], wanted["kernels"])
    own = trained.load(folder, values, weights)
    dataset, encoder = build.load(values)
    if dataset.channels != own.about.channels or dataset.classes != own.about.classes:
        raise UsageError(
            f"{folder}: its network has {own.about.channels} inputs and {len(own.about.classes)} classes, and these "
            f"data have {dataset.channels} and {len(dataset.classes)}, or classes of other names."
        )
    samples = getattr(dataset, split)
    if not len(samples):
        raise UsageError(f"--split {split}: the run had none (data.validation={values['data']['validation']:g}).")
    changed = dataset.digest != own.about.digest
    notes = ["the corpus has changed since the training (another digest)"] if changed else []
    fired = firing.record(own.network, samples, encoder, device, number=presentations)
    confusion = confusion_matrix(samples.labels, fired.predicted, len(dataset.classes))
    spent = cost.spent(own.network, fired)
    return Evaluation(own, split, dataset.label, confusion, fired, spent, (*notes, *dataset.notes))


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write `evaluation.json`, `confusion.png` and, of a spiking network, `rates.png` and `cost.png`.

    Raises:
        SnnrunError: the folder cannot be written.
    """
    from snnrun.display import console
    from snnrun.run import artifacts

    label = f"{evaluation.data}, {evaluation.split}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(evaluation.as_dict(), indent=2) + "\n"
        (folder / names.EVALUATION).write_text(text, encoding="utf-8")
        classes = evaluation.trained.about.classes
        console.plot_confusion(evaluation.confusion, classes, folder / names.CONFUSION, f"{evaluation.split} set")
        artifacts.draw(artifacts.activity(evaluation.firing, evaluation.cost, label, folder))
    except OSError as error:
        raise SnnrunError(f"--out {folder}: cannot be written ({error.strerror or error}).") from None


def _compare_with_record(evaluation: Evaluation) -> None:
    """Warn on standard error if the run recorded another accuracy."""
    key = RECORDED.get((evaluation.trained.weights, evaluation.split))
    if key is None:
        return
    entries = journal.read(evaluation.trained.folder)
    said = [entry[key] for entry in entries if isinstance(entry.get(key), int | float)]
    if said and abs(said[-1] - evaluation.accuracy) > 1e-9:
        warn(f"the run recorded {100 * said[-1]:.2f} % here ({key}); data, kernels or versions have changed")


def _lines(evaluation: Evaluation) -> list[str]:
    own, classes = evaluation.trained, evaluation.classes()
    width = max(map(len, ("class", *classes)))
    by_layer = evaluation.cost.by_layer()
    of_layer = max(map(len, by_layer))
    samples, number = int(evaluation.confusion.sum()), evaluation.firing.presentations
    several = "" if number == 1 else f" of {number} presentations, {evaluation.firing.steps:,} steps"
    return [
        f"{own.folder}, {own.weights} weights",
        f"{evaluation.data}, {evaluation.split}: {samples:,} samples, {100 * evaluation.accuracy:.2f} % right",
        *(f"note: {note}" for note in evaluation.notes),
        "",
        f"{'class':<{width}}  samples  recall %  precision %    F1 %",
        *(
            f"{name:<{width}}  {entry['samples']:>7,}  {100 * entry['recall']:>8.2f}  {100 * entry['precision']:>11.2f}"
            f"  {100 * entry['f1']:>6.2f}"
            for name, entry in classes.items()
        ),
        "",
        f"cost of an inference{several}: {evaluation.cost}",
        *(f"  {name:<{of_layer}}  {line}" for name, line in by_layer.items()),
        f"NeuroBench: {evaluation.cost.neurobench}",
    ]
