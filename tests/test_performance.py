from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str) -> ModuleType:
    """A script as a module, which finds its neighbours as Python finds them for a script."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def performance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module that works in a folder of its own."""
    module = script("performance")
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(module, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(module, "FIGURE", tmp_path / "performance.svg")
    return module


def result(command: list[str]) -> dict[str, Any]:
    """What a benchmark whose times are powers of its settings would say."""
    settings = dict(word.split("=") for word in command if "=" in word)
    steps = float(settings.get("encoder.steps", 400))
    width = float(settings.get("model.network", "400-R400").split("-")[0])
    spikes = steps * 80 / float(settings.get("encoder.attenuation", 2))
    entry = {
        "steps": int(steps),
        "training": {"ms_per_sample": 1e-6 * steps * width**2, "samples_per_s": 5.0},
        "inference": {"ms_per_sample": 1e-3 * spikes, "samples_per_s": 50.0},
        "speed_up": 1.75,
        "peak_memory_mib": 20 + 0.05 * steps,
        "phases": {"encode": 0.75, "rest": 0.2, "optimiser": 0.05},
        "spikes_per_sample": {"input": spikes, "output": 30.0},
        "row_additions": {"per_sample": spikes * width, "rate_gadd_s": 2.5, "bound_gadd_s": 10.0, "share": 0.25},
    }
    machine = {"cpu": "Z80", "cores": 1, "memory_gib": 0.5, "python": "3", "torch": "2", "numba": "0"}
    return {
        **{"workload": command[2], "command": " ".join(command), "model": "strsbp", "data": "d", "batch": 16},
        **{"machine": machine | {"snnrun": "1", "commit": "0123456789"}, "kernels": "cpu", "device": "CPU"},
        **{
            "threads": 2,
            "network": f"784-{width:.0f}-R{width:.0f}-10",
            **entry,
            "by_threads": {"1": entry, "2": entry},
        },
    }


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run; each is answered at once."""
    seen: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        seen.append(command[2:])
        return subprocess.CompletedProcess(command, 0, json.dumps(result(command[2:])))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return seen


def test_the_page_has_workloads_scaling_and_peers(performance: Any, calls: list[list[str]], tmp_path: Path) -> None:
    found = {"version": "2", "training": 30.0, "inference": 4.0, "memory": 900.0}
    peers = {
        "settings": {"threads": 1, "batch": 32, "rounds": 3},
        "results": {
            "fashion": {"snnrun": {**found, "training": 3.0}, "norse": found, "snntorch": {"error": "not installed"}}
        },
    }
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "peers.json").write_text(json.dumps(peers))
    performance.main(["hardware=cpu"])
    page = (tmp_path / "performance.md").read_text()
    assert len(calls) == 6 + 3 + 3 * 5
    assert all(call[-2:] == ["hardware=cpu", "--json"] for call in calls)
    for words in (
        "Z80, 1 core",
        "snnrun 1 (0123456)",
        "| `alpha3` | strsbp 784-400-R400-10 | 400 | 16 | 2 |",
        "| `mnist` | d | 16,000 / 30 | 6.40 M | 2.50 | 10.0 | 25% |",
        "| 16 | 64.0 | 64.0 | 1.75 | 25.0% | 25.0% | 40 |",
        "Exponents: row additions 1.00, training 1.00, inference 1.00, memory 0.",
        "Memory grows by 5 MiB for 100 more steps.",
        "Exponents: row additions 1.00, training 2.00, inference 0.00",
        "    snnrun bench fashion hardware=cpu --json",
        "| `fashion` | norse 2 | 30.0 (10.0) | 4.00 (1.0) | 900 (1.0) |",
        "| `fashion` | snntorch | not installed |",
    ):
        assert words in page, words
    assert (tmp_path / "performance.svg").read_text().startswith("<?xml")


def test_other_libraries_are_measured_where_there_are_any(
    performance: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(performance.importlib.util, "find_spec", lambda name: None)
    assert performance.compared(fresh=True) is None
    assert "pip install '.[peers]'" in capsys.readouterr().out
    monkeypatch.setattr(performance.importlib.util, "find_spec", lambda name: name == "norse" or None)

    def measure(command: list[str], **_: Any) -> Any:
        assert command[1].endswith("scripts/bench_peers.py")
        Path(command[3]).write_text('{"results": {}}')
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", measure)
    assert performance.compared(fresh=False) == {"results": {}}
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 7))
    assert performance.compared(fresh=False) == {"results": {}}
    with pytest.raises(SystemExit) as end:
        performance.compared(fresh=True)
    assert end.value.code == 7


@pytest.mark.slow
def test_what_is_measured_is_kept_until_it_is_named(performance: Any, calls: list[list[str]], tmp_path: Path) -> None:
    performance.main(["--only", "fashion"])
    assert [call[2] for call in calls] == ["fashion"]
    assert "## Scaling" not in (tmp_path / "performance.md").read_text()
    performance.main(["--only", "steps"])
    assert len(calls) == 1 + 5
    page = (tmp_path / "performance.md").read_text()
    assert "| `fashion` |" in page
    assert "### Steps" in page
    whole = len(performance.WORKLOADS) + 3 + 3 * 5
    for _ in range(2):
        performance.main([])
        assert len(calls) == whole
    performance.main(["--fresh"])
    assert len(calls) == 2 * whole


def test_a_benchmark_that_fails_ends_it_with_its_code(performance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 130, ""))
    with pytest.raises(SystemExit) as end:
        performance.main(["--only", "mnist"])
    assert end.value.code == 130
    assert not performance.KEPT.exists()
    with pytest.raises(SystemExit) as end:
        performance.main(["--only", "mnits"])
    assert end.value.code == 2


def test_the_page_shows_what_was_found_on_a_gpu(
    performance: ModuleType, calls: list[list[str]], tmp_path: Path
) -> None:
    measured = {"device": "NVIDIA H100", "training": {"ms_per_sample": 0.5}, "inference": {"ms_per_sample": 0.25}}
    machine = {"gpu": "NVIDIA H100", "memory_gib": 80.0, "cores": 16, "packages": {"torch": "2.13.0", "triton": None}}
    found = {
        "machine": machine,
        "batch": 128,
        "doctor": {"code": 0, "output": "fine"},
        "fashion_gpu": measured,
        "alpha_gpu": {"error": "snnrun: no room"},
        "feed_forward_gpu": measured,
        "spikingjelly_cupy": {"training": 1.5, "inference": 0.75, "peak_mib": 100.0},
        "spikingjelly_triton": {"error": "no such backend"},
    }
    (tmp_path / "gpu.json").write_text(json.dumps(found))
    performance.main(["--only", "fashion", "--gpu", str(tmp_path / "gpu.json")])
    performance.main(["--only", "fashion"])  # it is kept
    page = performance.PAGE.read_text()
    assert "| `fashion` | snnrun, NVIDIA H100 | 0.500 | 0.250 |" in page
    assert "| `feed_forward` | spikingjelly, cupy | 1.50 | 0.750 |" in page
    assert "alpha" not in page.partition("On a GPU")[2]
    assert "passed there" in page


def test_a_machine_without_a_gpu_is_told_so_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = script("gpu_check")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="sees no CUDA device here"):
        check.main(["--out", str(tmp_path / "found.json")])
    assert not (tmp_path / "found.json").exists()


@pytest.mark.launches
def test_what_fails_on_a_gpu_or_comes_too_late_is_in_the_file_too(tmp_path: Path) -> None:
    report = script("gpu_check").Report(tmp_path / "found.json", minutes=1.0)
    report.run("good", ["-c", "print('{}')".format('{"a": 1}')], "json")
    report.run("bad", ["-c", "import sys; sys.exit('snnrun: no room')"], "json")
    report.run("text", ["-c", "print('fine')"], "text")
    report.end = 0.0
    report.run("late", ["-c", "print('fine')"], "text")
    assert json.loads((tmp_path / "found.json").read_text()) == {
        "good": {"a": 1},
        "bad": {"error": "snnrun: no room"},
        "text": {"code": 0, "output": "fine\n"},
        "late": {"error": "the time was up"},
    }
