"""Groups over seeds: what is never mixed, never counted twice and never chosen on the test set."""

from __future__ import annotations

import pytest
from made_runs import invented

from snnrun.errors import UsageError
from snnrun.metric_names import BEST_VALIDATION, TEST_CHOSEN, TEST_LAST
from snnrun.runs.collect import Run
from snnrun.runs.compare import best, by_corpus, compare, finished
from snnrun.runs.significance import paired, welch
from snnrun.runs.tables import comparison_page


def seeds(model: str, figures: dict[int, float], **more: object) -> list[Run]:
    """Runs of one setting, their validation and test accuracies the same."""
    return [
        invented(f"{model}{seed}", seed=seed, model_name=model, validation=figure, test=figure, **more)
        for seed, figure in figures.items()
    ]


def test_mean_and_deviation_over_the_seeds_of_a_setting() -> None:
    [section] = compare(seeds("strsbp", {0: 0.9, 1: 0.8, 2: 0.7}) + seeds("hm2bp", {0: 0.6, 1: 0.4}), None, None)
    assert section.title == "fsdd"
    assert section.ranked == BEST_VALIDATION
    first, second = section.groups
    assert (first.settings, first.seeds, first.best) == ({"model.name": "strsbp"}, ["0", "1", "2"], True)
    found = first.statistics[TEST_CHOSEN]
    assert (found.mean, found.std) == (
        pytest.approx(0.8),
        pytest.approx(0.1),
    )
    assert (second.settings, len(second.runs), second.best) == ({"model.name": "hm2bp"}, 2, False)


def test_the_same_seeds_are_paired_and_others_are_not() -> None:
    first = {0: 0.9, 1: 0.85, 2: 0.95}
    same, other = {0: 0.8, 1: 0.74, 2: 0.86}, {3: 0.8, 4: 0.74, 5: 0.86}
    for figures, test in ((same, "paired"), (other, "Welch")):
        [section] = compare(seeds("strsbp", first) + seeds("hm2bp", figures), None, None)
        found = section.groups[1].statistics[BEST_VALIDATION]
        values = list(first.values()), list(figures.values())
        wanted = paired(*(dict(zip("012", row, strict=True)) for row in values)) if test == "paired" else welch(*values)
        assert (found.test, found.p) == (test, pytest.approx(wanted))


def test_several_comparisons_are_corrected() -> None:
    runs = seeds("strsbp", {0: 0.9, 1: 0.92, 2: 0.95})
    runs += seeds("hm2bp", {0: 0.85, 1: 0.88, 2: 0.85}) + seeds("stbp", {3: 0.7, 4: 0.72, 5: 0.75})
    [section] = compare(runs, None, None)
    low, high = sorted(
        [
            paired({"0": 0.9, "1": 0.92, "2": 0.95}, {"0": 0.85, "1": 0.88, "2": 0.85}) or 0,
            welch([0.9, 0.92, 0.95], [0.7, 0.72, 0.75]) or 0,
        ]
    )
    found = [group.statistics[BEST_VALIDATION].p for group in section.groups]
    assert found[0] is None
    assert sorted(p for p in found if p is not None) == [pytest.approx(2 * low), pytest.approx(max(high, 2 * low))]


def ablation() -> list[Run]:
    runs = []
    for started, (label, network, figures) in enumerate(
        [("base", "R9", (0.8, 0.84)), ("no loops", "9", (0.7, 0.72)), ("wide", "R99", (0.9, 0.98))]
    ):
        found = seeds("strsbp", dict(enumerate(figures)), model_network=network, started=-float(started))
        for run in found:
            run.tags["snnrun.label"] = label
        runs += found
    return runs


def test_groups_are_tested_against_a_base_in_the_order_in_which_they_were_run() -> None:
    [section] = compare(ablation(), ["label"], None, "base")
    assert [group.settings["label"] for group in section.groups] == ["base", "wide", "no loops"]
    base, wide, plain = section.groups
    assert ([group.base for group in section.groups], wide.best) == ([True, False, False], True)
    assert (base.changes, plain.changes) == ({}, {"model.network": "9"})
    found = plain.statistics[BEST_VALIDATION]
    assert (base.statistics[BEST_VALIDATION].difference, found.difference) == (None, pytest.approx(-0.11))
    values = {"0": 0.8, "1": 0.84}
    expected = [paired(values, {"0": 0.7, "1": 0.72}) or 0, paired(values, {"0": 0.9, "1": 0.98}) or 0]
    assert found.p == pytest.approx(min(1.0, (2 if expected[0] <= expected[1] else 1) * expected[0]))
    page = comparison_page([section], "Loops *", ["made by me"])
    assert page.startswith(
        "# Loops \\*\n\n- made by me\n\n## fsdd\n\n| label | changed | n | validation % | difference |"
    )
    assert "| no loops | model.network=9 | 2 | 71.00 ± 1.41 | -11.00 |" in page
    assert "against base; t-test paired by seed" in page


def test_the_name_of_a_point_is_never_cut() -> None:
    runs = ablation()
    for run in runs[-2:]:
        run.tags["snnrun.label"] = "silent neurons pass error down to the layer below"
    page = comparison_page(compare(runs, ["label"], None, "base"), "Parts", ["made by me"])
    assert "| silent neurons pass error down to the layer below |" in page


def test_another_model_leads_and_only_what_both_have_is_named_beside_it() -> None:
    runs = seeds("hm2bp", {0: 0.8}, model_network="9", model_effect_ratio="0.1")
    runs += seeds("strsbp", {0: 0.9}, model_network="R9", model_slope="none")
    [section] = compare(runs, ["model.name"], None, "hm2bp")
    assert [*section.groups[1].changes.items()] == [("model.name", "strsbp"), ("model.network", "R9")]


