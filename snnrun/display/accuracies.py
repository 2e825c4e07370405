"""The final accuracies of a run as text: the same words after a training and in `snnrun runs show`."""

from __future__ import annotations

from collections.abc import Mapping

from snnrun.metric_names import BEST_EPOCH, BEST_VALIDATION, TEST_CHOSEN, TEST_LAST, TEST_MAXIMUM


def final_accuracies(metrics: Mapping[str, float]) -> dict[str, str]:
    """Those that are known, in percent, by their titles. `metrics` are shares."""
    chosen = f"epoch {metrics.get(BEST_EPOCH, 0):.0f}"
    rows = {}
    if TEST_LAST in metrics:
        rows["test, last epoch"] = _percent(metrics[TEST_LAST])
    if TEST_CHOSEN in metrics:
        validation = f", validation {_percent(metrics[BEST_VALIDATION])}" if BEST_VALIDATION in metrics else ""
        rows["test, best validation"] = f"{_percent(metrics[TEST_CHOSEN])}  ({chosen}{validation})"
    if TEST_MAXIMUM in metrics:
        rows["test, max over epochs"] = f"{_percent(metrics[TEST_MAXIMUM])}  (chosen on the test set, as the papers do)"
    if BEST_VALIDATION in metrics and TEST_CHOSEN not in metrics:
        rows["best validation"] = f"{_percent(metrics[BEST_VALIDATION])}  ({chosen})"
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
