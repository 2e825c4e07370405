"""`snnrun train -m` without training: which points run, which run again, and what is said."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from snnrun import cli, tracking
from snnrun.config import options
from snnrun.config.compose import compose
from snnrun.errors import SnnrunError
from snnrun.record import journal
from snnrun.run import experiment
from snnrun.sweep import lifecycle, points, worker
from snnrun.tracking import sweep_run
from snnrun.train import engine

pytestmark = [
    pytest.mark.slow,  # whole sweeps
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # SQLAlchemy's pool keeps its sqlite connections
]


class Runs:
    """Takes the place of `experiment.run`: what was run, and which seeds fail or are interrupted."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.values: list[dict[str, Any]] = []
        self.failing: set[int] = set()
        self.interrupted: set[int] = set()

    def __call__(self, values: Any, run_dir: Path, *, on_epoch: Any, tags: Any, **_: Any) -> engine.Result:
        self.seeds.append(values["seed"])
        self.values.append(values)
        assert tags[sweep_run.POINT_TAG] == points.identity(values)
        if values["seed"] in self.failing:
            raise ZeroDivisionError(f"seed {values['seed']}\nmore")
        result = engine.Result()
        try:
            for epoch in range(values["train"]["epochs"]):
                accuracy = min(1.0, values["train"]["lr"])
                found = {"train/accuracy": 0.0, "validation/accuracy": accuracy, "test/accuracy": 0.9}
                result.history.append({"epoch": epoch + 1.0, **found})
                result.best_epoch = 1
                on_epoch(result.history[-1])
                if values["seed"] in self.interrupted:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            result.status = "interrupted"
        return result


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(experiment, "run", runs)
    return runs


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun train -m` in an empty folder, without MLflow: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*arguments: str, tracking: str = "none") -> tuple[int, str, str]:
        resumed = any(argument.startswith("sweep.resume=") for argument in arguments)
        code = cli.main(["train", "-m", *arguments, *([] if resumed else [f"tracking={tracking}"])])
        return code, *capsys.readouterr()

    return call


def the_sweep() -> Path:
    [folder] = Path("outputs/sweeps").iterdir()
    return folder


def statuses() -> list[str]:
    return [point.status for point in points.attempts(the_sweep())]


# ---- a grid, resumed -------------------------------------------------------------------------------------------------


def test_a_resumed_sweep_runs_what_is_missing(train: Any, runs: Runs) -> None:
    runs.failing, runs.interrupted = {1}, {3}
    code, out, err = train("seed=range(5)", "train.lr=0.5")
    assert code == 130
    assert "point 1 (seed=1): unexpected ZeroDivisionError: seed 1" in err
    assert statuses() == ["FINISHED", "FAILED", "FINISHED", "KILLED", "WAITING"]
    name, killed = the_sweep().name, points.attempts(the_sweep())[3]
    assert f"Go on by: snnrun train -m sweep.resume={name}" in out
    runs.seeds, runs.failing, runs.interrupted = [], set(), set()
    code, out, err = train(f"sweep.resume={name[:8]}")
    assert (code, err) == (0, "")
    assert sorted(runs.seeds) == [1, 3, 4]
    assert runs.values[-1]["train"]["lr"] == 0.5, "the arguments are those of the sweep"
    assert "5 points, 2 of them finished already" in out
    last = points.latest(points.attempts(the_sweep()))
    assert {point.status for point in last} == {"FINISHED"}
    assert len(last) == 5
    assert len({point.number for point in last}) == 5
    assert killed.number in {point.number for point in last}, "it goes on where it was"
    assert 1 not in {point.number for point in last}, "what failed begins anew"
    code, out, err = train("sweep.resume=last")
    assert (code, err, sorted(runs.seeds)) == (0, "", [1, 3, 4])


def test_what_fails_alike_is_said_once(train: Any, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(values: Any, *_: Any, **__: Any) -> None:
        raise SnnrunError(f"no corpus {values['seed'] // 9}\nget it")

    monkeypatch.setattr(experiment, "run", fail)
    code, _, err = train("seed=range(10)")
    assert code == 1
    assert err.splitlines()[:4] == [
        "snnrun: point 0 (seed=0): no corpus 0",
        "get it",
        "snnrun: point 1 (seed=1): failed as point 0 did.",
        "snnrun: point 2 (seed=2): failed as point 0 did.",
    ]
    assert "snnrun: point 9 (seed=9): no corpus 1\nget it\n" in err
    assert "10 of the points failed: point 0 (seed=0), " in err
    assert "point 7 (seed=7), and 2 more. Each folder" in err


def test_a_resumed_sweep_may_be_given_more_points(train: Any, runs: Runs) -> None:
    train("seed=0,1", "train.lr=0.5")
    runs.seeds = []
    code, _, _ = train("sweep.resume=last", "seed=5,0,1,2", "train.lr=0.5", "tracking=none")
    assert (code, runs.seeds) == (0, [5, 2])
    runs.seeds = []
    assert train("sweep.resume=last")[0] == 0, "what was given last is its own now"
    assert (runs.seeds, len(points.latest(points.attempts(the_sweep())))) == ([], 4)


def test_what_a_resumed_sweep_is_not_given_anew_stays_its_own(train: Any, runs: Runs) -> None:
    train("seed=0,1", "model=mlp", "train.lr=0.5", "train.epochs=1")
    code, out, _ = train("sweep.resume=last", "seed=0,1,2")
    assert (code, runs.seeds) == (0, [0, 1, 2]), out
    assert {(values["model"]["name"], values["train"]["lr"]) for values in runs.values} == {("mlp", 0.5)}
    train("sweep.resume=last", "train.lr=0.25", "seed=0")
    assert [(values["seed"], values["train"]["lr"]) for values in runs.values[3:]] == [(0, 0.25)]
    assert "model=mlp" in points.read_sweep(the_sweep()).arguments


def test_equal_points_run_once(train: Any, runs: Runs) -> None:
    assert train("seed=0,0,1")[0] == 0
    assert runs.seeds == [0, 1]


def test_listed_points_have_overrides_and_names_of_their_own(train: Any, runs: Runs) -> None:
    listed = 'search.points=["fast: train.lr=0.5 train.epochs=1","slow: train.epochs=2 train.lr=0.1"]'
    assert train("search=list", listed, "seed=0,1", "train.epochs=3")[0] == 0
    assert [(run["train"]["lr"], run["train"]["epochs"], run["seed"]) for run in runs.values] == [
        (0.5, 1, 0), (0.5, 1, 1), (0.1, 2, 0), (0.1, 2, 1),
    ]  # fmt: skip
    made = points.attempts(the_sweep())
    assert [point.label for point in made] == ["fast", "fast", "slow", "slow"]
    assert made[3].name == "point 3 (slow seed=1)"
    assert not any(word.startswith("search.points") for point in made for word in point.overrides)
    runs.seeds = []
    code, out, _ = train("sweep.resume=last")
    assert (code, runs.seeds) == (0, [])
    assert "4 points, 4 of them finished already" in out


def test_a_listed_point_that_fails_is_named_by_its_label(train: Any, runs: Runs) -> None:
    runs.failing = {1}
    code, _, err = train("search=list", 'search.points=["good: seed=0","bad: seed=1"]')
    assert code == 1
    assert "snnrun: 1 of the points failed: point 1 (bad). Each folder" in err


def test_a_listed_point_with_the_settings_of_another_is_said(train: Any, runs: Runs) -> None:
    code, _, err = train("search=list", 'search.points=["base: train.lr=0.5","other: train.lr=0.5"]')
    assert (code, len(runs.seeds)) == (0, 1)
    assert "search.points: 'other' has the settings of 'base', whose runs stand for both." in err


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("[]", "search.points: names no point"),
        ('["train.lr=1"]', "'train.lr=1' is no point. Write"),
        ('["a: lr"]', "'a: lr' is no point"),
        ('["a: train.lt=1"]', "train.lt: train has no such key"),
    ],
)
def test_a_list_that_cannot_be_read_is_one_line(train: Any, runs: Runs, listed: str, said: str) -> None:
    code, _, err = train("search=list", f"search.points={listed}")
    assert (code, runs.seeds) == (2, [])
    assert said in err
    assert err.count("\n") == 1


def test_the_papers_curves_are_a_list(train: Any, runs: Runs) -> None:
    assert train("search=stbp_curves", "experiment=mnist_stbp_paper", "train.epochs=1")[0] == 0
    assert [(run["model"]["surrogate"], run["model"]["surrogate_width"]) for run in runs.values] == [
        *((curve, 1.0) for curve in ("rectangle", "polynomial", "sigmoid", "gaussian")),
        *(("rectangle", width) for width in (0.1, 2.5, 5.0, 7.5, 10.0)),
    ]


@pytest.mark.parametrize("corpus", ["fsdd", "fashion_mnist"])
def test_the_ablations_change_one_thing_a_point(corpus: str) -> None:
    points = yaml.safe_load(options.text(f"search/ablation_{corpus}") or "")["points"]
    words = ["model=strsbp", f"data={corpus}"]
    base = compose(words)
    labels, settings = zip(*(point.split(": ", 1) for point in points), strict=True)
    assert labels[0] == "base"
    assert compose([*words, settings[0]]) == base
    made = [compose([*words, *setting.split()]) for setting in settings[1:]]
    assert all(values != base for values in made)
    assert len({str(values) for values in made}) == len(made) == len(set(labels[1:]))


def test_each_rung_of_the_ladder_adds_to_the_last() -> None:
    points = yaml.safe_load(options.text("search/ladder") or "")["points"]
    settings = [point.split(": ", 1)[1].split() for point in points]
    made = [compose([*setting, "data=ntidigits"]) for setting in settings]
    assert [values["model"]["name"] for values in made] == ["hm2bp", "strsbp", "strsbp", "strsbp"]
    assert all(after[: len(before)] == before for before, after in itertools.pairwise(settings[1:]))
    assert [(each["model"]["train_constants"], each["model"]["delays"]) for each in made] == [
        *(("none", "none"), ("none", "none"), ("all", "none"), ("all", "trained"))
    ]


def test_fail_fast_begins_no_more_points(train: Any, runs: Runs) -> None:
    runs.failing = {1}
    assert train("seed=range(4)", "sweep.fail_fast=true")[0] == 1
    assert runs.seeds == [0, 1]
    assert statuses() == ["FINISHED", "FAILED", "WAITING", "WAITING"]
    runs.failing = set()
    assert train("sweep.resume=last")[0] == 0
    assert sorted(runs.seeds) == [0, 1, 1, 2, 3], "the failure of before stops nothing"


def test_two_processes_do_not_work_on_one_sweep(train: Any, runs: Runs) -> None:
    train("seed=0,1")
    with points.hold(the_sweep()):
        code, _, err = train("sweep.resume=last")
    assert code == 2
    assert "another process is at work on it" in err
    with points.hold(the_sweep() / "1"):
        code, _, err = train("sweep.resume=last")
    assert code == 2
    assert "are at work still: 1" in err


# ---- a point goes on from its checkpoint -----------------------------------------------------------------------------

TINY = [
    *("model=stbp", "tuned=none", "data.limit=20", "encoder.steps=5", "model.network=6", "train.epochs=4"),
    *("hardware=cpu", "hardware.kernels=reference", "seed=0,1"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two real trainings that nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert cli.main(["train", "-m", "-q", *TINY, "tracking=none", f"hydra.sweep.dir={folder}/all"]) == 0
    return folder / "all"


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Raised, one after another, at the end of every second epoch of a point."""
    ends: list[BaseException] = []
    watch = worker._Watch.__call__

    def call(self: worker._Watch, metrics: Any) -> None:
        watch(self, metrics)
        if ends and metrics["epoch"] == 2:
            raise ends.pop(0)

    monkeypatch.setattr(worker._Watch, "__call__", call)
    return ends


def assert_as_if_nothing_had_stopped(sweep: Path, undisturbed: Path) -> None:
    ours, theirs = points.attempts(sweep), points.attempts(undisturbed)
    assert [(p.number, p.status, p.history, p.objective, p.summary) for p in ours] == [
        (p.number, p.status, p.history, p.objective, p.summary) for p in theirs
    ]
    for point in ours:
        for file in ("last.safetensors", "best.safetensors"):
            assert (point.folder(sweep) / file).read_bytes() == (point.folder(undisturbed) / file).read_bytes()
        epochs = [entry["epoch"] for entry in journal.read(point.folder(sweep)) if "epoch" in entry]
        assert epochs == [1, 2, 3, 4]


def test_an_interrupted_point_goes_on_from_its_checkpoint(
    train: Any, stopped: list[BaseException], undisturbed: Path
) -> None:
    stopped += [KeyboardInterrupt()]
    assert train(*TINY, tracking="mlflow")[0] == 130
    assert statuses() == ["KILLED", "WAITING"]
    began = points.attempts(the_sweep())[0]
    code, out, err = train("sweep.resume=last")
    assert (code, err) == (0, "")
    assert "Going on in epoch 3." in out or "Going on in epoch 2" in out
    assert_as_if_nothing_had_stopped(the_sweep(), undisturbed)
    client = tracking.connect(tracking.store_uri(Path("outputs")))
    children = [run for run in client.search_runs(["1"]) if "snnrun.sweep" not in run.data.tags]
    assert {run.info.status for run in children} == {"FINISHED"}
    assert began.run_id in {run.info.run_id for run in children}
    assert len(children) == 2, "in the same MLflow run"


def test_a_requeued_job_goes_on_from_its_checkpoint(
    train: Any, stopped: list[BaseException], undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra._internal.core_plugins import basic_launcher

    once = basic_launcher.run_job

    def requeued(**job: Any) -> Any:
        """As submitit does: its handler of signals ends the process, and the queue runs the same job again."""
        try:
            return once(**job)
        except SystemExit:
            return once(**job)

    monkeypatch.setattr(basic_launcher, "run_job", requeued)
    stopped += [SystemExit(-1)]
    code, out, err = train(*TINY)
    assert (code, err, stopped) == (0, "", [])
    assert "Going on in epoch" in out
    assert_as_if_nothing_had_stopped(the_sweep(), undisturbed)


def test_a_job_that_is_queued_again_after_its_end_is_not_trained_again(train: Any, runs: Runs) -> None:
    train("seed=0,1", "train.lr=0.5")
    point = points.attempts(the_sweep())[0]
    settings = {"search": {}, "sweep": {"fail_fast": False}}
    assert worker.run(point, the_sweep(), settings, pytest.fail, dict) == 0.5
    assert runs.seeds == [0, 1]


def test_another_launcher_leaves_the_keys_of_the_old_one_behind(train: Any, runs: Runs) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    train("seed=0,1")
    sweep = points.read_sweep(the_sweep())
    assert sweep is not None
    sweep.arguments += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    sweep.save(the_sweep())
    resumed = lifecycle.resumed(["-m", "sweep.resume=last", "hydra.launcher.n_jobs=3"])
    assert resumed.count("hydra/launcher=joblib") == 1, "the same launcher with another number"
    code, _, err = train("sweep.resume=last", "hydra/launcher=basic")
    assert (code, err) == (0, "")


# ---- random, Optuna, pruning -----------------------------------------------------------------------------------------


def test_random_points_are_the_same_when_resumed(train: Any, runs: Runs) -> None:
    code, out, _ = train("search=random", "search.trials=5", "train.lr=tag(log,interval(0.001,0.1))", "train.epochs=1")
    rates = [values["train"]["lr"] for values in runs.values]
    assert (code, len(set(rates))) == (0, 5)
    assert all(0.001 <= rate <= 0.1 for rate in rates)
    assert "train.lr" in out
    code, _, _ = train("sweep.resume=last", "search.trials=7")
    assert (code, len(runs.values)) == (0, 7)


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_an_interval_of_whole_numbers_gives_whole_numbers(train: Any, runs: Runs, search: str) -> None:
    if search == "optuna":
        pytest.importorskip("optuna")
    code, _, err = train(
        *(f"search={search}", "search.trials=12", "search.startup=12", "train.lr=0.5"),
        *("train.epochs=interval(1,3)", "hardware.threads=tag(log,interval(1,8))", "model.tau_m=interval(8,16)"),
    )
    assert (code, err) == (0, "")
    assert {values["train"]["epochs"] for values in runs.values} == {1, 2, 3}
    assert {type(values["hardware"]["threads"]) for values in runs.values} == {int}
    assert len({values["model"]["tau_m"] for values in runs.values}) == len(runs.values), "this key takes any number"


@pytest.mark.parametrize("model", ["strsbp", "hm2bp", "stbp", "gru", "lra"])
def test_every_rule_has_a_default_space_whose_points_are_right(train: Any, runs: Runs, model: str) -> None:
    code, _, err = train("search=random", "search.trials=4", f"model={model}", "train.lr=0.5")
    assert (code, err) == (0, "")
    assert len({json.dumps(values["model"]) for values in runs.values}) == 4
    assert {values["train"]["lr"] for values in runs.values} == {0.5}, "what the user fixes is not searched"


def test_optuna_is_given_objectives_and_goes_on(train: Any, runs: Runs) -> None:
    pytest.importorskip("optuna")
    arguments = ["search=optuna", "search.startup=2", "train.lr=interval(0.1,0.9)", "train.epochs=1"]
    code, _, err = train(*arguments, "search.trials=4")
    assert (code, err) == (0, "")
    first = points.attempts(the_sweep())
    assert [point.objective for point in first] == [values["train"]["lr"] for values in runs.values]
    assert (the_sweep() / "optuna.db").is_file()
    code, _, _ = train("sweep.resume=last", "search.trials=6")
    assert (code, len(runs.values)) == (0, 6)
    assert train("sweep.resume=last")[0] == 0
    assert len(runs.values) == 6


def test_points_that_lag_are_pruned_and_not_run_again(train: Any, runs: Runs, tmp_path: Path) -> None:
    rates = "train.lr=0.5,0.6,0.7,0.8,0.9,0.2,0.95"
    code, out, _ = train(rates, "search.prune=true", "search.prune_after=2", "train.epochs=4")
    assert code == 0
    found = {point.swept[0]: (point.status, len(point.history)) for point in points.attempts(the_sweep())}
    assert found.pop("train.lr=0.2") == ("PRUNED", 2)
    assert set(found.values()) == {("FINISHED", 4)}
    assert "point 5 (train.lr=0.2): pruned, 20.00 %" in out
    train("sweep.resume=last")
    assert len(runs.values) == 7


# ---- what is left of it ----------------------------------------------------------------------------------------------


def test_the_table_has_what_differs_and_what_came_of_it(train: Any, runs: Runs) -> None:
    runs.failing = {1}
    train("seed=0,1,2", "train.lr=0.25,0.75")
    with (the_sweep() / "sweep.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["FINISHED"] * 2 + ["FAILED"] * 2 + ["FINISHED"] * 2
    assert [row["objective"] for row in table] == ["0.25", "0.75", "", "", "0.25", "0.75"]
    assert table[2]["error"].startswith("unexpected ZeroDivisionError: seed 1")
    text = (the_sweep() / "sweep.md").read_text().splitlines()
    assert text[0].startswith("| point | status | seed | train.lr | objective |")
    assert text[2].startswith("| 1 | FINISHED | 0 | 0.75 | 0.75 |"), "the best first"
    assert (the_sweep() / "parallel.png").stat().st_size > 10_000


def test_a_point_that_fails_before_its_run_is_recorded_too(train: Any, runs: Runs) -> None:
    code, _, err = train("train.batch_size=0,3", tracking="mlflow")
    assert code == 1
    assert "point 0 (train.batch_size=0): train.batch_size: 0 is out of range" in err
    client = tracking.connect(tracking.store_uri(Path("outputs")))
    run = client.get_run((the_sweep() / "0" / "mlflow_run_id").read_text().strip())
    parent = points.read_sweep(the_sweep())
    assert parent is not None
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.parentRunId"] == parent.parent_run_id
    assert run.data.tags["snnrun.error"].startswith("train.batch_size: 0 is out of range")
    assert run.data.params["train.batch_size"] == "0"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["error.txt"]
    files = {file.path for file in client.list_artifacts(parent.parent_run_id)}
    assert {"sweep.csv", "sweep.md"} <= files
    # Run again in the same parent run, it is told from the new attempt by a tag.
    assert train("sweep.resume=last", "tracking=mlflow")[0] == 1
    assert client.get_run(run.info.run_id).data.tags["snnrun.superseded"] == "true"
    assert [run.info.run_id for run in client.search_runs(["1"]) if "snnrun.sweep" in run.data.tags] == [
        parent.parent_run_id
    ]


# ---- wrong requests --------------------------------------------------------------------------------------------------

WRONG = {
    ("sweep.resume=nope",): "sweep.resume: 'nope' is no sweep's folder",
    ("search.trials=1,2",): "search.trials: has one value for the whole sweep",
    ("search=random", "search.trials=0"): "search.trials: 0 is out of range",
    ("sweep.failfast=true", "seed=0,1"): "Did you mean sweep.fail_fast?",
    ("sweep.fail_fast=perhaps", "seed=0,1"): "sweep.fail_fast: 'perhaps' is not allowed. Allowed: true or false",
    ("train.lr=interval(0.1,1)",): "train.lr: an interval is no list of values. Add search=random",
    ("search=random", "train.lr=tag(log,interval(-1,2))"): "train.lr: from -1.0 to 2.0 by logarithm",
    ("search=random", "train.epochs=interval(1,2.5)"): "train.epochs: takes whole numbers, and 1 to 2.5 does not",
    ("hydra.sweep.subdir=x", "seed=0,1"): "hydra.sweep.subdir: the points of a sweep have numbered folders",
    ("hydra.job.chdir=true", "seed=0,1"): "hydra.job.chdir: is false",
    ("hydra/launcher=joblib", "hydra.launcher.n_jobs=0", "seed=0,1"): "hydra.launcher.n_jobs: 0 processes run nothing",
    ("seed=range(3,3)",): "seed: range(3,3) has no values",
    ("train.lrr=1,2",): "Did you mean train.lr?",
    ("hydra/sweeper=basic", "seed=0,1"): "hydra/sweeper: snnrun sweeps by its own",
    ("search=optnua", "seed=0,1"): "Did you mean optuna?",
    ("hydra/launcher=nope", "seed=0,1"): "submitit_local by snnrun[slurm]",
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_wrong_request_is_one_message_and_leaves_nothing(train: Any, runs: Runs, arguments: tuple[str, ...]) -> None:
    code, _, err = train(*arguments)
    assert code == 2
    assert WRONG[arguments] in err
    assert (err.count("\n"), runs.seeds) == (1, [])
    assert not list(Path().glob("outputs/sweeps/*"))


def test_a_sweep_of_nothing_leaves_no_run_in_the_store(train: Any, runs: Runs) -> None:
    assert train("train.lrr=1,2", tracking="mlflow")[0] == 2
    assert tracking.connect(tracking.store_uri(Path("outputs"))).search_runs(["1"]) == []


@pytest.mark.parametrize("argument", ["search=optuna", "search=random"])
def test_a_search_without_m_is_refused(argument: str, train: Any, runs: Runs, capsys: Any) -> None:
    assert cli.main(["train", argument, "tracking=none"]) == 2
    assert capsys.readouterr().err == "snnrun: search: is for sweeps. Write snnrun train -m ...\n"
    assert cli.main(["train", "sweep.resume=last"]) == 2
    assert "sweep.resume: is for sweeps" in capsys.readouterr().err


def test_optuna_that_is_missing_is_one_message(train: Any, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else real(name))
    code, _, err = train("search=optuna")
    assert (code, err.count("\n")) == (2, 1)
    assert "pip install 'snnrun[sweep]'" in err
    assert train("seed=0,1")[0] == 0


def test_a_launcher_in_a_swept_file_is_warned_of(train: Any, runs: Runs, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    for name in ("a", "b"):
        text = "# @package _global_\ndefaults: [override /hydra/launcher: joblib]\nseed: 3\n"
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text)
    code, _, err = train("--config-dir", str(tmp_path), "experiment=a,b", "train.lr=0.1")
    assert code == 0
    assert err.count("the launcher that an option's file chooses has no effect") == 1
    assert "hydra/launcher=NAME on the command line" in err


def test_sqlite_on_a_network_mount_under_slurm_is_refused(
    train: Any, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(sweep_run, "network_mount", lambda place: "nfs4")
    code, _, err = train("hydra/launcher=submitit_slurm", "seed=0,1", tracking="mlflow")
    assert code == 2
    assert "is on a network file system (nfs4)" in err
    assert "tracking.uri=http://HOST:5000" in err
    assert not Path("outputs").exists()


def test_which_mounts_are_of_a_network(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nhost:/x /data nfs4 rw 0 0\n/dev/b /data/local\\040disk xfs rw 0 0\n")
    for place, kind in {"/home/me": None, "/data/me": "nfs4", "/data/local disk/x": None}.items():
        assert sweep_run.network_mount(Path(place), mounts) == kind
    assert sweep_run.network_mount(Path("/data"), tmp_path / "no") is None


def test_a_parent_run_that_is_gone(train: Any, runs: Runs) -> None:
    train("seed=0,1", tracking="mlflow")
    with pytest.raises(SnnrunError, match=r"sweep\.resume: the sweep's MLflow run 0000.*tracking=none"):
        sweep_run.reopen_sweep("0" * 32, outputs=Path("outputs"))
    sweep = points.read_sweep(the_sweep())
    assert sweep is not None
    sweep.parent_run_id = "0" * 32
    sweep.save(the_sweep())
    code, _, err = train("sweep.resume=last")
    assert (code, err.count("\n")) == (1, 1)
