"""The pages of docs/extend: for every common change the files to write, at most two, and commands that show it at work.

Each page names files, followed by their content (a diff, where a file exists already). CONTRIBUTING.md lists the pages.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from .commands.zygote import Zygote

ROOT = Path(__file__).parent.parent
EXTEND = ROOT / "docs" / "extend"
PAGES = {path.stem: path.read_text() for path in sorted(EXTEND.glob("*.md"))}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
COPIED = ("diffusion_lab", "conf", "hydra_plugins", "tests", "pyproject.toml", "docs", "README.md", "CONTRIBUTING.md")


@dataclass(frozen=True)
class Section:
    """files: path -> (language of the block, its content). commands: one a line."""

    files: dict[str, tuple[str, str]]
    commands: list[str]

    def write(self, folder: Path) -> None:
        for name, (language, content) in self.files.items():
            path = folder / name
            if language == "diff":
                path.write_text(changed(path.read_text(), content))
            else:
                assert not path.exists(), f"{name} is there already"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)


def section(page: str) -> Section:
    """The files and commands of a page."""
    files = re.findall(r"^`([^`\n]+)`:\n\n```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return Section(
        {path: (language, content) for path, language, content in files},
        [line for block in commands for line in block.splitlines()],
    )


def changed(text: str, diff: str) -> str:
    """`text` after a diff whose parts, divided by @@, have each one place in it."""
    for part in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = [(line[:1], line[1:]) for line in part.splitlines()]
        old, new = ("".join(f"{line}\n" for sign, line in lines if sign != left) for left in ("+", "-"))
        assert text.count(old) == 1, f"not in one place: {old}"
        text = text.replace(old, new)
    return text


SECTIONS = {name: section(page) for name, page in PAGES.items() if name != "maintaining"}


class Clone:
    """A copy of the repository with all that the pages write, and a process that runs it: a command is a fork of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.folder / name)
            else:
                shutil.copy2(ROOT / name, self.folder / name)
        (self.folder / "outputs").mkdir()
        shutil.copy2(ROOT / "outputs" / "README.md", self.folder / "outputs")
        for section in SECTIONS.values():
            section.write(self.folder)
        self.environment = {
            "PYTHONPATH": str(self.folder),
            "COLUMNS": "120",
            "OMP_NUM_THREADS": "1",
            "HYDRA_FULL_ERROR": "0",
        }
        self.zygote = Zygote(self.folder, **self.environment)

    def pytest(self, *arguments: str) -> str:
        """What it prints; it must succeed."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DIFFUSION_", "PYTEST_"))}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "0", "-v", "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env=inherited | self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("contributing"))
    yield clone
    clone.zygote.close()


def said_and_written(clone: Clone, folder: Path, command: str) -> str:
    """What a command that succeeds prints, the names of all files then in outputs/debug, and what is in those of text."""
    program, *arguments = shlex.split(command)
    assert program == "diffusion-lab"
    process = clone.zygote.start(folder, *arguments)
    out, err = process.communicate()
    assert process.returncode == 0, f"{command}\n{out[-3000:]}\n{err[-3000:]}"
    files = sorted(path for path in (folder / "outputs" / "debug").rglob("*") if path.is_file())
    texts = (path.read_text() for path in files if path.suffix in (".json", ".yaml", ".csv"))
    return "\n".join([out, *(path.as_posix() for path in files), *texts])


# What the commands of a page print, or write into outputs/debug, when its part is at work.
SHOWS = {
    "metric": r'"contrast": \d',
    "features": r'"fd_profiles": \d',
    "schedule": r"LaplaceSchedule\(num_timesteps=1000, scale=1\.0\)",
    "solver": r"AdamsSampler\(.*num_steps=10",
    "spacing": "the sampler visits 7 of 1000 steps",
    "variance": '"variance": "FixedMiddle',
    "family": '"family": "energy_score"',
    "network": "diffusion with 65,218 parameters",
    "data_set": "models/spiral-diffusion-",
    "condition": "runs/.*/conditions.png",
    "command": r"diffusion-\w+  1 steps  0\.0 minutes",
    "callback": "train/weight_norm",
    "outputs": r"runs/.*/values\.csv",
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SHOWS)
def test_the_commands_of_a_page_show_what_it_adds(tmp_path, clone, name):
    commands = [line for line in SECTIONS[name].commands if not line.startswith("pytest ")]
    assert re.search(SHOWS[name], "\n".join(said_and_written(clone, tmp_path, line) for line in commands))


@pytest.mark.thorough
def test_all_pages_together_keep_the_tests_green(clone):
    """Nothing else has to be touched: no list, no table, no test. Each `pytest` line of a page selects some of the tests."""
    names = [Path(name).stem for section in SECTIONS.values() for name in section.files if name.startswith("conf/")]
    lines = [shlex.split(line) for section in SECTIONS.values() for line in section.commands if "pytest " in line]
    selected = {(path, tuple(words.split(" and "))) for _, path, _, words in lines}
    words = [*names, *(f"({' and '.join(words)})" for _, words in selected)]
    whole = ["tests/test_architecture.py", "tests/test_readme.py"]
    words += ["test_architecture", "(test_readme and not example)"]
    files = {*whole, "tests/commands/test_conf.py", *(path for path, _ in selected)}
    said = clone.pytest(*sorted(files), "-k", " or ".join(words))
    passed = [line for line in said.splitlines() if " PASSED" in line]
    assert all(any(line.startswith(path) for line in passed) for path in whole)
    for path, words in selected:
        assert any(line.startswith(path) and all(word in line for word in words) for line in passed), (path, words)


def test_every_page_has_one_or_two_files_and_a_command():
    assert set(SECTIONS) == set(SHOWS)
    for name, page in SECTIONS.items():
        assert 1 <= len(page.files) <= 2, name
        assert any(line.startswith("diffusion-lab ") for line in page.commands), name
    assert {f"docs/extend/{name}.md" for name in PAGES} == set(re.findall(r"\]\((docs/extend/\w+\.md)", CONTRIBUTING))


def test_files_that_the_pages_name_exist_or_are_written():
    written = {name for section in SECTIONS.values() for name in section.files}
    text = CONTRIBUTING + "".join(PAGES.values())
    named = set(re.findall(r"\b((?:diffusion_lab|conf|hydra_plugins|tests|outputs|runs|\.ci)/[\w/.]+\.\w+)", text))
    named |= set(re.findall(r"\]\((docs/[\w/.]+)(?:#[\w-]+)?\)", CONTRIBUTING))
    assert len(named) > len(written) > 20
    for name in named - written:
        assert (ROOT / name).exists() or (ROOT / "diffusion_lab" / name).exists(), name
