import re
from pathlib import Path

import pytest

from diffusion_lab.commands.app import CONF

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs_and_learns_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    namespace = {}
    exec(code, namespace)
    wide, narrow = namespace["samples"].std(dim=0).tolist()
    assert wide == pytest.approx(0.5, abs=0.1)
    assert narrow == pytest.approx(0.1, abs=0.05)


def test_the_table_of_choices_is_the_folder_of_choices():
    for group, cells in re.findall(r"^\| `([a-z_/]+)` \| (.*?) \|", README, flags=re.MULTILINE):
        named = set(re.findall(r"`([a-z0-9_]+)`(?! \()", cells)) | set(re.findall(r"`([a-z0-9_]+)` \(", cells))
        on_disk = {path.stem for path in (CONF / group).glob("*.yaml")}
        assert on_disk <= named, f"{group}: {on_disk - named} are not in the README"


def test_files_that_the_readme_names_exist():
    package = Path(__file__).parent.parent / "diffusion_lab"
    for name in set(re.findall(r"`((?:diffusion|networks|data)/\w+\.py)`", README)):
        assert (package / name).is_file(), name
    for name in re.findall(r"\]\((\S+)\)", README):
        assert (package.parent / name).is_file(), name
