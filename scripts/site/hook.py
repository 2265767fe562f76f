"""The documentation site, as mkdocs builds it: pages that are generated, pages from elsewhere in the repository, quoted source.

    pip install -e '.[docs]' && mkdocs serve

docs/ holds the pages that are written by hand. This hook adds the Markdown files of other folders (`BROUGHT`), the notebooks, a
page for each config group, one for the commands, one for the values of metrics.json, and the API of the packages in `API`. Nothing
is written to disk but the site. Links in a page are relative to its file, so they work on GitHub too.
"""

import re
import sys
from itertools import cycle
from pathlib import Path

from hydra import compose, initialize_config_dir
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs puts only the folder of this file there; an installed copy would have no docs

from scripts.site import configs, notebooks, reference  # noqa: E402
from scripts.site.equations import typeset, typeset_prose  # noqa: E402
from scripts.site.links import led_to_pages, outside_code  # noqa: E402
from scripts.site.quoted import with_sources  # noqa: E402

BROUGHT = {
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "outputs/README.md": "outputs.md",
    "CHANGELOG.md": "changelog.md",
}
API = ("diffusion", "sampling", "analysis", "networks", "data", "models", "families", "metrics")
CONFIG, MODULES, NOTEBOOKS = "reference/config", "reference/api", "notebooks"
_placed: dict[Path, str] = {}  # file of the repository -> its page


def on_config(config):
    """The navigation of the generated pages, in the places that mkdocs.yml leaves for them."""
    places = {"{config}": _config_nav(), "{api}": _api_nav()}
    config.nav = _filled(config.nav, places)
    return config


def on_files(files: Files, config) -> Files:
    for file in files:
        if file.abs_src_path:
            _placed[Path(file.abs_src_path).resolve()] = file.src_uri
    for source, page in BROUGHT.items():
        _placed[ROOT / source] = page
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / NOTEBOOKS).glob("*.ipynb")):
        page = f"{NOTEBOOKS}/{notebook.stem}.md"
        _placed[notebook] = page
        files.append(File.generated(config, page, content=notebooks.page(notebook.read_text(encoding="utf-8"))))
    for page, content in {**_config_pages(), **_api_pages(), **_reference_pages()}.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    source = next((file for file, place in _placed.items() if place == page.file.src_uri), None)
    if source is None or source.suffix == ".ipynb":
        return markdown
    if source.parent.name == "theory":
        markdown = outside_code(markdown, typeset_prose)
    markdown = with_sources(outside_code(markdown, typeset), source.parent, ROOT / "diffusion_lab")
    return led_to_pages(markdown, source, page.file.src_uri, _placed)


def on_page_content(html: str, page, config, files) -> str:
    return re.sub(r"<table>.*?</table>", _named_cells, html, flags=re.DOTALL)


def _named_cells(table: re.Match[str]) -> str:
    """The table, each cell with the name of its column, which site.css shows where the screen is narrow.

    Names of options, such as network.activation_checkpointing=true, may break in the head of a column.
    """
    heads = re.findall(r"<th\b[^>]*>(.*?)</th>", table[0], re.DOTALL)
    names = cycle([re.sub(r"<[^>]*>", "", head).replace('"', "&quot;") for head in heads])
    body = re.sub(r"<td\b", lambda _: f'<td data-column="{next(names)}"', table[0])
    return re.sub(r"(?<=\w[._=])(?=\w)(?=[^<>]*</(?:code></)?th>)", "<wbr>", body)


def _filled(nav, places):
    if isinstance(nav, list):
        return [_filled(entry, places) for entry in nav]
    if isinstance(nav, dict):
        return {title: _filled(entry, places) for title, entry in nav.items()}
    return places.get(nav, nav)


def _groups() -> dict[str, list[Path]]:
    return configs.groups(ROOT / "conf")


def _config_nav() -> list[dict[str, str]]:
    return [{group: f"{CONFIG}/{group.replace('/', '_')}.md"} for group in _groups()]


def _config_pages() -> dict[str, str]:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        chosen = compose("train", return_hydra_config=True).hydra.runtime.choices
    return {
        f"{CONFIG}/{group.replace('/', '_')}.md": configs.page_of(
            group, files, chosen.get(group) or chosen.get(f"{group}@_global_")
        )
        for group, files in _groups().items()
    }


def _modules() -> dict[str, list[str]]:
    """Package -> its modules that have something public to say."""
    found: dict[str, list[str]] = {"load": ["commands.library"]}
    for package in API:
        for file in sorted((ROOT / "diffusion_lab" / package).rglob("*.py")):
            if file.stem != "__init__":
                parts = file.relative_to(ROOT / "diffusion_lab").with_suffix("").parts
                found.setdefault(package, []).append(".".join(parts))
                _placed[file] = f"{MODULES}/{'.'.join(parts)}.md"
    return found


def _api_nav() -> list[dict[str, list[dict[str, str]]]]:
    return [
        {package: [{name.removeprefix(f"{package}."): f"{MODULES}/{name}.md"} for name in names]}
        for package, names in _modules().items()
    ]


def _api_pages() -> dict[str, str]:
    names = [name for names in _modules().values() for name in names]
    return {f"{MODULES}/{name}.md": f"# {name}\n\n::: diffusion_lab.{name}\n" for name in names}


def _reference_pages() -> dict[str, str]:
    return {"reference/commands.md": reference.commands(ROOT / "conf"), "reference/metrics.md": reference.measures()}
