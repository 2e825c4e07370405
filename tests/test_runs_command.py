"""`snnrun runs` and `snnrun report` on real runs of a tiny network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from made_runs import invented, train
from rich.cells import cell_len
from rich.console import Console

from snnrun import cli
from snnrun.metric_names import BEST_VALIDATION, TEST_CHOSEN
from snnrun.runs import compare, show, tables
from snnrun.runs.collect import collect

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # SQLAlchemy's pool keeps its sqlite connections


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rules with two seeds, a run that only its folder knows, and one that failed."""
    folder = tmp_path_factory.mktemp("made") / "outputs"
    for model in ("stbp", "hm2bp"):
        for seed in (0, 1):
            train(folder, f"{model}-{seed}", model, seed)
    none = {"tracking": {"kind": "none"}, "data": {"validation": 0.0}}
    train(folder, "local", "stbp", 7, **none)
    failed = folder / "runs" / "failed"
    failed.mkdir()
    (failed / "config.yaml").write_text((folder / "runs" / "stbp-0" / "config.yaml").read_text())
    (failed / "error.txt").write_text("x")
    return folder


@pytest.fixture
def run(outputs: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command on those runs: exit code, output, errors."""

    def call(*arguments: str, place: Path = outputs) -> tuple[int, str, str]:
        code = cli.main([*arguments, "--outputs", str(place)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ---- list, show -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_list_has_every_run_with_what_differs_and_its_figures(run: Any) -> None:
    code, out, err = run("runs", "list")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    head, *lines = [line for line in out.splitlines() if line.strip()]
    for title in ("run", "model", "data", "status", "seed", "epochs", "validation %", "test %", "last %"):
        assert title in head
    assert len([line for line in lines if "finished" in line]) == 5
    assert any(line.startswith("local") and "2/2" in line for line in lines)
    assert any(line.startswith("failed") and "0/2" in line for line in lines)
    assert lines[-1].startswith("6 runs.")


def test_list_as_json_filtered_sorted_and_cut(run: Any) -> None:
    _, out, _ = run("runs", "list", "model=stbp", "status=finished", "--json", "--sort", "seed")
    found = strict(out)
    assert [entry["params"]["seed"] for entry in found] == ["7", "1", "0"]
    assert found[0]["id"] is None
    assert found[1]["name"] == "stbp_digits_1"
    assert 0 <= found[1]["metrics"]["test/accuracy_best_validation"] <= 1
    _, out, _ = run("runs", "list", "--json", "--limit", "2", "--sort", "seed", "--reverse")
    assert len(strict(out)) == 2
    _, out, _ = run("runs", "list", "--columns", "train.lr,commit")
    assert "train.lr" in out
    code, out, _ = run("runs", "list", "status=running")
    assert (code, out) == (0, "none of 6 runs fits status=running\n")


def test_show_says_all_of_a_run(run: Any, outputs: Path) -> None:
    code, out, err = run("runs", "show", "stbp_digits_1")
    assert (code, err) == (0, "")
    for part in (
        *("finished, epochs 2/2", "digits, origin recorded, 64 train", "network=8", "test, best validation"),
        *("curve train/loss", "snnrun train model=stbp seed=1", "best.safetensors", str(outputs / "runs" / "stbp-1")),
        "chosen on the test set",
    ):
        assert part in out
    _, out, _ = run("runs", "show", str(outputs / "runs" / "local"), "--json")
    shown = strict(out)
    assert len(shown["epochs"]) == 2
    assert "metrics.jsonl" in shown["files"]
    assert shown["tags"]["snnrun.command"] == "snnrun train model=stbp seed=7"  # known without MLflow
    assert (shown["origin"], shown["tags"]["data.train_samples"]) == ("recorded", "64")


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({}, "not known"),
        ({"git.commit": "none"}, "none: started in no repository"),
        ({"git.commit": "aa", "git.dirty": "true"}, "aa with changes that are in no commit (dirty)"),
        ({"git.commit": "none", "snnrun.git.commit": "bb"}, "bb of snnrun; none of the folder it was started in"),
        (
            {"git.commit": "aa", "snnrun.git.commit": "bb", "snnrun.git.dirty": "true"},
            "bb with changes that are in no commit (dirty) of snnrun; aa of the folder it was started in",
        ),
    ],
)
def test_the_commits_of_a_run_are_said(tags: dict[str, str], said: str) -> None:
    made = invented()
    made.tags = tags
    assert show._commit(made) == said


def test_a_folder_and_a_store_alone_tell_the_same_figures(run: Any, outputs: Path, tmp_path: Path) -> None:
    _, joined, _ = run("runs", "show", "stbp_digits_0", "--json")
    uri = f"sqlite:///{outputs.resolve() / 'mlflow.db'}"
    _, stored, _ = run("runs", "show", "stbp_digits_0", "--json", "--uri", uri, place=tmp_path)
    joined, stored = strict(joined), strict(stored)
    assert joined["metrics"] == pytest.approx(stored["metrics"])
    assert joined["params"] == stored["params"]
    for ours, theirs in zip(joined["epochs"], stored["epochs"], strict=True):
        assert theirs == pytest.approx({key: ours[key] for key in theirs})
    assert stored["folder"] is None


# ---- compare, best --------------------------------------------------------------------------------------------------


def test_compare_over_seeds(run: Any, outputs: Path) -> None:
    code, out, _ = run("runs", "compare", "data.validation=0.1")
    assert code == 0
    assert "left out: 1 failed" not in out or "filter by status=" in out
    assert "Ranked by validation/accuracy_best" in out
    _, text, _ = run("runs", "compare", "--json", "data.validation=0.1")
    [section] = strict(text)["sections"]
    by_model = {group["settings"]["model.name"]: group for group in section["groups"]}
    known = {entry.name: entry for entry in collect(outputs, None, pytest.fail)}
    for model, group in by_model.items():
        figures = [known[f"{model}_digits_{seed}"].metrics[TEST_CHOSEN] for seed in (0, 1)]
        assert group["metrics"][TEST_CHOSEN]["mean"] == pytest.approx(sum(figures) / 2)
        assert (group["n"], group["seeds"]) == (2, ["0", "1"])
    assert sum(group["best"] for group in section["groups"]) == 1


def test_an_option_that_is_newer_than_a_run_counts_as_its_default(run: Any, tmp_path: Path) -> None:
    assert run("runs", "keep", "status=finished", "model=stbp", "--to", str(tmp_path / "kept"))[0] == 0
    [newer] = (tmp_path / "kept").glob("*stbp*seed1.run.json")
    whole = newer.read_text("utf-8")
    for patience, mixed in (("null", False), ("9", True)):
        newer.write_text(whole.replace('"train.lr"', f'"train.patience": "{patience}", "train.lr"'), "utf-8")
        code, out, _ = run("runs", "compare", "--by", "model", "seed<2", place=tmp_path / "kept")
        assert (code, "settings are mixed (train.patience 9, null)" in out) == (0, mixed)
        assert (
            run("report", "seed<2", "--format", "md", "--out", str(tmp_path / "page"), place=tmp_path / "kept")[0] == 0
        )
        assert ("train.patience" in (tmp_path / "page" / "report.md").read_text("utf-8")) is mixed
        counts = []
        for filters in ((), ("train.patience=null",)):
            counts.append(len(strict(run("runs", "list", *filters, "--json", place=tmp_path / "kept")[1])))
        assert counts[0] - counts[1] == mixed


def test_best_is_by_validation(run: Any, outputs: Path) -> None:
    _, out, _ = run("runs", "best", "--json", "--by", "model")
    entries = strict(out)["best"]
    known = [entry for entry in collect(outputs, None, pytest.fail) if BEST_VALIDATION in entry.metrics]
    for entry in entries:
        for chosen in entry["runs"]:
            rivals = [other for other in known if other.params["model.name"] == entry["settings"]["model.name"]]
            highest = max(other.metrics[BEST_VALIDATION] for other in rivals)
            assert chosen["metrics"][BEST_VALIDATION] == highest
    assert ["local"] in [entry["not_comparable"] for entry in entries]
    _, out, _ = run("runs", "best")
    assert "not comparable, since without validation samples only the test set could choose: local" in out
    code, _, err = run("runs", "best", "seed=7")
    assert code == 1
    assert "no run with validation samples" in err


# ---- report ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The cells, links and pictures of a page; every tag that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag == "img":
            self.pictures.append(values["src"] or "")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_one_page_with_links_to_every_run(run: Any, outputs: Path, tmp_path: Path) -> None:
    code, out, err = run("report", "--out", str(tmp_path / "page"), "--ui", "http://host:5000/")
    assert (code, err) == (0, "")
    assert out.splitlines() == [str(tmp_path / "page" / name) for name in ("report.md", "report.html")]
    text = (tmp_path / "page" / "report.html").read_text()
    page = Page(text)
    assert len([link for link in page.links if link.startswith("http://host:5000/#/experiments/")]) == 4
    folders = {(tmp_path / "page" / link).resolve() for link in page.links if not link.startswith("http")}
    assert folders == {
        outputs.resolve() / "runs" / name for name in ("stbp-0", "stbp-1", "hm2bp-0", "hm2bp-1", "local")
    }
    assert page.pictures
    assert all(picture.startswith("data:image/svg+xml;base64,") for picture in page.pictures)
    assert not re.search(r"(src|href)=\"https?://(?!host)", text)  # nothing is loaded from elsewhere
    markdown = (tmp_path / "page" / "report.md").read_text()
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (tmp_path / "page" / figure).read_text().startswith("<?xml")
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in tables}) == 1


def test_report_in_one_format(run: Any, outputs: Path, tmp_path: Path) -> None:
    run("report", "model=stbp", "--out", str(tmp_path), "--format", "html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    code, out, _ = run("report", "model=hm2bp", "--format", "md")
    assert (code, out.strip()) == (0, str(outputs / "report" / "report.md"))


# ---- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["runs", "show", "nobody"], 2, "nobody: no run of this folder, name or MLflow id"),
        (["runs", "show", "stbp"], 2, "2 runs begin so"),
        (["runs", "list", "modle=stbp"], 2, "Did you mean model?"),
        (["runs", "list", "--sort", "batch_size"], 2, "Did you mean train.batch_size?"),
        (["runs", "list", "--columns", "nothing.such"], 2, "nothing.such: no run has this key"),
        (["runs", "compare", "--by", "modl"], 2, "Did you mean model?"),
        (["runs", "compare", "--metric", "test/acuracy_last"], 2, "Did you mean test/accuracy_last?"),
        (["runs", "compare", "status=running"], 1, "nothing to compare"),
        (["runs", "list", "--uri", "http://127.0.0.1:9"], 1, "cannot be read"),
        (["report", "--ui", "host:5000"], 2, "--ui host:5000: not an address"),
        (["report", "--out", "/proc/nowhere"], 1, "/proc/nowhere: the report cannot be written"),
    ],
)
def test_mistakes_are_one_message(run: Any, arguments: list[str], code: int, message: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", [["runs", "list"], ["runs", "compare"], ["runs", "best"], ["report"]])
def test_no_runs_yet_is_one_message(run: Any, command: list[str], tmp_path: Path) -> None:
    code, _, err = run(*command, place=tmp_path)
    assert code == 1
    assert err.startswith("snnrun: no runs yet below")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_ends_at_once() -> None:
    for arguments in (["runs"], ["runs", "lst"], ["report", "--format", "pdf"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2
    assert cli.main(["runs", "list", "--limit", "0"]) == 2


# ---- on a terminal --------------------------------------------------------------------------------------------------


def on_terminal(width: int, **environment: str) -> Console:
    return Console(
        file=StringIO(), force_terminal=True, width=width, markup=False, highlight=False, _environ=environment or {}
    )


def lines_of(out: Console) -> list[str]:
    assert isinstance(out.file, StringIO)
    return re.sub(r"\x1b\[[0-9;]*m", "", out.file.getvalue()).splitlines()


CROWD = [
    invented(f"[bold]run{seed}[/bold]", seed=seed, train_lr=rate, model_v_th=f"[{rate}, 5.0, 5.0, 5.0]", **figures)
    for seed, figures in enumerate([{"validation": 0.9, "test": 0.8}, {"validation": 0.7, "test": 0.8}])
    for rate in (0.001, 0.002)
]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    out = on_terminal(width)
    tables.listing(CROWD, None, out)
    tables.comparison(compare.compare(CROWD, None, None), out)
    tables.best(compare.best(CROWD, []), out)
    assert max(cell_len(line.rstrip()) for line in lines_of(out)) <= width


def test_columns_without_room_are_named() -> None:
    out = on_terminal(80)
    tables.listing(CROWD, None, out)
    text = "\n".join(lines_of(out))
    assert "No room for model.v_th" in text
    assert "[bold]run0[/bold]" in text  # a name is no markup


def test_no_color_is_heeded() -> None:
    plain, coloured = on_terminal(120, NO_COLOR="1", TERM="xterm"), on_terminal(120, TERM="xterm-256color")
    failed = [invented("a", status="failed"), invented("b", validation=0.9, test=0.9)]
    for out in (plain, coloured):
        tables.listing(failed, None, out)
        tables.comparison(compare.compare(failed, None, None), out)
    assert re.search(r"\x1b\[[0-9;]*3[1-6]m", coloured.file.getvalue())  # type: ignore[attr-defined]
    assert not re.search(r"\x1b\[[0-9;]*3[1-6]m", plain.file.getvalue())  # type: ignore[attr-defined]


def test_a_curve_in_bars() -> None:
    assert show.spark([0.0, 0.5, 1.0]) == "▁▅█"
    assert show.spark([0.3]) == show.spark([0.7]) == "▄"
    assert len(show.spark([float(value) for value in range(1000)])) == show.SPARKS
