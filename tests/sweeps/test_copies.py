"""The copy that a sweep runs from: one for one code, and gone when nothing uses it any more."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from diffusion_lab.processes import Process
from diffusion_lab.sweeps.copies import copy_in_use
from diffusion_lab.sweeps.submitted import Submitted
from diffusion_lab.written import PlaceError

ONE, OTHER = {Path("mine.py"): b"x = 1\n", Path("pack/a.py"): b""}, {Path("mine.py"): b"x = 2\n"}


def copied(folder, files, links=None, jobs=None):
    """Made and let go at once."""
    with copy_in_use(folder, files, links or {}, jobs) as copy:
        return copy


def test_a_copy_holds_the_files_and_the_same_files_are_the_same_copy(tmp_path):
    copy = copied(tmp_path / "code", ONE)
    assert copy.is_absolute()
    assert (copy / "mine.py").read_bytes() == b"x = 1\n"
    assert (copy / "pack/a.py").is_file()
    before = (copy / "mine.py").stat().st_ino
    assert copied(tmp_path / "code", dict(reversed(ONE.items()))) == copy
    assert (copy / "mine.py").stat().st_ino == before, "it is not written again"
    assert copied(tmp_path / "other", ONE).name == copy.name
    assert copied(tmp_path / "other", {Path("theirs.py"): b"x = 1\n"}).name != copy.name


def test_what_lies_beside_the_code_is_linked_and_never_removed(tmp_path):
    table = tmp_path / "tables" / "table.txt"
    table.parent.mkdir()
    table.write_text("1")
    copy = copied(tmp_path / "code", ONE, {Path("tables"): table.parent})
    assert (copy / "tables" / "table.txt").read_text() == "1"
    assert copied(tmp_path / "code", ONE, {Path("tables"): table.parent}) == copy
    copied(tmp_path / "code", OTHER)
    assert not copy.exists()
    assert table.read_text() == "1"


def test_an_old_copy_is_removed_when_nothing_uses_it(tmp_path):
    folder, jobs = tmp_path / "code", tmp_path / "jobs"
    jobs.mkdir()
    with copy_in_use(folder, ONE, {}, jobs) as old:
        assert copied(folder, OTHER, jobs=jobs) != old
        assert old.is_dir(), "a command works with it"
    Submitted(("train", "seed=1"), "", str(old), 1).write(jobs, "7")
    copied(folder, OTHER, jobs=jobs)
    assert old.is_dir(), "a job waits in a queue"
    (jobs / "7_0_outcome.json").write_text("{}")
    Submitted(("train", "seed=1"), "", "/elsewhere", 1).write(jobs, "8")
    copied(folder, OTHER, jobs=jobs)
    assert not old.exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_mark_of_a_process_that_may_live_keeps_a_copy(tmp_path, there):
    with copy_in_use(tmp_path, ONE, {}, None) as old:
        (mark,) = old.glob(".in_use/*.json")
        me = Process.current()
        dead = replace(me, started="never")
        mark.write_text(json.dumps(asdict(replace(me, machine="another") if there else dead)))
        copied(tmp_path, OTHER)
        assert old.is_dir() == there


@pytest.mark.parametrize("name", ["mine.py", "torch.py", "torch.so", "pack/torch.pyc", ""])
def test_a_strangers_copy_is_refused(tmp_path, name):
    """A folder that somebody put there beforehand under the name of our code, which is predictable."""
    copy = copied(tmp_path / "code", ONE)
    if name:
        (copy / name).write_bytes(b"harm()\n")
    else:
        copy.rename(tmp_path / "theirs")
        copy.symlink_to(tmp_path / "theirs")
    with pytest.raises(PlaceError, match="was changed, or not written by diffusion-lab"):
        copied(tmp_path / "code", ONE)
    assert not name or (copy / name).is_file()


def test_no_links_and_compiled_code_of_a_stranger_stay(tmp_path):
    copy = copied(tmp_path / "code", ONE)
    (tmp_path / "theirs").mkdir()
    (copy / "torch").symlink_to(tmp_path / "theirs")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "mine.cpython-311.pyc").write_bytes(b"harm")
    (copy / "table.txt").write_text("what a module of the user's writes beside itself")
    assert copied(tmp_path / "code", ONE) == copy
    assert not [*copy.rglob("*.pyc"), *copy.glob("torch*")]
    assert (copy / "table.txt").is_file()


def test_half_a_copy_is_none(tmp_path):
    with pytest.raises(OSError, match=r"mine\.py"):
        copied(tmp_path, {Path("a.py"): b"", Path("mine.py"): b"", Path("mine.py/b.py"): b""})
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert [path.name for path in copied(tmp_path, ONE).iterdir() if path.is_file()] == ["mine.py"]
    assert not list(tmp_path.glob(".*.staged"))