@pytest.mark.parametrize("against", ["basis", "0"])
def test_a_base_that_is_not_one_group_is_one_message(against: str) -> None:
    with pytest.raises(UsageError, match=rf"--against {against}: (none|3) of the rows of fsdd has it.*base") as told:
        compare(ablation(), ["label", "seed"] if against == "0" else ["label"], None, against)
    assert ("Did you mean base?" in str(told.value)) is (against == "basis")


def test_one_seed_has_neither_deviation_nor_test() -> None:
    [section] = compare(seeds("strsbp", {0: 0.9}) + seeds("hm2bp", {0: 0.8}), None, None)
    assert [(group.statistics[TEST_CHOSEN].std, group.statistics[TEST_CHOSEN].p) for group in section.groups] == [
        (None, None)
    ] * 2


def test_corpora_origins_digests_and_splits_are_never_mixed() -> None:
    runs = [
        invented("a", test=0.9, validation=0.9),
        invented("b", test=0.8, validation=0.9, data_name="ti46_alpha", origin="surrogate"),
        invented("c", test=0.7, validation=0.9, data_name="ti46_alpha"),
        invented("d", test=0.6, validation=0.9, data_split="speaker"),
        invented("e", test=0.5, validation=0.9, digest="e" * 64),
        invented("f", test=0.4, validation=0.9, data_limit=100),
    ]
    for by in (None, ["model.name"]):
        sections = compare(runs, by, None)
        apart = [[run.name for group in section.groups for run in group.runs] for section in sections]
        assert sorted(apart) == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]
        titles = {section.groups[0].runs[0].name: section.title for section in sections}
        assert len(set(titles.values())) == 6
        assert titles["b"].startswith("ti46_alpha (surrogate)")
        assert titles["c"].startswith("ti46_alpha")
        assert "surrogate" not in titles["c"]
        assert "limit 100" in titles["f"]
        assert "split speaker" in titles["d"]


def test_a_repeated_seed_counts_once_and_is_said() -> None:
    runs = [
        invented("old", started=1.0, validation=0.5, test=0.5),
        invented("new", started=2.0, validation=0.9, test=0.9, hardware_threads=1),
    ]
    [section] = compare(runs, None, None)
    [group] = section.groups
    assert [run.name for run in group.runs] == ["new"]
    assert section.notes == ["1 run left out: same settings and seed as a later one, which counts"]


def test_grouping_by_some_keys_says_what_it_mixes() -> None:
    runs = seeds("strsbp", {0: 0.9, 1: 0.8}, train_lr=0.1) + seeds("strsbp", {0: 0.7, 1: 0.6}, train_lr=0.2)
    assert len(compare(runs, None, None)[0].groups) == 2
    [section] = compare(runs, ["model.name"], None)
    [group] = section.groups
    assert (len(group.runs), group.mixed) == (4, {"train.lr": ["0.1", "0.2"]})
    assert "settings are mixed (train.lr 0.1, 0.2)" in section.notes[0]


def test_commits_that_differ_are_said() -> None:
    runs = seeds("strsbp", {0: 0.9, 1: 0.8})
    runs[0].tags["git.commit"] = "a" * 40
    assert compare(runs, None, None)[0].notes == ["the runs come from 2 commits: aaaaaaaa, cccccccc"]


def test_nothing_is_ranked_on_the_test_set() -> None:
    runs = [invented("a", seed=0, last=0.9, data_validation=0.0), invented("b", seed=0, last=0.95, data_validation=0.0)]
    runs[1].params["train.lr"] = "1"
    [section] = compare(runs, None, None)
    assert section.ranked is None
    assert not any(group.best for group in section.groups)
    assert "nothing ranks these" in section.notes[-1]
    [section] = compare(runs, None, [TEST_LAST])  # asked for by name
    assert section.groups[0].runs[0].name == "b"


def test_a_metric_that_counts_a_cost_is_better_when_it_is_less() -> None:
    runs = seeds("strsbp", {0: 0.9}) + seeds("hm2bp", {0: 0.8})
    runs[0].metrics["time/epoch_s"], runs[1].metrics["time/epoch_s"] = 5.0, 3.0
    [section] = compare(runs, None, ["time/epoch_s"])
    assert [group.settings["model.name"] for group in section.groups] == ["hm2bp", "strsbp"]


def test_only_finished_runs_count() -> None:
    left, notes = finished([invented("a"), invented("b", status="failed"), invented("c", status="running")])
    assert [run.name for run in left] == ["a"]
    assert notes == ["left out: 1 failed, 1 running (filter by status= to see them)"]


def test_best_is_chosen_by_validation_and_names_ties_and_what_cannot_be_compared() -> None:
    runs = [
        invented("a", seed=0, validation=0.95, test=0.80),
        invented("b", seed=1, validation=0.90, test=0.99),
        invented("c", seed=2, validation=0.95, test=0.85),
        invented("d", seed=3, last=1.0),
    ]
    [found] = best(runs, [])
    assert [run.name for run in found.runs] == ["a", "c"]
    assert (found.candidates, [run.name for run in found.unvalidated]) == (3, ["d"])
    by_seed = best(runs, ["seed"])
    assert [[run.name for run in entry.runs] for entry in by_seed] == [["a"], ["b"], ["c"], []]


def test_titles_are_unique() -> None:
    runs = [invented(data_limit=limit, data_split=split) for limit in ("null", 5) for split in ("official", "speaker")]
    titles = [title for title, _, _ in by_corpus(runs)]
    assert titles == [
        "fsdd, limit 5, split official",
        "fsdd, limit 5, split speaker",
        "fsdd, split official",
        "fsdd, split speaker",
    ]
