"""The pages of docs/extend: for every common change the files to write, at most two, and commands that show it at work.

Each page names files, followed by their content (a diff, where a file exists already). CONTRIBUTING.md lists the pages.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .commands.zygote import Zygote

ROOT = Path(__file__).parent.parent
EXTEND = ROOT / "docs" / "extend"
PAGES = {path.stem: path.read_text() for path in sorted(EXTEND.glob("*.md"))}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
COPIED = ("diffusion_lab", "conf", "hydra_plugins", "tests", "pyproject.toml", "docs", "README.md", "CONTRIBUTING.md")
# What stands in for PBS: jobs run at once, one after the other, and none is left when qsub returns.
QSUB = """\
while [ $# -gt 1 ]; do [ "$1" = -o ] && log=$2; shift; done
sh > "$log" 2>&1
echo 1.server
"""


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
        programs = folder / "programs"
        programs.mkdir()
        for name, script in {"qsub": QSUB, "qselect": ""}.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
        self.environment = {
            "PYTHONPATH": str(self.folder),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
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


@dataclass(frozen=True)
class User:
    """Types commands in a folder of their own."""

    folder: Path
    clone: Clone

    def run(self, command: str) -> str:
        """What it prints; it must succeed."""
        program, *arguments = shlex.split(command)
        assert program == "diffusion-lab"
        process = self.clone.zygote.start(self.folder, *arguments)
        out, err = process.communicate()
        assert process.returncode == 0, f"{command}\n{out[-3000:]}\n{err[-3000:]}"
        return out

    def one(self, pattern: str) -> Path:
        """The only file that lies so in outputs/debug."""
        (path,) = (self.folder / "outputs" / "debug").glob(pattern)
        return path

    @property
    def metrics(self) -> dict:
        return json.loads(self.one("runs/*/metrics.json").read_text())


def row(said: str, name: str) -> str:
    """The line of a table that begins with a name."""
    (line,) = [line for line in said.splitlines() if line.split()[:1] == [name]]
    return line


def metric(user: User, said: list[str]) -> None:
    assert re.search(r"\d\.\d+", row(said[0], "contrast"))
    assert user.metrics["values"]["contrast"] > 0


def features(user: User, said: list[str]) -> None:
    assert re.search(r"\d\.\d+", row(said[0], "fd_profiles"))
    assert user.metrics["protocol"]["features"]["name"] == "profiles"


def schedule(user: User, said: list[str]) -> None:
    assert "LaplaceSchedule(num_timesteps=1000, scale=1.0)" in said[0]
    assert (user.folder / "schedule" / "schedule.png").is_file()


def solver(user: User, said: list[str]) -> None:
    assert user.metrics["values"]["nfe"] == 10
    assert "AdamsSampler" in user.metrics["protocol"]["model"]["sampler"]


def spacing(user: User, said: list[str]) -> None:
    assert "the sampler visits 7 of 1000 steps" in said[0]


def variance(user: User, said: list[str]) -> None:
    assert "FixedMiddle" in json.dumps(user.metrics["protocol"])
    assert user.metrics["values"]["bits_per_dim"] > 0


def family(user: User, said: list[str]) -> None:
    assert user.metrics["protocol"]["model"]["family"] == "energy_score"
    assert user.metrics["values"]["nfe"] == 1
    assert user.one("runs/*/samples.png").stat().st_size > 0


def network(user: User, said: list[str]) -> None:
    assert "diffusion with 65,218 parameters" in said[0]
    assert "networks.plain.PlainNetwork" in user.one("models/*/config.yaml").read_text()


def data(user: User, said: list[str]) -> None:
    assert user.one("models/*").name.startswith("spiral-diffusion-")


def condition(user: User, said: list[str]) -> None:
    assert "outlines" in user.one("models/*/config.yaml").read_text()
    assert user.one("runs/*/conditions.png").stat().st_size > 0


def command(user: User, said: list[str]) -> None:
    assert "  models     the trained models in outputs/, with what their training took\n" in said[0]
    assert said[2] == f"{user.one('models/*').name}  1 steps  0.0 minutes\n"


def callback(user: User, said: list[str]) -> None:
    columns, first = user.one("models/*/metrics.csv").read_text().splitlines()[:2]
    assert float(first.split(",")[columns.split(",").index("train/weight_norm")]) > 0


def launcher(user: User, said: list[str]) -> None:
    assert re.search(r"submitted as d\w{11}, d\w{11}; logs in ", said[0])
    assert len(list((user.folder / "outputs" / "debug" / "models").glob("*/training.json"))) == 2


def layout(user: User, said: list[str]) -> None:
    lines = user.one("runs/*/values.csv").read_text().splitlines()
    assert {line.split(",")[0]: float(line.split(",")[1]) for line in lines} == user.metrics["values"]


ITEMS: dict[str, Callable[[User, list[str]], None]] = {
    "metric": metric,
    "features": features,
    "schedule": schedule,
    "solver": solver,
    "spacing": spacing,
    "variance": variance,
    "family": family,
    "network": network,
    "data_set": data,
    "condition": condition,
    "command": command,
    "callback": callback,
    "launcher": launcher,
    "outputs": layout,
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ITEMS)
def test_the_commands_of_a_page_show_what_it_adds(tmp_path, clone, name):
    user = User(tmp_path, clone)
    commands = [line for line in SECTIONS[name].commands if not line.startswith("pytest ")]
    ITEMS[name](user, [user.run(line) for line in commands])


@pytest.mark.thorough
def test_all_pages_together_keep_the_tests_green(clone):
    """Nothing else has to be touched: no list, no table, no test. Each `pytest` line of a page selects some of the tests."""
    clone.pytest("tests/test_architecture.py", "tests/test_readme.py", "-k", "not example and not files_that")
    names = [Path(name).stem for section in SECTIONS.values() for name in section.files if name.startswith("conf/")]
    lines = [shlex.split(line) for section in SECTIONS.values() for line in section.commands if "pytest " in line]
    selected = {(path, tuple(words.split(" and "))) for _, path, _, words in lines}
    words = " or ".join(["by_default", *names, *(f"({' and '.join(words)})" for _, words in selected)])
    said = clone.pytest("tests/commands/test_conf.py", *{path for path, _ in selected}, "-k", words)
    passed = [line for line in said.splitlines() if " PASSED" in line]
    for path, words in selected:
        assert any(line.startswith(path) and all(word in line for word in words) for line in passed), (path, words)


def test_every_page_has_one_or_two_files_and_a_command():
    assert set(SECTIONS) == set(ITEMS)
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
