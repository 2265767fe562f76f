"""CONTRIBUTING.md says for every common change which files to touch, at most two, and each of its ways leads there.

Each section names files, followed by what they hold (a diff, where a file is there already), and commands that show it at work.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
STYLE = "Style"
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


def sections() -> dict[str, Section]:
    """The sections on a change; that on style is none."""
    found = {}
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        files = re.findall(r"^`([^`\n]+)`:\n\n```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        commands = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        found[title] = Section(
            {path: (language, content) for path, language, content in files},
            [line for block in commands for line in block.splitlines()],
        )
    del found[STYLE]
    return found


def changed(text: str, diff: str) -> str:
    """`text` after a diff whose parts, divided by @@, have each one place in it."""
    for part in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = [(line[:1], line[1:]) for line in part.splitlines()]
        old, new = ("".join(f"{line}\n" for sign, line in lines if sign != left) for left in ("+", "-"))
        assert text.count(old) == 1, f"not in one place: {old}"
        text = text.replace(old, new)
    return text


SECTIONS = sections()


class Copy:
    """A copy of the repository, in which commands are run as in a clone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.folder / name)
            else:
                shutil.copy2(ROOT / name, self.folder / name)
        (self.folder / "outputs").mkdir()
        shutil.copy2(ROOT / "outputs" / "README.md", self.folder / "outputs")
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.program("diffusion-lab", f'exec "{sys.executable}" -m diffusion_lab "$@"')
        self.program("pytest", f'exec "{sys.executable}" -m pytest -n 0 -q -p no:cacheprovider "$@"')

    def program(self, name: str, script: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def run(self, command: str) -> str:
        """What it prints; it must succeed."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DIFFUSION_", "PYTEST_"))}
        environment |= {
            "PYTHONPATH": str(self.folder),
            "PATH": f"{self.programs}{os.pathsep}{environment['PATH']}",
            "COLUMNS": "120",
            "OMP_NUM_THREADS": "1",
            "HYDRA_FULL_ERROR": "0",
        }
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

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


def metric(copy: Copy, said: list[str]) -> None:
    assert re.search(r"\d\.\d+", row(said[0], "contrast"))
    assert copy.metrics["values"]["contrast"] > 0


def features(copy: Copy, said: list[str]) -> None:
    assert re.search(r"\d\.\d+", row(said[0], "fd_profiles"))
    assert copy.metrics["protocol"]["features"]["name"] == "profiles"


def schedule(copy: Copy, said: list[str]) -> None:
    assert "LaplaceSchedule(num_timesteps=1000, scale=1.0)" in said[0]
    assert (copy.folder / "schedule" / "schedule.png").is_file()


def solver(copy: Copy, said: list[str]) -> None:
    assert copy.metrics["values"]["nfe"] == 10
    assert "AdamsSampler" in copy.metrics["protocol"]["model"]["sampler"]


def spacing(copy: Copy, said: list[str]) -> None:
    assert "the sampler visits 7 of 1000 steps" in said[0]


def variance(copy: Copy, said: list[str]) -> None:
    assert "FixedMiddle" in json.dumps(copy.metrics["protocol"])
    assert copy.metrics["values"]["bits_per_dim"] > 0


def family(copy: Copy, said: list[str]) -> None:
    assert copy.metrics["protocol"]["model"]["family"] == "energy_score"
    assert copy.metrics["values"]["nfe"] == 1
    assert copy.one("runs/*/samples.png").stat().st_size > 0


def network(copy: Copy, said: list[str]) -> None:
    assert "diffusion with 65,218 parameters" in said[0]
    assert "networks.plain.PlainNetwork" in copy.one("models/*/config.yaml").read_text()


def data(copy: Copy, said: list[str]) -> None:
    assert copy.one("models/*").name.startswith("spiral-diffusion-")


def command(copy: Copy, said: list[str]) -> None:
    assert "  models     the trained models in outputs/, with what their training took\n" in said[0]
    assert said[2] == f"{copy.one('models/*').name}  1 steps  0.0 minutes\n"


def callback(copy: Copy, said: list[str]) -> None:
    columns, first = copy.one("models/*/metrics.csv").read_text().splitlines()[:2]
    assert float(first.split(",")[columns.split(",").index("train/weight_norm")]) > 0


def launcher(copy: Copy, said: list[str]) -> None:
    assert re.search(r"submitted as d\w{11}, d\w{11}; logs in ", said[0])
    assert len(list((copy.folder / "outputs" / "debug" / "models").glob("*/training.json"))) == 2


def layout(copy: Copy, said: list[str]) -> None:
    lines = copy.one("runs/*/values.csv").read_text().splitlines()
    assert {line.split(",")[0]: float(line.split(",")[1]) for line in lines} == copy.metrics["values"]


ITEMS: dict[str, Callable[[Copy, list[str]], None]] = {
    "A metric": metric,
    "Features": features,
    "A schedule": schedule,
    "A solver": solver,
    "A spacing": spacing,
    "A variance": variance,
    "A family": family,
    "A network": network,
    "A data set": data,
    "A command": command,
    "A callback": callback,
    "A launcher": launcher,
    "The layout of outputs": layout,
}


@pytest.mark.thorough
@pytest.mark.parametrize("title", ITEMS)
def test_the_page_leads_there_by_its_own_words(tmp_path, title):
    copy = Copy(tmp_path)
    copy.program("qsub", QSUB)
    copy.program("qselect", "")
    SECTIONS[title].write(copy.folder)
    ITEMS[title](copy, [copy.run(line) for line in SECTIONS[title].commands])


@pytest.mark.thorough
def test_all_of_it_together_leaves_the_tests_of_the_house_green(tmp_path):
    """Nothing else has to be touched: no list, no table, no test."""
    copy = Copy(tmp_path)
    for section in SECTIONS.values():
        section.write(copy.folder)
    copy.run("pytest tests/test_architecture.py tests/test_readme.py -k 'not example and not files_that'")
    names = [Path(name).stem for section in SECTIONS.values() for name in section.files if name.startswith("conf/")]
    copy.run(f"pytest tests/commands/test_conf.py -k '{' or '.join([*names, 'by_default'])}'")


def test_every_common_change_has_its_section_with_at_most_two_files_and_a_command():
    assert set(SECTIONS) == set(ITEMS)
    for title, section in SECTIONS.items():
        assert 1 <= len(section.files) <= 2, title
        assert any(line.startswith("diffusion-lab ") for line in section.commands), title
    links = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    assert {title.lower().replace(" ", "-") for title in (*SECTIONS, STYLE)} == set(links)


def test_files_that_the_page_names_are_there_or_written_by_it():
    written = {name for section in SECTIONS.values() for name in section.files}
    named = set(re.findall(r"\b((?:diffusion_lab|conf|hydra_plugins|tests|outputs|runs|\.ci)/[\w/.]+\.\w+)", PAGE))
    named |= set(re.findall(r"\]\(([\w/.]+)(?:#[\w-]+)?\)", PAGE))
    assert len(named) > len(written) > 20
    for name in named - written:
        assert (ROOT / name).exists() or (ROOT / "diffusion_lab" / name).exists(), name


@pytest.mark.parametrize("title", ITEMS)
def test_what_the_page_writes_can_be_read_and_its_yaml_names_its_class(title):
    files = SECTIONS[title].files
    classes, targets = set(), set()
    for name, (language, content) in files.items():
        if language == "python":
            module = name.removesuffix(".py").replace("/", ".")
            nodes = ast.parse(content).body
            classes |= {f"{module}.{node.name}" for node in nodes if isinstance(node, ast.ClassDef)}
        elif language == "yaml":
            yaml.safe_load(content)
            targets |= set(re.findall(r"_target_: (\S+)", content))
        else:
            assert changed((ROOT / name).read_text(), content)
    assert bool(targets & classes) == bool(targets)
