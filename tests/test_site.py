"""The documentation site: it builds without a warning, its links lead somewhere, and what is made is up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def script(name: str) -> ModuleType:
    """A module of scripts/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


# ---- what scripts make ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "data", "encoder", "run"])
def test_the_reference_is_that_of_the_schemas(name: str) -> None:
    text = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert text == script("reference").page(name), "run: python scripts/reference.py"


def test_the_reference_reads_a_file_of_conf() -> None:
    keys = script("reference").keys(
        "a: 1    # one\n         # and more\nlist: [1, 2]\nsection:\n  b: x#y  # two\nc: ''\n"
    )
    assert keys == {
        "a": ("1", "one and more"),
        "list": ("[1, 2]", ""),
        "section": ("", ""),
        "section.b": ("x#y", "two"),
        "c": ("''", ""),
    }


@pytest.fixture(scope="module")
def pictures() -> dict[str, Any]:
    """What scripts/rule_figures.py draws."""
    return {name: picture() for name, picture in script("rule_figures").PICTURES.items()}


def curves(picture: Any, title: str) -> dict[str, Any]:
    """The curves of the panel whose title begins so."""
    [panel] = [panel for name, panel in picture.panels.items() if name.startswith(title)]
    return {curve.who: curve for curve in panel}


@pytest.mark.slow  # draws
def test_figures_are_those_of_the_rules(pictures: dict[str, Any], tmp_path: Path) -> None:
    script("rule_figures").main(tmp_path)
    for name, picture in pictures.items():
        words = [
            re.findall(r">([^<>\n]+)</text>", (folder / f"{name}.svg").read_text(encoding="utf-8"))
            for folder in (tmp_path, DOCS / "rules")
        ]
        assert words[0] == words[1], "run: python scripts/rule_figures.py"
        page = (DOCS / "rules" / f"{name}.md").read_text(encoding="utf-8")
        told = [f"{abs(value):.3g}" for value in picture.gradient.tolist()]
        assert name == "slayer" or all(value in page for value in told), told


@pytest.mark.parametrize(("name", "title", "gain"), [("strsbp", "A's", -0.2), ("hm2bp", "effect", -0.2 * 1.957)])
def test_dots_of_spike_train_rules_make_the_bars(pictures: dict[str, Any], name: str, title: str, gain: float) -> None:
    drawn = curves(pictures[name], title)
    for who, gradient in zip("AB", pictures[name].gradient.tolist(), strict=True):
        e = drawn[who].values[list(drawn[who].read)].sum().item()
        assert gradient == pytest.approx(gain * e, rel=1e-3)


def test_dots_of_stbp_and_lee_make_the_bars(pictures: dict[str, Any]) -> None:
    error, traces = curves(pictures["stbp"], "error"), curves(pictures["lee"], "traces")
    for who, stbp, lee in zip("AB", pictures["stbp"].gradient, pictures["lee"].gradient, strict=True):
        torch.testing.assert_close(-error[who].values[list(error[who].read)].sum(), stbp)
        torch.testing.assert_close(-traces[who].values[-1] / (2 * 1.5**0.5), lee)  # v_th sqrt(3 / M)


def test_curves_of_slayer_make_the_bars(pictures: dict[str, Any]) -> None:
    rho = curves(pictures["slayer"], "density")["C"].values
    responses = curves(pictures["slayer"], "responses")
    spread = torch.arange(1, 101)[:, None] - torch.arange(1, 101)
    eps = torch.where(spread >= 0, spread / 5.0 * torch.exp(1 - spread / 5.0), 0.0)
    error = (4 - 6) / 100 * eps.sum(dim=0)  # of a spike: that of the response signal, correlated with eps
    for who, gradient in zip("AB", pictures["slayer"].gradient, strict=True):
        torch.testing.assert_close((rho * error * responses[who].values).sum(), gradient, rtol=1e-4, atol=0)


def test_pictures_fetch_nothing() -> None:
    for picture in DOCS.rglob("*.svg"):
        assert re.findall(r"(?:url\(\W*|href=\W)https?:", picture.read_text(encoding="utf-8")) == [], picture


@pytest.mark.slow
def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads((DOCS / "first_network.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    [right] = re.findall(r"([\d.]+)% of the test samples", capsys.readouterr().out)
    assert float(right) > 90


# ---- the site -------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(below)

    named = list(pages(yaml.safe_load(text)["nav"]))
    assert len(named) == len(set(named))
    assert set(named) == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


class Page(HTMLParser):
    """Anchors of a page, what it links to, and what a browser fetches to show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids |= {name for name in (values.get("id"), values.get("name")) if name}
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        if tag in ("img", "script", "source") and values.get("src"):
            self.fetched.append(str(values["src"]))
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.fetched.append(str(values["href"]))


@pytest.mark.slow
@pytest.mark.launches
def test_the_site_builds_and_holds_together(tmp_path: Path) -> None:
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("the extra docs is not installed")
    for folder in ("docs", "snnrun"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    build = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "No issues found" in built.stdout + built.stderr
    assert "griffe" not in built.stdout + built.stderr
    site = tmp_path / "build" / "site"
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html") if file.name != "404.html"}
    assert len(pages) == len(list(DOCS.rglob("*.md")))
    for file, page in pages.items():
        for link in page.fetched + page.links:
            parts = urlsplit(link)
            if parts.scheme:
                assert link not in page.fetched, f"{file}: fetches {link}"
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{file}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{file}: {link}"
