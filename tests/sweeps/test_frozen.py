"""The copy that a sweep runs from: what is in it, and how long it stays."""

import os
import sys

import pytest

from diffusion_lab.store.lock import hold
from diffusion_lab.store.records import RunError
from diffusion_lab.sweeps import frozen
from diffusion_lab.sweeps.frozen import StartAgain, check_copy, make_copy, unused_copies, using_copy
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
        work = tmp_path / "work"
        copy = make_copy(tmp_path / "code", {work: {work / "mine.py", work / "table.txt"}}, [tmp_path / "my_configs"])
        if old:
            os.utime(copy, (0, 0))
        return copy

    return make


def test_a_copy_holds_the_lab_the_users_modules_and_configs(made, tmp_path):
    copy = made()
    assert (copy / "diffusion_lab" / "a.py").read_text() == "x = 1\n"
    assert (copy / "diffusion_lab" / "conf" / "a.py").is_file()
    assert (copy / "hydra_plugins" / "diffusion_lab_sweeper" / "train_once.py").is_file()
    assert (copy / "users" / "000" / "mine.py").is_file()
    assert (copy / "users" / "000" / "table.txt").read_text() == "1"
    (tmp_path / "work" / "mine.py").write_text("")
    assert (copy / "users" / "000" / "mine.py").read_text()
    assert made() != copy


def test_what_is_beside_ones_files_is_found_from_the_copy(made, tmp_path):
    """What counts is copied; a large table or a folder of images is linked."""
    (tmp_path / "work" / "images").mkdir()
    (tmp_path / "work" / "images" / "1.png").write_bytes(b"1")
    copy = made()
    assert (copy / "users" / "000" / "images").is_symlink()
    assert (copy / "users" / "000" / "images" / "1.png").is_file()


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
    path = os.pathsep.join([str(copy), str(copy / "users" / "000"), "there"])
    assert os.environ == {frozen.VARIABLE: str(copy), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


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


def test_half_a_copy_is_none(made, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        made()
    assert [path.name for path in (tmp_path / "code").iterdir() if not path.name.startswith(".")] == []
