"""The documentation: links lead somewhere, code compiles, and what a page says of the source is in the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffusion_lab.commands.main import COMMANDS
from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.measures import Measure
from scripts.site import configs, reference
from scripts.site.links import links
from scripts.site.quoted import QUOTE, source_of

ROOT = Path(__file__).parent.parent
WRITTEN = sorted((ROOT / "docs").rglob("*.md"))
BROUGHT = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "outputs/README.md")
]
PAGES = [*WRITTEN, *BROUGHT]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_anchors_of_a_page_lead_somewhere(page):
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.is_relative_to(ROOT), link
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_on_a_page_compiles(page):
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        ast.parse(code)


QUOTES = [
    pytest.param((page.parent / link).resolve(), name, id=f"{page.stem}-{name}")
    for page in WRITTEN
    for name, link in QUOTE.findall(page.read_text())
]


@pytest.mark.parametrize(("file", "name"), QUOTES)
def test_what_a_page_quotes_is_defined(file, name):
    assert name.rpartition(".")[2] in source_of(file, name).partition("\n\n")[0]


def test_every_page_and_every_notebook_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def entries(nav):
        if isinstance(nav, str):
            return {nav}
        return set().union(*(entries(part) for part in (nav.values() if isinstance(nav, dict) else nav)))

    written = {page.relative_to(ROOT / "docs").as_posix() for page in WRITTEN}
    written |= {f"notebooks/{notebook.stem}.md" for notebook in NOTEBOOKS}
    assert written - entries(config["nav"]) == set(), "add them to nav in mkdocs.yml"


@pytest.mark.parametrize("group", configs.groups(CONF))
def test_every_choice_of_a_group_is_in_the_reference_with_its_first_comment(group):
    files = configs.groups(CONF)[group]
    page = configs.page_of(group, files, None)
    assert len(re.findall(r"^## ", page, re.MULTILINE)) == len(files)
    for part in page.split("\n## ")[1:]:
        assert re.match(r".+\n\n\S", part), part


def test_every_command_is_in_the_reference_with_its_options():
    page = reference.commands(CONF)
    for command in COMMANDS:
        assert f"## diffusion-lab {command}\n" in page
    assert "| `score` | `true` | false: train only |" in page


def test_every_value_of_the_metrics_is_in_the_reference(monkeypatch):
    page = reference.measures()
    for name in ("fd_digits_ssl", "precision", "bits_per_dim", "nfe", "fd_digits_ssl_infinity"):
        assert name in page
    extra = [Measure("brightness", "brightness", meaning="how bright")]
    monkeypatch.setattr("diffusion_lab.metrics.cost.Cost.measures", lambda *_: extra)
    assert "| `brightness` |  |  | how bright |" in reference.measures()


# Python scrolls, because its indentation means something, and so do data frames and equations.
WIDE = """() => [...document.querySelectorAll(
    ".md-content, .md-content :is(table:not(.dataframe), .highlight:not(.language-python) code, p:not(.eq), li, h1, h2, h3)"
)].filter(part => part.scrollWidth - part.clientWidth > 8 && getComputedStyle(part).display != "inline"
).map(part => `${part.tagName} ${part.scrollWidth - part.clientWidth}: ${part.textContent.trim().slice(0, 60)}`)"""


@pytest.mark.thorough
@pytest.mark.needs("chromium")
def test_the_site_builds_without_a_warning_asks_no_other_host_and_cuts_nothing_off(tmp_path, request):
    """Nothing is cut off on any page, on a laptop and on a phone. Without scripts: they move tables into boxes that scroll."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theory = (tmp_path / "theory/reverse/index.html").read_text()
    for page in ((tmp_path / "index.html").read_text(), theory):
        loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?([^\s\">]+)", page)
        assert loaded
        assert not [url for url in loaded if re.match(r"(?:https?:)?//", url)]
    assert "data:image/png" in (tmp_path / "notebooks/theory/index.html").read_text()
    assert "per_sample" in theory
    assert "x<sub>t−1</sub>" in theory
    assert '<td data-column="choices">' in (tmp_path / "choices/index.html").read_text()  # for narrow screens

    page = request.getfixturevalue("browser").new_page(java_script_enabled=False)
    files = sorted(tmp_path.rglob("index.html"))
    wide = []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for file in files:
            name = file.parent.relative_to(tmp_path).as_posix()
            # Only tables are laid out otherwise on a phone. The API has none: what fits there fits on a laptop.
            if width == 390 or not name.startswith("reference/api/"):
                page.goto(file.as_uri())
                wide += [f"{name} at {width}: {part}" for part in page.evaluate(WIDE)]
    assert wide == [], "\n".join(wide)
