"""The copy that a sweep runs from: what is in it, and how long it stays."""

import os
import sys
from pathlib import Path

import pytest
from diffusion_lab.store.fingerprints import Code, Scope

from diffusion_lab.store.lock import hold
from diffusion_lab.store.records import RunError
from diffusion_lab.sweeps import frozen
from diffusion_lab.sweeps.frozen import StartAgain, check_copy, make_copy, remove_copy, unused_copies, using_copy
from diffusion_lab.sweeps.jobs import Submitted


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made() -> a new copy of a package of one file, of mine.py, and of my_configs; as old as if its command had started."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "a.py").write_text("x = 1\n")
    (tmp_path / "my_configs" / "schedule").mkdir(parents=True)
    (tmp_path / "my_configs" / "schedule" / "mine.yaml").write_text("{}")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.py").write_text("PLACE = __file__\n")
    (tmp_path / "work" / "table.txt").write_text("1")
    monkeypatch.setattr(frozen, "_PACKAGE", tmp_path / "lab")
    monkeypatch.setattr(frozen, "CONF", tmp_path / "lab")

    def make(old=True):
        code = Code([str(tmp_path / "work")])
        code.module("mine")
        copy = make_copy(tmp_path / "code", code.modules(), [tmp_path / "my_configs"])
        if old:
            os.utime(copy, (0, 0))
        return copy

    return make


def test_a_copy_holds_the_lab_the_users_modules_and_configs(made, tmp_path):
    copy = made()
    assert (copy / "diffusion_lab" / "a.py").read_text() == "x = 1\n"
    assert (copy / "diffusion_lab" / "conf" / "a.py").is_file()
    assert (copy / "hydra_plugins" / "diffusion_lab_sweeper" / "train_once.py").is_file()
    assert (copy / "mine.py").is_file()
    assert (copy / "table.txt").read_text() == "1"
    (tmp_path / "work" / "mine.py").write_text("")
    assert (copy / "mine.py").read_text()
    assert made() != copy


def test_a_users_package_is_copied_with_all_of_its_code(tmp_path):
    """It may find its modules while it runs, as a registry does; data beside them is still found."""
    package, outputs = tmp_path / "mine", tmp_path / "mine" / "outputs"
    (package / "parts").mkdir(parents=True)
    (package / "data").mkdir()
    for name in ("__init__.py", "net.py", "parts/__init__.py", "parts/found.py", "parts/gone.py", "data/tool.py"):
        (package / name).write_text("PLACE = __file__\n")
    (package / "data" / "table.txt").write_text("1")
    (package / "parts" / "gone.py").unlink()
    (package / "parts" / "gone.py").symlink_to("nowhere")
    code = Code([str(tmp_path)])
    code.reached(["mine.net.Net"], Scope())
    copy = make_copy(outputs / "code", code.modules(), [])
    assert (copy / "mine" / "parts" / "found.py").is_file()
    assert not os.path.lexists(copy / "mine" / "parts" / "gone.py")
    assert (copy / "mine" / "data" / "table.txt").read_text() == "1"
    assert not os.path.lexists(copy / "mine" / "outputs")


def test_a_copy_that_python_did_not_start_from_is_refused(monkeypatch, tmp_path):
    """PYTHONPATH cannot hold a folder with a colon in its name."""
    monkeypatch.setenv(frozen.VARIABLE, str(tmp_path / "a:b"))
    with pytest.raises(RunError, match="did not start from the copy"):
        check_copy()
    monkeypatch.setenv(frozen.VARIABLE, str(frozen._PACKAGE.parent))
    check_copy()


def test_the_command_starts_again_with_the_copied_folders(made, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    monkeypatch.setattr(os, "environ", {"PYTHONPATH": "there"})
    monkeypatch.chdir(tmp_path)
    copy = made()
    searched = f"hydra.searchpath=[file://{tmp_path}/my_configs,pkg://x]"
    StartAgain(copy).start("train", ["-m", "--config-dir", "my_configs", searched, "seed=1,2"])
    mine = copy / "configs" / tmp_path.relative_to("/") / "my_configs"
    assert (mine / "schedule" / "mine.yaml").is_file()
    moved = ["-m", "--config-dir", str(mine), f"hydra.searchpath=[file://{mine},pkg://x]", "seed=1,2"]
    assert started == [[sys.executable, "-m", "diffusion_lab", "train", *moved]]
    assert os.environ == {frozen.VARIABLE: str(copy), "PYTHONPATH": f"{copy}{os.pathsep}there", "PYTHONSAFEPATH": "1"}


def test_a_copy_stays_as_long_as_something_uses_it(made, tmp_path, monkeypatch):
    folder, jobs = tmp_path / "code", tmp_path / "jobs"
    copy = made(old=False)
    assert unused_copies(folder, jobs) == [], "its command is starting"
    os.utime(copy, (0, 0))
    assert unused_copies(folder, jobs) == [copy]
    Submitted(("m", "r"), "", str(copy), 1).write(jobs, "7")
    assert unused_copies(folder, jobs) == [], "a job waits in a queue"
    (tmp_path / "link").symlink_to(tmp_path)
    assert unused_copies(tmp_path / "link" / "code", jobs) == [], "the same, by another path"
    (jobs / "7_0_outcome.json").write_text("{}")
    with hold(copy, print):
        assert unused_copies(folder, jobs) == [], "a command works with it"
    os.utime(copy, (0, 0))
    monkeypatch.setenv(frozen.VARIABLE, str(made()))
    with using_copy(jobs):
        assert not copy.exists()
    assert (tmp_path / "work" / "table.txt").is_file(), "a link to it was removed"


def test_a_copy_with_a_file_of_the_users_stays(made, tmp_path):
    copy = made()
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "mine.cpython-311.pyc").write_bytes(b"")
    os.utime(copy, (0, 0))
    assert unused_copies(copy.parent, tmp_path / "jobs") == [copy]
    (copy / "notes.txt").write_text("mine")
    os.utime(copy, (0, 0))
    assert unused_copies(copy.parent, tmp_path / "jobs") == []
    assert not remove_copy(copy, tmp_path / "jobs")
    (copy / "notes.txt").unlink()
    os.utime(copy, (0, 0))
    assert remove_copy(copy, tmp_path / "jobs")
    assert not copy.exists()


def test_half_a_copy_is_none(made, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        made()
    assert [path.name for path in (tmp_path / "code").iterdir() if not path.name.startswith(".")] == []
