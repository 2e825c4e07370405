"""`snnrun tune` without training: what is searched, confirmed and written, and how it goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from snnrun import cli, locks
from snnrun.commands import tune as command
from snnrun.config import options, tuned
from snnrun.config.compose import compose
from snnrun.errors import SnnrunError, UsageError
from snnrun.run import experiment
from snnrun.sweep import points, space, sweeper
from snnrun.train import engine
from snnrun.train.options import Options
from snnrun.tune import file, plan

pytest.importorskip("optuna")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections
PAIR = ("model=stbp", "data=digits", "tracking=none")
NOW = tuned.rate(file.settings_of("stbp_digits")[0]["train"]["lr"])
SHORT = ("--trials", "2", "--epochs", "2", "--confirm", "1", "--finalists", "1", "--out", "mine")


def as_now(values: dict[str, Any]) -> bool:
    return NOW is not None and NOW.lr == values["train"]["lr"]


class Runs:
    """Takes the place of `experiment.run`. Its accuracy is `judge` of the values; `failing` says which diverge."""

    def __init__(self) -> None:
        self.values: list[dict[str, Any]] = []
        self.judge: Callable[[dict[str, Any]], float] = lambda values: 0.8 if as_now(values) else 0.9
        self.failing: Callable[[dict[str, Any]], bool] = lambda values: False
        self.ends_at = 10**6

    def __call__(self, values: Any, run_dir: Path, *, on_epoch: Any, **_: Any) -> engine.Result:
        self.values.append(values)
        if self.failing(values):
            raise SnnrunError("The loss became nan.")
        result = engine.Result()
        for epoch in range(values["train"]["epochs"]):
            accuracy = self.judge(values)
            found = {"train/accuracy": 0.0, "validation/accuracy": accuracy, "test/accuracy": 1 - accuracy}
            result.history.append({"epoch": epoch + 1.0, **found})
            result.best_epoch = 1
            on_epoch(result.history[-1])
        (run_dir / "tags.json").write_text('{"data.origin": "recorded"}')
        if len(self.values) >= self.ends_at:
            raise KeyboardInterrupt
        return result


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(experiment, "run", runs)
    return runs


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun tune` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        return cli.main(["tune", *arguments]), *capsys.readouterr()

    return call


def studies() -> list[Path]:
    return sorted(path for path in Path("outputs/sweeps").iterdir() if not path.name.endswith("_confirm"))


# ---- the procedure ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_of_the_search_is_confirmed_and_written_with_its_facts(tune: Any, runs: Runs) -> None:
    code, out, err = tune(*PAIR, *SHORT, "--samples", "200", "data.root=x")
    assert (code, err) == (0, "")
    search, confirmed = runs.values[:2], runs.values[2:]
    assert all(run["train"]["epochs"] == 2 and run["data"]["limit"] == 200 for run in search)
    assert as_now(search[0]), "the settings of now come first"
    assert all(run["train"]["epochs"] == 20 and run["data"]["limit"] is None for run in confirmed)
    assert all(run["train"]["test"] == "end" for run in runs.values)
    assert [runs.judge(run) for run in confirmed] == [0.8, 0.9]
    best = search[1]
    path = Path("mine/tuned/stbp_digits_tuned.yaml")
    made = yaml.safe_load(path.read_text("utf-8"))
    facts = made["tuning"]
    assert tuned.rate(made["train"]["lr"]) == tuned.Rate(best["train"]["lr"], best["train"]["batch_size"])
    known = {"pair": "stbp_digits", "origin": "recorded", "seeds": 1, "trials": 2, "epochs": 2, "samples": 200}
    assert facts.items() >= (known | {"accuracy": 0.9, "before": 0.8, "seed": 0}).items()
    assert {"version", "date", "minutes", "study"} <= set(facts)
    assert facts["settings"]["train.lr"] == best["train"]["lr"]
    assert "data.root" not in facts["settings"]
    assert f"{path}\nTo use them: snnrun train --config-dir mine tuned=stbp_digits_tuned model=stbp data=digits" in out
    asked = "model=stbp data=digits --trials 2 --epochs 2 --samples 200 --confirm 1 --finalists 1 --seed 0"
    assert f"#   snnrun tune {asked}\n" in path.read_text("utf-8")
    assert (studies()[0] / "optuna.db").is_file()

    values = compose(["model=stbp", "data=digits", "tuned=stbp_digits_tuned"], Path("mine"))
    assert values["model"] == best["model"]
    assert values["train"] == best["train"] | {"epochs": 20, "test": "every_epoch"}
    assert values["tuned"]["about"].startswith("measured: validation ")
    assert "this run changes" not in values["tuned"]["about"]


@pytest.mark.slow
def test_a_tuning_that_was_ended_keeps_what_it_found_and_goes_on_and_what_diverges_is_a_failed_trial(
    tune: Any, runs: Runs
) -> None:
    runs.ends_at, runs.failing = 1, lambda values: not as_now(values)
    code, out, _ = tune(*PAIR, *SHORT)
    assert code == 130
    assert "No trial has come to its end yet. Go on by: snnrun tune model=stbp data=digits" in out
    runs.ends_at = 10**6
    code, out, err = tune(*PAIR, *SHORT)
    assert (code, len(studies()), len(plan.tried(studies()[0]))) == (0, 1, 2)
    assert "1 of the points failed" in err
    assert "  the settings of before\n" in out
    assert [run["train"]["epochs"] for run in runs.values] == [2, 2, 2, 20], "they are confirmed once"
    assert yaml.safe_load(Path("mine/tuned/stbp_digits_tuned.yaml").read_text("utf-8"))["tuning"]["trials"] == 2
    code, _, err = tune(*PAIR, *SHORT, "--samples", "100")
    assert code == 2
    assert err.startswith("snnrun: tune: the study in outputs/sweeps/")
    assert "was begun with other settings (data.limit=100)" in err


def test_a_sweep_that_was_stopped_is_not_concluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def search(_: Any, study: Path, __: Any) -> int:
        points.Point(0, "a", ["model.decay=0.5"], ["model.decay=0.5"], status="FINISHED", objective=0.9).save(study)
        points.Point(1, "b", []).save(study)
        return SnnrunError.exit_code

    monkeypatch.setattr(command, "_search", search)
    assert cli.main(["tune", "model=stbp"]) == 1
    out = capsys.readouterr().out
    assert "The best so far: validation 90.00 % with model.decay=0.5. Go on by: snnrun tune model=stbp\n" in out


@pytest.mark.parametrize(("found", "said"), [((0.7, 0.8), "75.00"), ((0.8, 0.9), "85.00")])
def test_settings_that_nothing_beats_at_full_length_stay_and_count_as_measured(
    found: tuple[float, float],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    made = plan.plan(plan.Request(("model=stbp",), 3, None, 2, None, 2, 0), tmp_path)
    confirmation, swept = tmp_path / "a_confirm", ["train.lr=0.1"]
    before = compose(["model=stbp"])
    points.Point(0, "a", swept, swept, status="FINISHED", objective=0.9).save(tmp_path / "a")
    for number, (label, accuracy) in enumerate(
        [("before", 0.9), ("before", 0.8), *(("tuned", value) for value in found)]
    ):
        words = [*swept, f"seed={1 + number % 2}"]
        point = points.Point(number, str(number), words, label=label, status="FINISHED")
        point.summary = {"validation/accuracy_best": accuracy}
        point.save(confirmation)
    assert command._conclude(made, tmp_path / "a", confirmation, [swept], Path("mine")) == 0
    out = capsys.readouterr().out
    assert f"before: validation 85.00 ± 7.07 % (2 seeds)\ntuned:  validation {said} ± 7.07 % (2 seeds)  train" in out
    assert "The settings of before are as good or better, so they stay." in out
    assert "have changed too" not in out
    values = compose(["model=stbp", "tuned=stbp_digits_tuned"], Path("mine"))
    assert all(values[section] == before[section] for section in ("encoder", "model", "train"))
    assert values["tuned"]["about"].startswith("measured: validation 85.00 ± 7.07 % (2 seeds)")
    other = replace(made, values=made.values | {"model": made.values["model"] | {"decay": 0.3}})
    with pytest.raises(SnnrunError, match="settings of stbp_digits have changed while it was tuned"):
        command._conclude(other, tmp_path / "a", confirmation, [swept], Path("other"))
    assert not Path("other").exists()
    point.status = "FAILED"
    point.save(confirmation)
    with pytest.raises(SnnrunError, match="the best settings of the search failed at full length"):
        command._conclude(made, tmp_path / "a", confirmation, [swept], Path("mine"))


def test_the_luckiest_trial_gives_way_to_one_that_holds_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = plan.plan(plan.Request(("model=stbp",), 9, None, 2, None, 2, 0, finalists=3), tmp_path)
    study, confirmation = tmp_path / "a", tmp_path / "a_confirm"
    now = ["train.schedule=constant"] if made.values["train"]["schedule"] == "constant" else ["train.schedule=cosine"]
    lucky, sound, lost = ["train.lr=0.1"], ["train.lr=0.01"], ["train.lr=0.02"]
    for number, (words, objective) in enumerate(
        [(now, 0.95), (lucky, 0.99), (sound, 0.97), (sound, 0.96), (lost, 0.9), (["train.lr=1.0"], 0.8)]
    ):
        points.Point(number, str(number), words, words, status="FINISHED", objective=objective).save(study)
    finalists = plan.finalists(made, study)
    assert finalists == [lucky, sound, None]
    assert [word for word in made.confirmed(finalists) if "points" in word] == [
        'search.points=["before: seed=choice(1,2)", "tuned: train.lr=0.1 seed=choice(1,2)", '
        '"tuned: train.lr=0.01 seed=choice(1,2)"]'
    ]
    outcomes = [("before", now, 1, 0.9), ("before", now, 2, 0.9), ("tuned", lucky, 1, 0.99), ("tuned", sound, 1, 0.94)]
    outcomes += [("tuned", sound, 2, 0.92), ("tuned", sound, 3, 0.1), ("before", now, 0, 1.0)]  # of other seeds
    for number, (label, words, seed, accuracy) in enumerate(outcomes):
        found = points.Point(number, str(number), [*words, f"seed={seed}"], label=label, status="FINISHED")
        found.summary = {"validation/accuracy_best": accuracy}
        found.save(confirmation)
        (found.folder(confirmation) / "tags.json").write_text('{"data.origin": "recorded"}')
    assert command._conclude(made, study, confirmation, finalists, Path("mine")) == 0
    facts = yaml.safe_load(Path("mine/tuned/stbp_digits_tuned.yaml").read_text("utf-8"))["tuning"]
    assert (facts["accuracy"], facts["finalists"], facts["settings"]["train.lr"]) == (0.93, 3, 0.01)
    assert "tuned:  failed  train.lr=0.1\n" in capsys.readouterr().out, "one of its seeds is missing"


def test_nothing_is_written_while_the_confirmation_is_at_work_elsewhere(tune: Any, runs: Runs) -> None:
    """The runs of another process have not failed: its result is the one that counts."""
    runs.ends_at = 4  # the second of the confirmation's four
    arguments = (*PAIR, *SHORT[:4], "--confirm", "2", "--finalists", "1", "--out", "mine")
    assert tune(*arguments)[0] == 130
    [study] = studies()
    confirmation = study.with_name(f"{study.name}_confirm")
    with locks.of_folder(points.attempts(confirmation)[1].folder(confirmation), wait=False):
        code, _, err = tune(*arguments)
    assert code == 2
    assert "points of" in err
    assert "are at work still: 1" in err
    assert not Path("mine").exists()
    runs.ends_at = 10**6
    assert tune(*arguments)[0] == 0
    assert Path("mine/tuned/stbp_digits_tuned.yaml").is_file()


def test_settings_of_before_that_fail_are_no_silent_loss(tune: Any, runs: Runs) -> None:
    runs.failing = lambda values: as_now(values) and values["train"]["epochs"] > 2
    code, out, err = tune(*PAIR, *SHORT)
    assert code == 0
    assert "before: failed" in out
    assert "the settings of before failed at full length, so the new ones are compared with none: The loss" in err


def test_the_first_point_has_the_settings_as_they_are_and_time_is_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = sweeper.Search()
    settings = {"trials": 5, "startup": 1, "parallel": None, "baseline": True, "retry": False, "minutes": 3.0}
    search.config = OmegaConf.create(
        {"seed": 0, "search": settings, "sweep": {"fail_fast": False}, "train": {"lr": 0.01}, "model": {"v_th": [5.0]}}
    )
    search.folder, search.workers = tmp_path, 1
    asked: list[dict[str, str]] = []

    def run(batch: list[dict[str, str]]) -> list[points.Point]:
        asked.extend(batch)
        found = points.Point(len(asked), str(len(asked)), [], status="FINISHED", objective=0.5, seconds=120.0)
        found.save(tmp_path)
        return [found]

    monkeypatch.setattr(search, "_run", run)
    search._optimise({"train.lr": space.Interval(1e-3, 1e-1, log=True), "model.v_th": space.multiples([5.0], [1, 2])})
    assert asked[0] == {"train.lr": "0.01", "model.v_th": "[5]"}
    assert len(asked) == 2
    assert "search.minutes: 3 minutes are spent, so no more points begin." in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_asked_for_besides_is_searched_with_the_space_of_the_model(tune: Any, runs: Runs) -> None:
    also = "model.delays=choice(fixed,none)"
    code, _, err = tune(*PAIR, *SHORT, "--trials", "8", "--also", also)
    assert (code, err) == (0, "")
    search = runs.values[:8]
    assert as_now(search[0])
    assert search[0]["model"]["delays"] == "none"
    assert {run["model"]["delays"] for run in search} == {"fixed", "none"}
    assert len({run["train"]["lr"] for run in search}) == 8
    [study] = studies()
    assert also in json.loads((study / "tune.json").read_text())["searched"]
    assert f"--also '{also}'" in Path("mine/tuned/stbp_digits_tuned.yaml").read_text("utf-8")


# ---- the file --------------------------------------------------------------------------------------------------------


def test_the_file_has_what_the_files_it_builds_on_have_and_keeps_their_comments() -> None:
    settings, others = file.settings_of("strsbp_fsdd")
    assert (settings["model"]["network"], others) == ("200-R200-200", [{"optional /input@encoder": "fsdd_${encoder}"}])
    words = ["model.v_th=[7.0]", "train.lr=0.02", "train.batch_size=32"]
    values = compose(["model=strsbp", "data=fsdd", *words])
    text = file.text("strsbp_fsdd", "-", file.changed(settings, words, values), others, {"pair": "strsbp_fsdd"}, "x")
    assert "  - optional /input@encoder: fsdd_${encoder}\n  - _self_\n" in text
    assert "  v_th: [7.0]\n" in text
    assert "  lr: ${scaled_lr:0.02,32}\n" in text
    own = file.changed(file.settings_of("slayer_mnist")[0], [], compose(["model=slayer", "data=mnist"]))
    kept = file.text("slayer_mnist", "-", own, [], {}, "x")
    assert "  desired: 12.0              # every second step\n" in kept
    assert '  network: "400"\n' in kept


def test_the_pairs_that_build_on_a_file_are_known() -> None:
    assert {"strsbp_cifar10", "hm2bp_cifar10"} <= set(file.building_on("strsbp_image_folder"))


def test_a_package_that_cannot_be_written_to_leaves_the_file_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = shutil.copytree(file.package(), tmp_path / "tuned")
    monkeypatch.setattr(file, "package", lambda: package)
    assert file.target("stbp_digits", None, plain=True)[0] == package / "stbp_digits.yaml"
    assert file.target("stbp_digits", None, plain=False)[0] == Path("my_conf/tuned/stbp_digits_tuned.yaml")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    path, use = file.target("stbp_digits", None, plain=True)
    assert path == Path("my_conf/tuned/stbp_digits_tuned.yaml")
    assert use == "To use them: snnrun train --config-dir my_conf tuned=stbp_digits_tuned"


# ---- the space -------------------------------------------------------------------------------------------------------


def test_every_model_has_a_space_of_keys_that_it_has_with_what_it_has_now_among_the_multiples() -> None:
    assert set(plan.space()) == set(options.groups()["model"].options)
    train = "\n".join(entry.name for entry in fields(Options))
    for model, entries in plan.space().items():
        files = {
            "model": options.text(f"model/{model}") or "",
            "train": train,
        }
        for key, entry in entries.items():
            section, _, name = key.partition(".")
            assert re.search(rf"^{name}\b", files[section], re.M), f"{model}: {key}"
            assert not isinstance(entry, list) or 1 in entry, f"{model}: {key}"


def test_multiples_and_places() -> None:
    assert space.multiples(16, [0.5, 1, 2]).values == ("8", "16", "32")
    assert space.multiples(1, [0.2, 1]).values == ("1",)
    assert space.multiples([20.0, 15.0], [0.5, 1]).values == ("[10,7.5]", "[20,15]")
    assert space.multiples([20.0, 15.0], [0.5, 1]).place([20.0, 15.0]) == "[20,15]"
    assert space.Choice(("0.0", "1e-4")).place(0.0) == "0.0"
    assert space.Choice(("cosine", "constant")).place("step") is None
    assert space.Interval(0.1, 1.0).place(0.5) == 0.5
    assert space.Interval(0.1, 1.0).place([0.5]) == 0.5
    assert space.Interval(0.1, 1.0).place(2.0) is None
    assert space.Interval(1, 9, integer=True).place(3) == 3


# ---- wrong requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=stpb"], "model: there is no 'stpb'"),
        (["data.validation=0"], "data.validation: is 0, and settings are chosen by validation samples"),
        (["--trials", "0"], "--trials 0: a whole number from 1 up is needed."),
        (["--minutes", "0"], "--minutes: '0' is not a number greater than 0."),
        (["--minutes", "x"], "--minutes: 'x' is not"),
        (["--confirm", "0"], "--confirm 0: a whole number"),
        (["--finalists", "0"], "--finalists 0: a whole number"),
        (["--seed=-1"], "--seed -1: a whole number from 0 to 4294967295 is needed."),
        (["--seed", str(2**32)], "--seed 4294967296: a whole number from 0 to 4294967295 is needed."),
        (
            ["--also", "model.delay=choice(none,fixed)"],
            "--also model.delay=choice(none,fixed): model=strsbp has no key 'model.delay'",
        ),
        (
            ["--also", "model.delays=trained"],
            "--also model.delays=trained: one value is nothing to search. Give it without",
        ),
        (["--jobs", "2", "--launcher", "ray"], "--jobs: is for --launcher joblib."),
        (["seed=1"], "seed: a tuning has its own. Say it by --seed."),
        (["experiment=mnist_stbp_paper"], "experiment: a tuning has its own. Leave it out."),
        (["search.trials=3"], "search.trials: a tuning has its own. Say it by --trials."),
        (["hydra/launcher=joblib"], "hydra/launcher: a tuning has its own."),
        (["digits"], "digits: no override. Write KEY=VALUE"),
        (["train.epohcs=3"], "train.epohcs: train has no such key"),
    ],
)
def test_a_wrong_request_is_one_line(tune: Any, arguments: list[str], message: str) -> None:
    code, out, err = tune(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"snnrun: {message}")
    assert err.count("\n") == 1
    assert not Path("outputs").exists()


def test_a_model_without_a_space_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plan, "space", lambda: {"strsbp": {}})
    with pytest.raises(UsageError, match=r"tune: for model=stbp nothing is known that could be searched"):
        plan.plan(plan.Request(("model=stbp",), 1, None, 1, None, 1, 0), tmp_path)


def test_a_request_is_kept_without_places(tmp_path: Path) -> None:
    made = plan.plan(plan.Request(("data.root=/x", "hardware.threads=1"), 1, None, 1, None, 1, 0), tmp_path)
    assert made.settings == []
    plan.keep(made, tmp_path / "a")
    kept = json.loads((tmp_path / "a" / "tune.json").read_text("utf-8"))
    assert not any(word.startswith(("data.root", "hardware")) for word in kept["searched"])
    assert "train.epochs=1" in kept["searched"]
    folder = tmp_path / "sweeps" / "1_tune_strsbp_digits"
    plan.keep(made, folder)
    assert plan.find(made) == folder
    (folder / "tune.json").write_text(json.dumps(kept | {"begins": "0"}))
    with pytest.raises(UsageError, match=r"was begun with other settings \(what the pair has now\)"):
        plan.find(made)
    for damaged in ('{"begi', "[]", "{}"):
        (folder / "tune.json").write_text(damaged)
        with pytest.raises(SnnrunError, match=r"tune\.json: .* Begin another study by --new\."):
            plan.find(made)
