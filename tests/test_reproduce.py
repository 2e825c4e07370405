"""`snnrun reproduce`: what counts, what is trained, what stands in the table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_runs import invented
from scipy import stats

from snnrun import cli, tracking
from snnrun.bench import short
from snnrun.config.defaults import declared
from snnrun.errors import SnnrunError
from snnrun.paper import rows_others, rows_strsbp
from snnrun.paper.published import Published, Table
from snnrun.record import journal
from snnrun.reproduce import outcome, pages, plan
from snnrun.reproduce.plan import Entry
from snnrun.run import experiment
from snnrun.runs.significance import one_sample, welch_of
from snnrun.sweep import points, worker

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections

TINY = (
    *("model=stbp", "tuned=none", "data.limit=40", "encoder.steps=5", "train.batch_size=20"),
    *("hardware=cpu", "hardware.kernels=reference"),
)
TOY = Table(
    "toy/table1",
    "Digits",
    (
        Published(
            name="ours_6", rule="stbp", data="digits", network="6", source="a test", experiment="none",
            settings=(*TINY, "model.network=6"), mean=40.0, std=5.0, runs=5, best=60.0, epochs=2, parameters=460,
        ),
        Published(
            name="ours_7", rule="stbp", data="digits", network="7", source="a test", experiment="none",
            settings=(*TINY, "model.network=7"), single=40.0, note="A note.",
        ),
        Published(name="never", rule="lee", data="mnist", network="9", source="a test", experiment=None, best=99.0),
    ),
)  # fmt: skip


@pytest.fixture
def reproduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun reproduce` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(short, "SECONDS", 1e-3)
    monkeypatch.setattr(short, "BUSY", 1e9)  # tests run beside one another
    monkeypatch.setattr(rows_strsbp, "TABLES", (TOY,))
    monkeypatch.setattr(rows_others, "TABLES", ())

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["reproduce", *arguments])
        return code, *capsys.readouterr()

    return call


def trained(folder: Path = Path("outputs")) -> list[tuple[str, int]]:
    """Label and seed of every attempt at a point, in the order of the folders."""
    [sweep] = folder.glob("sweeps/*")
    found = points.attempts(sweep)
    return [(point.label, int(point.swept[0].removeprefix("seed="))) for point in found]


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # trains
def test_what_is_missing_is_trained_once_and_what_is_there_counts(reproduce: Any) -> None:
    code, out, err = reproduce("toy/table1", "--rows", "ours_6", "--epochs", "1", "--seeds", "1")
    assert (code, trained()) == (0, [("toy/table1/ours_6", 0)])
    assert "measuring STBP, 6 ..." in err
    assert "1 of 1 runs to train, about" in out
    assert "About" in out
    assert "1 epochs in place of the paper's 2" in out
    settings = ("experiment=none", *TINY, "model.network=7", "data.validation=0.1", "train.epochs=1", "seed=1")
    assert cli.main(["train", "-q", *settings, "hardware.threads=1", "tracking=none"]) == 0
    code, out, err = reproduce("toy/table1", "--epochs", "1", "--seeds", "2", "--format", "json")
    assert code == 0
    assert "measuring STBP, 6" not in err, "what was measured is kept"
    assert trained()[1:] == [("toy/table1/ours_6", 1), ("toy/table1/ours_7", 0)], "the other two were there"
    first, second, never = json.loads(out)["rows"]
    assert first["ours"]["seeds"] == second["ours"]["seeds"] == [0, 1]
    assert first["ours"]["parameters"] == 64 * 6 + 6 + 6 * 10 + 10
    assert first["published"]["parameters"] == 460
    assert never["ours"]["seeds"] == []
    code, again, err = reproduce("toy/table1", "--epochs", "1", "--seeds", "2", "--format", "json")
    assert (code, len(trained()), json.loads(again)["rows"]) == (0, 3, json.loads(out)["rows"])
    assert cli.main(["runs", "keep", "--to", "results"]) == 0
    for older in Path("results").glob("*_seed1.run.json"):  # of a version without the option
        whole = older.read_text("utf-8")
        older.write_text(whole.replace('  "model.adaptation": "none",\n', ""), "utf-8")
        assert older.read_text("utf-8") != whole
    code, _, err = reproduce("--outputs", "results", "--epochs", "1", "--seeds", "2", "--out", "docs/results.md")
    page = Path("docs/results.md").read_text("utf-8")
    assert (code, err) == (0, "")
    assert "## toy/table1: Digits\n\n    snnrun reproduce toy/table1 --rows ours\\_6,ours\\_7".replace("\\", "") in page
    assert re.search(r"\| STBP \| 6 \| 40\.00 ± 5\.00 \| 60\.00 \| 2 \| \d.* \| 2 \| 1 \| 460 \| 460 \|", page)
    assert "(results_toy_table1.svg)" in page
    assert "STBP, 7 (n 2)" in Path("docs/results_toy_table1.svg").read_text("utf-8")
    assert not Path("results/speed.json").exists(), "nothing is measured"
    assert reproduce("--outputs", "nowhere", "--out", "x.md")[0] == 1
    assert reproduce("--out", "x.md", "--format", "latex")[0] == 2
    client = tracking.connect("sqlite:///outputs/mlflow.db")
    [lab] = [entry for entry in client.search_experiments() if entry.name == "snnrun"]
    runs = client.search_runs([lab.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len({run.data.tags["mlflow.parentRunId"] for run in children}) == 1
    assert sorted(run.data.tags["snnrun.label"] for run in children) == sorted(label for label, _ in trained())


@pytest.mark.slow  # trains
def test_stopped_in_the_middle_it_goes_on_and_runs_nothing_twice(
    reproduce: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, ends = worker._Watch.__call__, [KeyboardInterrupt(), SystemExit(9)]

    def call(self: worker._Watch, metrics: Any) -> None:
        watch(self, metrics)
        if ends and metrics["epoch"] == 4 - len(ends) and self.point.number == 1:
            raise ends.pop()

    monkeypatch.setattr(worker._Watch, "__call__", call)
    asked = ("toy/table1", "--rows", "ours", "--epochs", "4", "--seeds", "1", "tracking=none")
    assert reproduce(*asked)[0] != 0
    code, out, _ = reproduce(*asked)
    assert code == 130
    assert f"Go on by: snnrun reproduce {' '.join(asked)}" in out
    code, out, _ = reproduce(*asked)
    assert code == 0
    [sweep] = Path("outputs/sweeps").iterdir()
    assert [(point.number, point.status) for point in points.attempts(sweep)] == [(0, "FINISHED"), (1, "FINISHED")]
    for number in "01":
        assert [entry["epoch"] for entry in journal.read(sweep / number) if "epoch" in entry] == [1, 2, 3, 4]
    assert re.search(r"^STBP +7 ", out, re.M)


@pytest.mark.slow  # measures
def test_a_dry_run_names_the_cost_and_trains_nothing(reproduce: Any) -> None:
    code, out, _ = reproduce("toy/table1", "--dry-run", "--paper-settings")
    assert code == 0
    assert "ours_6: STBP, 6, 10 epochs: 5 of 5 runs to train" in out, "the experiment's own epochs"
    assert not Path("outputs/sweeps").exists()
    code, out, _ = reproduce("--paper-settings")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("ours")] == ["s", "s"]
    assert "cannot be trained here" in out


@pytest.mark.slow  # measures
def test_a_point_that_fails_is_told_and_the_rest_is_shown(reproduce: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SnnrunError("the disk is full")

    asked = ("toy/table1", "--rows", "ours_6", "--seeds", "2", "--epochs", "1", "tracking=none")
    with monkeypatch.context() as failing:
        failing.setattr(experiment, "run", fail)
        code, out, err = reproduce(*asked, "train.lr=0.5")
    assert code == 1
    assert "the disk is full" in err
    assert "STBP, 6: not finished: seeds 0, 1." in out
    code, out, err = reproduce(*asked)
    assert (code, "not finished" in out) == (0, False), "what failed before with other settings is no failure now"


@pytest.mark.slow  # measures
def test_what_is_measured_beside_other_work_is_not_kept(reproduce: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short, "BUSY", 0.0)
    for _ in range(2):
        code, _, err = reproduce("toy/table1", "--dry-run", "--rows", "ours_6")
        assert code == 0
        assert "measuring STBP, 6 ..." in err
        assert "The machine is busy" in err
    assert not Path("outputs/speed.json").exists()


# ---- what counts ----------------------------------------------------------------------------------------------------


def entry(**more: Any) -> Entry:
    values: dict[str, Any] = {"data": {}, "model": {}, "train": {}, "seed": 0, "outputs": "elsewhere"}
    for key, value in declared({"data": "fsdd", "model": "strsbp", "train": "train"}).items():
        section, _, option = key.partition(".")
        values[section][option] = value
    values["data"] |= {"name": "fsdd", "validation": 0.1}
    values["model"] |= {"name": "strsbp", "network": "400-R400"}
    values["train"] |= {"epochs": 20, "lr": 0.004}
    row = Published(name="ours", rule="strsbp", data="fsdd", network="400-R400", source="a test", experiment="none")
    return Entry(row, (), values, {"state": "found", "origin": "recorded"} | more, seeds=3)


def run(name: str, seed: int, **more: Any) -> Any:
    made = invented(name, seed=seed, data_validation=0.1, **more)
    del made.params["data.limit"], made.params["data.split"], made.params["hardware.threads"]
    return made


def test_runs_of_the_same_settings_count_and_the_latest_of_a_seed() -> None:
    wanted = entry()
    others = [
        run("lr", 1, train_lr=0.1),
        run("model", 1, model_network="400"),
        run("failed", 1, status="failed"),
        run("seed", 7),
        run("made", 1, origin="surrogate"),
        run("other data", 1, digest="e" * 64, started=5),
        run("unknown key", 1, model_colour="red"),
    ]
    plan.find_runs(wanted, [run("old", 0, started=10), run("new", 0, started=20), *others], surrogate=False)
    assert {seed: found.name for seed, found in wanted.runs.items()} == {0: "new"}
    assert wanted.missing == [1, 2]


def test_a_model_without_a_topology_is_known_by_its_units() -> None:
    row = next(row for row in rows_strsbp.NTIDIGITS if row.name == "grn")
    made = invented("run", data_name="ntidigits", model_name="gru", model_layers="[200, 200]", model_dense="[100]")
    del made.params["model.network"]
    assert plan.alike(made, row)
    assert not plan.alike(run("other", 0), row)


def test_an_option_that_is_newer_than_a_run_counts_as_its_default() -> None:
    wanted = entry()
    wanted.values["train"]["boosting"] = False
    plan.find_runs(wanted, [run("before it", 0)], surrogate=False)
    assert wanted.missing == [1, 2]
    other = entry()
    other.values["train"]["boosting"] = True
    plan.find_runs(other, [run("before it", 0)], surrogate=False)
    assert other.missing == [0, 1, 2]


def test_a_surrogate_counts_where_it_is_allowed_and_is_never_beside_real_data() -> None:
    made, real = run("made", 0, origin="surrogate"), run("real", 0)
    for here, allowed, counts in (
        ("surrogate", True, "made"),
        ("recorded", True, "real"),
        ("surrogate", False, "real"),
    ):
        wanted = entry(origin=here)
        plan.find_runs(wanted, [made, real], surrogate=allowed)
        assert wanted.runs[0].name == counts
    wanted = entry(origin="surrogate", licence="by somebody")
    with pytest.raises(Exception, match="ours: what is here of fsdd is a surrogate"):
        plan.check_corpora([wanted], surrogate=False)
    plan.check_corpora([wanted], surrogate=True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["toy/table2"], 2, "toy/table2: no such table. Allowed: toy/table1. Did you mean toy/table1?"),
        (["toy/table1", "--rows", "ours_8"], 2, "has no row 'ours_8'. Allowed: ours_6, ours_7, never. Did you mean"),
        (["toy/table1", "--rows", "never"], 2, "never of toy/table1 cannot be trained here"),
        (["toy/table1", "--rows", ","], 2, "--rows: names no row"),
        (["toy/table1", "--seeds", "0"], 2, "--seeds 0: a whole number from 1 up is needed"),
        (["toy/table1", "--epochs", "0.5"], 2, "--epochs 0.5: a whole number"),
        (["toy/table1", "seed=3"], 2, "seed: each row has its own. Say how many by --seeds."),
        (["toy/table1", "model=lsm"], 2, "model: each row has its own"),
        (["toy/table1", "train.lt=1"], 2, "train.lt: train has no such key"),
        (["toy/table1", "--jobs", "2", "--launcher", "ray"], 2, "--jobs: is for --launcher joblib"),
        (["toy/table1", "--format", "terminal", "--out", "x"], 2, "--out: takes a format for files"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(reproduce: Any, arguments: list[str], code: int, said: str) -> None:
    found, out, err = reproduce(*arguments)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert said in err
    assert not Path("outputs").exists()


def test_a_corpus_that_is_not_here_is_said_with_its_licence(tmp_path: Path) -> None:
    wanted = entry(state="missing", origin=None, licence="licensed by somebody")
    wanted.values["data"] |= {"name": "ti46_alpha", "download": False}
    with pytest.raises(Exception, match=r"ti46_alpha is not here \(licensed by somebody\).*data verify.*--surrogate"):
        plan.check_corpora([wanted], surrogate=True)
    wanted.values["data"]["download"] = True
    plan.check_corpora([wanted], surrogate=False)


# ---- the table ------------------------------------------------------------------------------------------------------


def found(row: Published, *tests: float, origin: str = "recorded", extra: Sequence[str] = ()) -> outcome.Outcome:
    wanted = entry()
    wanted.row = row
    figures = {"validation": 0.9, "last": 0.5}
    wanted.runs = {
        seed: invented(f"run{seed}", seed=seed, test=value, most=value + 0.01, origin=origin, **figures)
        for seed, value in enumerate(tests)
    }
    return outcome.outcome(Table("toy/t", "A & B", (row,)), [wanted], lambda _: 1234, ["a fact"], extra)


def test_ours_is_tested_against_the_published_mean() -> None:
    ours = [0.89, 0.90, 0.92]
    [line] = found(TOY.rows[0], *ours).lines
    expected = stats.ttest_ind_from_stats(90.3333, stats.tstd(ours) * 100, 3, 40, 5, 5, equal_var=False).pvalue
    assert line.chosen is not None
    assert line.chosen.p == pytest.approx(expected, rel=1e-3)
    assert (line.chosen.mean, line.chosen.best) == (pytest.approx(90.3333, abs=1e-3), pytest.approx(92.0))
    assert line.test == "Welch, 40.00 ± 5.00, n 5"
    [line] = found(TOY.rows[1], *ours).lines
    expected = stats.ttest_1samp([89, 90, 92], 40).pvalue
    assert line.chosen is not None
    assert line.chosen.p == pytest.approx(expected)
    assert line.maximum is not None
    assert line.maximum.mean == pytest.approx(91.3333, abs=1e-3)
    assert line.test == "one-sample, 40.00"
    assert found(TOY.rows[2], *ours).lines[0].test is None, "a best alone is tested against nothing"
    for extra in ("data.limit=100", "data.test_limit=50"):
        assert found(TOY.rows[0], *ours, extra=[extra]).lines[0].test is None, "it is of less than the corpus"
    assert (one_sample([1.0], 0.0), one_sample([1.0, 1.0], 0.0), welch_of([1.0], 0, 1, 5)) == (None, None, None)


def test_a_run_counts_that_went_on_for_as_long_as_patience_asks() -> None:
    wanted, rises = entry(), [{"validation/accuracy": value} for value in (0.7, 0.9, 0.8, 0.8, 0.9)]
    for run_patience, patience, counts in (
        ("2", 2, True),
        ("3", 2, True),
        ("3", 3, True),
        ("9", 4, False),
        ("3", None, False),
    ):
        early = run("early", 0, train_patience=run_patience)
        early.epochs, early.metrics["epoch"] = rises, 5.0
        wanted.runs, wanted.values["train"]["patience"] = {}, patience
        plan.find_runs(wanted, [early], surrogate=False)
        assert bool(wanted.runs) is counts, (run_patience, patience)
        whole = run("whole", 1, train_patience=run_patience)
        whole.metrics["epoch"] = 20.0
        plan.find_runs(wanted, [whole], surrogate=False)
        assert wanted.runs[1] is whole, "trained to its last epoch, whatever was asked for"
    wanted.runs[0] = early
    table = outcome.outcome(Table("toy/t", "A", (wanted.row,)), [wanted], lambda _: None, [])
    assert table.lines[0].trained == [5, 20]
    assert "| 5 to 20 |" in pages.markdown(table)
    assert "at most 20 epochs; a run ended once validation had not risen for 3 of them." in " ".join(table.notes)


def test_a_surrogate_stands_in_its_line_and_is_not_tested() -> None:
    table = found(TOY.rows[0], 0.5, 0.6, origin="surrogate")
    assert table.lines[0].chosen is not None
    assert (table.lines[0].chosen.p, table.lines[0].test) == (None, None)
    for text in (pages.markdown(table), pages.latex(table), pages.page(table)):
        assert "STBP (surrogate corpus)" in text
        assert "comparable with no published figure" in text


def test_each_form_holds_the_same_figures() -> None:
    table = found(TOY.rows[1], 0.89, 0.9, 0.92)
    markdown, latex, html = pages.markdown(table), pages.latex(table), pages.page(table)
    for text in (markdown, latex, html):
        for figure in ("40.00 ?", "1,234", "A note.", "91.33"):
            assert figure in text
    assert "90.33 ± 1.53" in markdown
    assert r"90.33 $\pm$ 1.53" in latex
    assert r"\toprule" in latex
    assert latex.count("{") == latex.count("}")
    assert all(line.count("&") - line.count(r"\&") == 18 for line in latex.splitlines() if line.endswith(r"\\"))
    assert "<title>toy/t: A &amp; B</title>" in html
    assert not [part for part in ("http://", "https://", "src=", "@import") if part in html], "it needs no other file"
    ElementTree.fromstring(html.partition('<div class="wide">')[2].partition("</div>")[0])
    json.dumps(outcome.as_json(table), allow_nan=False)


def test_without_validation_the_last_epoch_is_shown() -> None:
    wanted = entry()
    wanted.row = TOY.rows[0]
    wanted.runs = {0: invented("run", last=0.5, most=0.6)}
    table = outcome.outcome(TOY, [wanted], lambda _: None, [])
    text = pages.markdown(table)
    assert "| last epoch |" in text
    assert "| 50.00 |" in text
    assert "have no chosen epoch" in text


def test_commits_are_those_of_the_program_and_not_of_the_folder() -> None:
    wanted = entry()
    wanted.row = TOY.rows[0]
    wanted.runs = {seed: invented(f"run{seed}", seed=seed, test=0.9) for seed in range(3)}
    wanted.runs[0].tags |= {"git.commit": "none", "snnrun.git.commit": "a" * 40}
    wanted.runs[1].tags |= {"git.commit": "b" * 40, "snnrun.git.commit": "a" * 40}
    wanted.runs[2].tags["git.commit"] = "none"
    assert "commits" not in " ".join(outcome.outcome(TOY, [wanted], lambda _: None, []).notes)
    wanted.runs[2].tags["git.commit"] = "c" * 40
    assert (
        "The runs come from 2 commits: aaaaaaaa, cccccccc." in outcome.outcome(TOY, [wanted], lambda _: None, []).notes
    )


def test_core_hours_are_those_of_processors_where_they_were_counted() -> None:
    run = invented()
    run.tags["device"] = "CPU, 2 threads"
    run.epochs = [{"time/epoch_s": 1800.0, "time/cpu_s": 2700.0}, {"time/epoch_s": 1800.0, "time/cpu_s": 3600.0}]
    assert outcome.core_hours(run) == pytest.approx(1.75)
    run.tags["processes"] = "4"
    assert outcome.core_hours(run) is None
    run.tags |= {"processes": "1", "device": "NVIDIA H200"}
    assert outcome.core_hours(run) is None
    run.tags["device"] = "CPU, 1 threads"
    run.epochs.append({"epoch": 3.0, "time/epoch_s": 1800.0})
    assert outcome.core_hours(run) is None, "of an earlier version"


@pytest.mark.parametrize(
    ("flags", "said"), [(["--rows", "ours"], "--rows: are those of a table"), (["--format", "json"], "--format json: ")]
)
def test_what_only_a_table_has_is_refused_without_one(flags: list[str], said: str, capsys: Any) -> None:
    assert cli.main(["reproduce", *flags]) == 2
    assert said in capsys.readouterr().err
