"""The papers' figures and the page that sets runs beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from made_runs import invented

import snnrun
from snnrun import tracking
from snnrun.config.compose import compose
from snnrun.paper import compare, figures, pages
from snnrun.paper.pages import Frame
from snnrun.paper.published import Published, network_of, others_of, row_of, rows, rule_of, tables
from snnrun.paper.rows_others import LATER
from snnrun.reproduce import plan
from snnrun.runs.collect import Run

EXPERIMENTS = Path(snnrun.__file__).parents[1] / "conf" / "experiment"
TEMPORAL = {"model_temporal_gradient": False}
HISTORY = [{"test/accuracy": 0.80, "time/epoch_s": 50.0}, {"test/accuracy": 0.90, "time/epoch_s": 52.0}]


def fashion(name: str = "run", **more: Any) -> Run:
    given: dict[str, Any] = {"data_name": "fashion_mnist", "validation": 0.91, "test": 0.90, "last": 0.89, "most": 0.92}
    return invented(name, **(given | more))


def parts_of(*runs: Run) -> list[compare.Part]:
    return compare.build(runs, lambda run: HISTORY)


def written(parts: list[compare.Part], notes: tuple[str, ...] = ()) -> tuple[str, str]:
    """Markdown and HTML."""
    frame, out = Frame(["facts"], notes), Path("/tmp")

    def link(run: Run) -> pages.Link:
        return pages.link_of(run, None, out)

    return pages.markdown(frame, parts, {}, link), pages.page(frame, parts, {}, link)


# ---- the table ------------------------------------------------------------------------------------------------------


ROWS = [pytest.param(row, id=f"{table.name}/{row.name}") for table in tables().values() for row in table.rows]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_sound(row: Published) -> None:
    highest = 100 if row.best is None else row.best
    shown = [row.best, row.mean, row.single, *row.curve.values()]
    assert all(10 < figure <= highest for figure in shown if figure is not None)
    assert row.single is None or (row.best is None and row.mean is None)
    assert row.std is None or row.mean is not None
    assert not row.curve or row.best is not None
    assert row.source
    assert row.title
    assert row.best_epoch is None or row.log_epochs is None or row.best_epoch <= row.log_epochs
    assert row.seconds is None or row.seconds[0] <= row.seconds[1]


def test_rows_have_names_of_their_own_and_tables_too() -> None:
    for name, table in tables().items():
        assert table.name == name
        assert len({row.name for row in table.rows}) == len(table.rows)


def test_every_figure_of_the_tables_is_there() -> None:
    """Spot checks of what is easily mistyped: one row of each kind."""
    found = {(name, row.name): row for name, table in tables().items() for row in table.rows}
    assert sum(not row.variant for row in found.values()) == 53
    assert found["strsbp/table2", "hm2bp_400-400"].figures == "90.60, best of 5 runs; mean 89.83 ± 0.71"
    assert found["strsbp/table5", "hm2bp"].figures == "88.99 (mean or best: not said)"
    assert found["strsbp/table4", "lstm"].figures == "no figure"
    assert found["strsbp/table6", "slayer"].figures == "99.41; mean 99.36 ± 0.05"
    assert sum(row.parameters or 0 for row in tables()["strsbp/table5"].rows) == 3_218_989
    assert sum(row.parameters or 0 for row in tables()["strsbp/table2"].rows) == 1_509_593


@pytest.mark.slow
@pytest.mark.parametrize("row", [entry for entry in ROWS if entry.values[0].experiment])
def test_every_row_has_settings_that_name_its_figure_and_compose(row: Published) -> None:
    values = compose([f"experiment={row.experiment}", *row.settings])
    params = tracking.flatten(values)
    assert (rule_of(params), values["data"]["name"], network_of(params)) == (row.rule, row.data, row.network)
    if row.rule == "hm2bp":
        assert (values["model"]["silent_ratio"] == 1.0) is not bool(row.variant), "1 is the authors'"
    if row.level is not None:
        assert f"{row.level:.2f} %" in (EXPERIMENTS / f"{row.experiment}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("*.yaml") if path.stem != "none"))
def test_an_experiment_takes_nothing_from_a_tuned_file(name: str) -> None:
    """A tuning writes to the file of its pair, which would change what published and measured figures rest on."""
    defaults = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]
    bases = [entry for entry in defaults if isinstance(entry, str) and entry.endswith("_paper")]
    assert {"override /tuned": "none"} in defaults or bases


def test_sdbp_is_not_stbp() -> None:
    params = {"model.name": "stbp", "model.temporal_gradient": "False"}
    assert (rule_of(params), rule_of({"model.name": "stbp"})) == ("sdbp", "stbp")
    [part] = parts_of(invented("run", data_name="mnist", model_name="stbp", model_network="400", **TEMPORAL))
    assert part.entries[0].name == "SDBP, 400"
    assert part.entries[0].published is not None
    assert part.entries[0].published.single == 98.24


def test_later_work_stands_under_the_table_of_its_corpus() -> None:
    assert all(record.level is not None and record.source for record in LATER)
    for text in written(parts_of(fashion())):
        assert "TSSL-BP (2020), 400-400 89.92; mean 89.75 ± 0.03" in text
    for text in written(parts_of(fashion(origin="surrogate"))):
        assert "TSSL-BP" not in text


def test_a_row_trained_otherwise_than_published_says_so_and_keeps_its_own_epochs() -> None:
    [batches] = plan.rows_named(tables()["strsbp/table5"], ["batches"])
    assert batches.title == "ST-RSBP, in batches"
    assert batches not in rows()
    entry = plan.entry_of(batches, plan.Request(seeds=1))
    assert (entry.values["train"]["epochs"], entry.values["train"]["batch_size"]) == (22, 32)


def test_rows_are_found_by_rule_corpus_and_network() -> None:
    row = row_of("strsbp", "fashion_mnist", "400-R400")
    assert row is not None
    assert (row.best, row.mean, row.curve[1]) == (90.13, 90.00, 84.71)
    assert row_of("stbp", "fashion_mnist", "400-R400") is None
    others = others_of("ti46_digits", {("strsbp", "R100-100")})
    assert {row.network for row in others if row.rule == "strsbp"} == {"200-R200-200", "R200-200"}
    assert {row.title for row in others} == {"ST-RSBP", "HM2-BP", "LSM, readout by non-spiking BP", "SpiLinC"}
    stbp = row_of("stbp", "mnist", "15C5-P2-40C5-P2-300")
    assert stbp is not None
    assert stbp.best == 99.42


# ---- what stands beside what ----------------------------------------------------------------------------------------


def test_ours_stands_beside_the_published_row() -> None:
    [part] = parts_of(fashion(seed=0), fashion(seed=1, test=0.92))
    [entry] = part.entries
    assert part.warning is None
    assert entry.published is not None
    [ours] = entry.ours
    assert ours.chosen == (pytest.approx(91.0), pytest.approx(2**0.5))
    assert ours.maximum == (pytest.approx(92.0), pytest.approx(0.0))
    assert (ours.epochs, ours.seconds) == ("20", 51.0)
    assert ours.curve == [pytest.approx((80.0, 80.0, 80.0)), pytest.approx((90.0, 90.0, 90.0))]
    for text in written([part]):
        assert "90.13, best of 5 runs; mean 90.00 ± 0.14" in text
        assert "91.00 ± 1.41" in text
        assert "best epoch on the test set" in text


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ({"origin": "surrogate"}, "Surrogate data"),
        ({"origin": "synthetic"}, "Synthetic data"),
        ({"origin": "unknown", "data_name": "ti46_alpha", "model_network": "R800"}, "is not recorded"),
        ({"data_limit": 600}, "Trained on 600 samples only"),
    ],
)
def test_what_is_not_the_whole_real_corpus_stands_beside_no_published_figure(more: Any, warning: str) -> None:
    [part] = parts_of(fashion(**more))
    assert part.warning is not None
    assert warning in part.warning
    assert part.entries[0].published is None
    for text in written([part]):
        assert warning in text
        assert "90.13" not in text
        assert "91.85" not in text


def test_surrogate_and_real_runs_are_two_parts() -> None:
    parts = parts_of(fashion(), fashion(origin="surrogate"))
    assert [part.title for part in parts] == ["fashion_mnist", "fashion_mnist (surrogate)"]


def test_settings_are_rows_of_their_own_the_best_validation_first_and_not_too_many() -> None:
    runs = [fashion(train_lr=rate, validation=rate / 100) for rate in range(1, 14)]
    [part] = parts_of(*runs)
    [entry] = part.entries
    assert [ours.label for ours in entry.ours] == [f"train.lr={rate}" for rate in range(13, 3, -1)]
    assert entry.more == 3
    assert "the 10 best settings by validation accuracy are shown, 3 more are not" in written([part])[0]


def test_runs_without_validation_are_told_and_have_no_chosen_epoch() -> None:
    run = fashion(data_validation=0.0)
    del run.metrics["validation/accuracy_best"], run.metrics["test/accuracy_best_validation"]
    [part] = parts_of(run)
    assert part.entries[0].ours[0].chosen is None
    assert "without validation samples no epoch could be chosen" in written([part])[1]


# ---- pages ----------------------------------------------------------------------------------------------------------


def test_what_others_wrote_is_escaped() -> None:
    run = fashion("<script>alert(1)</script>", model_network="<b>|400`")
    markdown, html = written(parts_of(run), notes=("<i>left</i>",))
    assert "<script>" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;b&gt;|400" in html
    assert "\\<b\\>\\|400\\`" in markdown


def test_curves_are_the_same_svg_every_time_and_hold_the_authors_points() -> None:
    [part] = parts_of(fashion(seed=0), fashion(seed=1))
    first, again = figures.curves(part), figures.curves(part)
    assert first is not None
    assert first == again
    text = first.decode()
    ElementTree.fromstring(text)
    assert "published best" in text
    assert "ST-RSBP, 400-R400 (n 2)" in text
    assert figures.curves(compare.build([fashion()], lambda run: [])[0]) is None


def test_labels_are_text_and_no_formulas() -> None:
    """Dollar signs are matplotlib's own notation."""
    [part] = parts_of(fashion(model_network="$x^$"))
    assert "$x^$" in (figures.curves(part) or b"").decode()


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("seed=1, model.v_th=[1.0, 2.0]", "seed=1, model.v_th=[1.0, 2.0]"),
        (
            ", ".join(f"train.key{n}=[{n}, 1]" for n in range(9)),
            ", ".join(f"train.key{n}=[{n}, 1]" for n in range(3)) + " and 6 more",
        ),
        ("a.b=" + "x" * 99 + ", c.d=1", "a.b=" + "x" * 99 + " and 1 more"),
    ],
)
def test_a_legend_leaves_room_for_the_curves(label: str, shown: str) -> None:
    assert figures._shortened(label) == shown
