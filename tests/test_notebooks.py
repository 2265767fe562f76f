"""The notebooks run from the first cell to the last, and what they show is stored in them and on the site."""

import json
import re
from pathlib import Path

import pytest

from scripts.site.notebooks import executed

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def shown(notebook: dict) -> list[list[str]]:
    """Of each cell, the kinds of its outputs."""
    outputs = [cell.get("outputs", []) for cell in notebook["cells"]]
    return [sorted({kind for output in of_cell for kind in output.get("data", ["text"])}) for of_cell in outputs]


@pytest.mark.thorough
@pytest.mark.filterwarnings("default")  # of Jupyter's own
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(notebook, tmp_path):
    stored = json.loads(notebook.read_text())
    assert shown(executed(notebook, tmp_path)) == shown(stored), "python -m scripts.site.notebooks"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_hold_nothing_of_a_machine(notebook):
    text = notebook.read_text()
    assert not re.search(r"/(tmp|home|root|work)/", text)
    assert any(shown(json.loads(text))), "python -m scripts.site.notebooks stores outputs"
