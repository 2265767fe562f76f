"""The pages of docs/tutorials work as written: their Python and their commands, in order, in one folder, on tiny models."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from ..data.small_sets import write_idx
from .conftest import TINY

PAGES = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.md"))
_STEP = re.compile(r"^```python\n(.*?)^```$|^ {4}diffusion-lab ([^\n]*)$", re.MULTILINE | re.DOTALL)
# Small data; and metrics that two steps of training and few samples allow: images that a regression leaves black have no spectrum.
FEW = {
    "experiment=vector_fashion": ["data.root=fashion"],
    "experiment=superres_fashion": ["data.root=fashion"],
    "experiment=superres_fashion,regression_fashion": ["metrics=[network_evaluations,reconstruction]"],
    "experiment=series": ["data.num_train=60", "data.num_test=20"],
    "experiment=volume": ["data.num_train=60", "data.num_test=20", "metrics=network_evaluations"],
}
SHORT = [option for option in TINY if not option.startswith(("metrics.", "schedule.", "features="))]


def steps(page: str) -> Iterator[tuple[str, list[str]]]:
    """(Python code, []), or ("", the words of a command), in the order of the page; continued lines are joined."""
    for found in _STEP.finditer(page.replace("\\\n", "")):
        yield (found[1], []) if found[1] else ("", shlex.split(found[2], comments=True))


def shrunk(command: str, *options: str) -> list[str]:
    """With a tiny network, two steps and eight samples; of what a sweep varies, the first and the last value."""
    less = {"train": SHORT, "evaluate": ["evaluation.num_samples=8"], "sample": ["num_images=10"]}.get(command, [])
    less = [*less, *(few for option in options for few in FEW.get(option, []))]
    return [command, *(re.sub(r"^([^=\[{]+=[^,\[{]+),(?:.*,)?([^,]+)$", r"\1,\2", option) for option in options), *less]


@pytest.mark.thorough
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_works_as_written(page, lab, monkeypatch):
    write_idx(lab.folder / "fashion", monkeypatch)
    text, namespace = page.read_text(), {}
    for code, command in steps(text):
        if code:
            exec(code, namespace)
        else:
            lab.done(*shrunk(*command))
    plt.close("all")
    for name in re.findall(r"`((?:outputs|samples|schedule)/[^` ]+)`", text):
        assert list(lab.folder.glob(name.replace("…", "*"))), f"{name} was not written"
