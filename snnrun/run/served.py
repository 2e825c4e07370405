"""A trained model as MLflow serves it: raw samples in, classes out.

MLflow finds `_load_pyfunc` here by the name of this module (`mlflow.pyfunc`). What it is given is a folder with the
config of the run, the description of its network, and weights. The encoder draws for each sample what it draws for
sample 0, as `snnrun predict` does for a file, so an answer does not depend on the other samples of a request.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snnrun import encoders
from snnrun.compiled.packed_arrays import pack
from snnrun.data import array_row, array_samples
from snnrun.errors import SnnrunError, UsageError
from snnrun.record.run_folder import RunFolder
from snnrun.run import trained
from snnrun.run.samples import Reader
from snnrun.run.trained import Trained
from snnrun.train import hardware
from snnrun.train.batches import as_input
from snnrun.train.evaluation import EVALUATION_BATCH

RATE = {"sample_rate": 16000}  # parameters of a request with recordings, in Hz


class Served:
    """A model that answers requests.

    Args:
        own: The trained model.
        device: Where it runs.
    """

    def __init__(self, own: Trained, device: torch.device) -> None:
        self._about, self._device = own.about, device
        self._model = own.network.to(device)
        self._encoder = Reader(own.values, own.about).encoder
        steps = own.values["encoder"].get("steps") or own.about.steps
        form = own.about.form
        if form is not None:
            self.shape = array_samples.from_dict(form).raw
        elif own.about.kind == "spikes":
            self.shape = int(steps), own.about.channels
        elif own.about.kind == "series":
            self.shape = own.about.steps, own.about.channels
        else:
            self.shape = own.about.shape

    @property
    def hears(self) -> bool:
        """Whether samples are recordings."""
        return isinstance(self._encoder, encoders.RecordingEncoder)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that a request may have, with their defaults."""
        return dict(RATE) if self.hears else {}

    def example(self) -> NDArray[Any]:
        """A request with one sample of noise."""
        draw = np.random.default_rng(0)
        if self.hears:
            return draw.normal(scale=0.1, size=(1, RATE["sample_rate"])).astype(np.float32)
        values = draw.integers(0, 2, (1, *self.shape))
        return values.astype(np.uint8 if self._about.kind in ("image", "spikes") else np.float32)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> dict[str, NDArray[Any]]:
        """Classify samples.

        Args:
            model_input: Samples (B, ...): pixels 0 to 255, spikes of 0 and 1 (B, T, N), values, or recordings (B, S) in
                [-1, 1]; of data=arrays, what its rows are.
            params: `sample_rate` of recordings, Hz.

        Returns:
            `class`, the name of each sample's class (B,), and `scores` of all classes (B, C), in their order: counts of
            output spikes, or logits.

        Raises:
            UsageError: samples are not like those of the corpus.
            SnnrunError: a value is no number.
        """
        samples, given = np.asarray(model_input), {**self.params, **(params or {})}
        scores = np.zeros((len(samples), len(self._about.classes)))
        for start in range(0, len(samples), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            scores[part] = self._scores(samples[part], given)
        return {"class": np.array(self._about.classes)[scores.argmax(axis=1)], "scores": scores}

    @torch.no_grad()
    def _scores(self, samples: NDArray[Any], params: Mapping[str, Any]) -> NDArray[np.float32]:
        inputs = as_input(self._encoder, self._encoded(samples, params))
        found: NDArray[np.float32] = self._model(inputs.to(self._device)).scores.cpu().numpy()
        return found

    def _encoded(self, samples: NDArray[Any], params: Mapping[str, Any]) -> NDArray[Any]:
        if isinstance(self._encoder, encoders.RecordingEncoder):
            waves, rate = samples.astype(np.float64), int(params["sample_rate"])
            try:
                return np.stack([self._encoder.encode_recording(wave, rate) for wave in waves])
            except ValueError as error:
                raise SnnrunError(f"a recording cannot be used: {error}") from None
        return self._encoder.encode(self._prepared(samples), np.zeros(len(samples), np.int64), 0)

    def _prepared(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Samples as the corpus has them."""
        form, kind = self._about.form, self._about.kind
        if samples.shape[1:] != self.shape:
            raise UsageError(f"samples of the shape {samples.shape[1:]}: this model takes {self.shape}.")
        if form is not None:
            return np.concatenate([array_row.single("a sample", row, form)[0] for row in samples])
        if kind == "spikes":
            if not np.isin(samples, (0, 1)).all():
                raise UsageError("samples have values other than 0 and 1, and this model takes spikes.")
            return np.stack([pack(sample.astype(bool)) for sample in samples])
        if kind == "image":
            if not ((samples >= 0) & (samples <= 255) & (samples == np.floor(samples))).all():
                raise UsageError("samples have values that are no pixels, whole numbers from 0 to 255.")
            return samples.astype(np.uint8).reshape(len(samples), -1)
        values = samples.astype(np.float32)
        return values if kind == "series" else values.reshape(len(values), -1)


def _load_pyfunc(path: str) -> Served:
    """The model of a folder, on the fastest device of this machine. MLflow calls this."""
    device, _ = hardware.set_up()
    run = RunFolder(Path(path))
    return Served(trained.load(run.path, run.values()), device)


def save(own: Trained, folder: Path) -> None:
    """Write what `_load_pyfunc` reads into a new folder."""
    folder.mkdir()
    RunFolder(folder).save(own.values)
    own.about.save(folder)
    shutil.copy(own.folder / trained.WEIGHTS[own.weights], folder)
