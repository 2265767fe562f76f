"""The user's own files that are part of a name."""

import os
import sys

import pytest

from diffusion_lab.config.naming import asked_of_training, name_of
from diffusion_lab.store.own_files import users_files

MINE = """\
from pathlib import Path

import elsewhere
from helper import scale


class Schedule:
    def alpha_bar(self, t):
        import late

        table = Path(__file__).parent / "tables" / f"power_{1}.txt"
        return late.f(scale(t)) ** float(table.read_text()), (Path(__file__).parent / "beside.npy").read_bytes()
"""
FILES = {
    "mine.py": MINE,
    "helper.py": "def scale(t):\n    return 2 * t\n",
    "late.py": "def f(t):\n    return t\n",
    "beside.npy": "12",
    "tables/power_1.txt": "1",
    "betas.txt": "0.1 0.2",
    "package/__init__.py": "from . import watcher\n",
    "package/watcher.py": "from .steps import every\n",
    "package/steps.py": "every = 5\n",
    "../shared/tables/power_2.txt": "1",
    "../other/elsewhere.py": "import deep.down\nONE = 1\n",
    "../other/deep/down.py": "ONE = 1\n",
}
CONFIG = {
    "schedule": {"_target_": "mine.Schedule", "betas": "betas.txt"},
    "callbacks": {"mine": {"_target_": "package.watcher.Watcher"}},
    "outputs": "results",
    "data": {"root": "images", "batch_size": 8},
    "trainer": {"precision": "auto", "devices": 1},
}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with FILES, and a link to a folder beside it; another one is in PYTHONPATH."""
    folder = tmp_path / "work"
    for file, content in FILES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
    (folder / "linked").symlink_to("../shared")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), str(tmp_path / "other"), *sys.path])
    return folder


@pytest.fixture
def name(work):
    """name(config) -> the name of a training of it."""

    def named(config=CONFIG):
        sys.path_importer_cache.clear()  # the next command is another process
        asked = asked_of_training(config)
        return name_of(asked, "data", users_files(asked, config))

    return named


@pytest.mark.parametrize("file", FILES)
def test_an_edit_of_ones_own_files_is_another_training(name, work, file):
    """A schedule, its helper, one imported in a function, tables, a file named in the yaml, a callback's helper by a relative
    import, a table in a linked folder, modules in another folder: also an edit that leaves size and time as they are."""
    before, state = name(), (work / file).stat()
    text = (work / file).read_text()
    (work / file).write_text(text[:-1] + ("9" if text[-1] != "\n" else " "))
    os.utime(work / file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (work / file).stat().st_size == state.st_size
    assert str(name()) != str(before)
    (work / file).write_text(text)
    assert str(name()) == str(before)


@pytest.mark.parametrize(
    "file",
    [
        *("notes.md", "run.log", "slurm-7.out", "look.ipynb", ".hidden/mine.py", ".env", "__pycache__/mine.pyc"),
        *("results/models/x/config.yaml", "outputs/x", "images/1.png", "venv/lib/x.py", "conf/schedule/mine.yaml"),
        *("theirs/notes.txt", "elsewhere/cache/x.safetensors"),
        *("drawn/samples.png", "clone/diffusion_lab/x.py", "large.npy", "empty.txt", "../other/unused.py"),
    ],
)
def test_what_is_no_code_of_ones_own_is_not_in_it(name, work, file):
    """Notes, output, results, environments, data that have an identity, and the lab itself."""
    markers = ("venv/pyvenv.cfg", "drawn/.diffusion-lab", "clone/diffusion_lab/__init__.py")
    for marker in (*markers, "theirs/training.json", "elsewhere/models/x/choices.json"):
        (work / marker).parent.mkdir(parents=True, exist_ok=True)
        (work / marker).write_text("x")
    before = name()
    (work / file).parent.mkdir(parents=True, exist_ok=True)
    (work / file).write_bytes(b"" if file == "empty.txt" else bytes(2**24 + 1) if file == "large.npy" else b"x")
    assert name() == before


def test_links_that_do_not_count(name, work, tmp_path, capsys):
    """To folders that contain them, to the data, and to many files, of which a warning says so once."""
    for number in range(1001):
        (tmp_path / "many" / f"{number % 10}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "many" / f"{number % 10}" / f"{number}.txt").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_text("x")
    config = CONFIG | {"data": {"root": str(tmp_path / "photos")}}
    before = name(config)
    assert "linked/tables/power_2.txt" in before.files
    links = {"here": ".", "up": "..", "shown": "../photos", "all": "../many", "../shared/tables/back": "../../work"}
    for link, target in links.items():
        (work / link).symlink_to(target)
    assert name(config) == before == name(config)
    assert capsys.readouterr().err.count(f"{work / 'all'} leads to more than 1,000 files") == 1
    (tmp_path / "many" / "0" / "0.txt").unlink()
    assert len(name(config).files) == len(before.files) + 1000


def test_only_what_the_config_names_counts(name, work):
    """Without a module of one's own, nothing in the working directory."""
    plain = {"schedule": {"_target_": "diffusion_lab.diffusion.CosineSchedule"}, "trainer": {"precision": "auto"}}
    assert name(plain).files == {}
    assert "package/steps.py" in name({"x": {"_target_": "package.watcher.Watcher"}}).files
    assert set(name({"x": {"_target_": "package.watcher.Watcher"}}).files) == {
        f for f in FILES if f.startswith("package")
    }


def test_places_and_machines_are_not_in_the_name(name, work):
    before = name()
    (work / "moved.txt").write_text(FILES["betas.txt"])
    moved = {**CONFIG, "schedule": {"_target_": "mine.Schedule", "betas": "moved.txt"}}
    (work / "betas.txt").rename(work / "moved.txt")
    assert name(moved).asked == before.asked, "a file counts by its content"
    for key, value in (("outputs", "there"), ("data", {"root": "/other", "batch_size": 8}), ("retrain", True)):
        assert name({**moved, key: value}) == name(moved)
    assert name({**moved, "trainer": {"precision": "auto", "devices": 4, "accelerator": "gpu"}}) == name(moved)
    for key, value in (("variant", "mine"), ("trainer", {"precision": "32-true"}), ("data", {"batch_size": 9})):
        assert str(name({**moved, key: value})) != str(name(moved))
