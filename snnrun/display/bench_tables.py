"""The tables of `snnrun bench`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from snnrun.display.console import print_rows


def show(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what ``measure.run`` returns, with its workload and command."""
    console = console or Console()
    machine = result["machine"]
    memory = f", {machine['memory_gib']:g} GiB" if machine["memory_gib"] else ""
    rows = {
        "workload": result["workload"],
        "model": f"{result['model']}  {result['network']}",
        "input": f"{result['data']}  ({result['encoder']}, {result['steps']} steps, batches of {result['batch']})",
        "weights": f"after {result['warm_up']:,} training samples",
        "kernels": f"{result['kernels']} on {result['device']}",
        "machine": f"{machine['cpu']}, {machine['cores']} core{'s' if machine['cores'] > 1 else ''}{memory}",
    }
    print_rows(console, "snnrun bench", rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    titles = ("training\nms", "\nsamples/s", "inference\nms", "\nsamples/s", "peak\nMiB", "\nGadd/s", "\nshare")
    for title in ("\nthreads", *titles):
        table.add_column(title, justify="right", no_wrap=True)
    for threads, entry in result["by_threads"].items():
        additions = entry["row_additions"] or {"rate_gadd_s": None, "share": None}
        times = [entry[task][key] for task in ("training", "inference") for key in ("ms_per_sample", "samples_per_s")]
        table.add_row(
            threads,
            *(f"{value:,.0f}" if value >= 100 else f"{value:#.3g}" for value in times),
            _or_dash(entry["peak_memory_mib"], ".0f"),
            _or_dash(additions["rate_gadd_s"], ".2f"),
            _or_dash(additions["share"], ".0%"),
        )
    console.print(table)
    if result["speed_up"] is not None:
        console.print(f" {result['threads']} threads train {result['speed_up']:.2f} times as fast as 1, run in turn.\n")
    whole = sum(result["phases"].values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in (f"phase, {result['threads']} threads", "ms", "%", "  spikes of", "a sample"):
        table.add_column(title, justify="left" if title[:3] in ("pha", "  s") else "right", no_wrap=True)
    phases = [(name, f"{value:.3f}", f"{100 * value / whole:.0f}") for name, value in result["phases"].items()]
    spikes = [(f"  {name}", f"{value:,.0f}") for name, value in result["spikes_per_sample"].items()]
    for phase, layer in zip_longest(phases, spikes, fillvalue=("", "", "")):
        table.add_row(*phase, *layer[:2])
    console.print(table)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
