"""MLflow's registry: a trained model as a version of a registered one, which `mlflow models serve` serves."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

from snnrun.errors import UsageError
from snnrun.tracking.address import store_uri, usual_uri
from snnrun.tracking.store import reopen, usable


class Registered(NamedTuple):
    """A version of a registered model, and the address of its store."""

    version: int
    store: str


class Package(NamedTuple):
    """What is registered.

    Attributes:
        loader: Module with the function `_load_pyfunc`, which makes the model of a folder.
        folder: That folder.
        example: A request.
        answer: What the model makes of it.
        params: Parameters of a request, with their defaults.
        requirements: Packages that the model needs, as pip takes them.
    """

    loader: str
    folder: Path
    example: Any
    answer: Any
    params: Mapping[str, Any]
    requirements: list[str]


def check_name(name: str) -> None:
    """Raise UsageError unless MLflow takes this as the name of a model."""
    if not name.strip() or set(name) & set("/:"):
        raise UsageError(f"--register {name!r}: a model needs a name without / and :.")


def register(place: tuple[Path, str | None, str], run_dir: Path, name: str, package: Package) -> Registered:
    """Keep a model with its run, and make it the next version of the registered model `name`.

    Args:
        place: The folder of outputs, the address of the store or None for that below the outputs, and the experiment.
        run_dir: The folder of the run that trained the model.
        name: Of the registered model, which is made if it is not there.
        package: The model.

    Raises:
        UsageError: the run was not recorded in MLflow, or a name is not allowed.
        SnnrunError: the store cannot be used, or does not have the run.
    """
    check_name(name)
    outputs, uri, _ = place
    address = uri or store_uri(outputs)
    client, run = reopen(*place, run_dir)
    if run is None:
        raise UsageError(f"{run_dir}: this run is not in MLflow. First: snnrun runs import {run_dir}")
    with usable(address, outputs), _at(address):
        import mlflow.pyfunc
        from mlflow.models import Model, infer_signature

        kept = client.create_logged_model(run.info.experiment_id, name="model", source_run_id=run.info.run_id)
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            model_id=kept.model_id,
            run_id=run.info.run_id,
            registered_model_name=name,
            loader_module=package.loader,
            data_path=str(package.folder),
            signature=infer_signature(package.example, package.answer, dict(package.params) or None),
            input_example=(package.example, dict(package.params)) if package.params else package.example,
            pip_requirements=package.requirements,
        )
    return Registered(int(info.registered_model_version), address)


@contextmanager
def _at(address: str) -> Iterator[None]:
    """Inside, MLflow's functions use this store, and say nothing."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import mlflow

        before = usual_uri()  # MLflow keeps its store of now there; one that was not named stays so
        mlflow.set_tracking_uri(address)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # None: none is named
