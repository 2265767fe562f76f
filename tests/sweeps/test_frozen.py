"""The copy that jobs of a cluster run from; that they do is in tests/commands/test_slurm.py."""

import os
import subprocess
import sys

import pytest

from diffusion_lab.store import RunError
from diffusion_lab.store.own_files import COPY, digests_of, users_files
from diffusion_lab.sweeps import frozen
from diffusion_lab.sweeps.frozen import make_copy, shell


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made() -> a copy of a package of one file, of mine.py and its table."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "a.py").write_text("x = 1\n")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.py").write_text("PLACE = __file__\n")
    (tmp_path / "work" / "table.txt").write_text("1")
    monkeypatch.setattr(frozen, "PACKAGE", tmp_path / "lab")
    monkeypatch.setattr(frozen, "CONF", tmp_path / "lab")
    work = tmp_path / "work"
    return lambda: make_copy(tmp_path / "code", {work: {work / "mine.py", work / "table.txt"}})


def test_a_copy_holds_the_lab_and_the_users_files(made, tmp_path):
    copy = made()
    assert (copy / "diffusion_lab" / "a.py").read_text() == "x = 1\n"
    assert (copy / "diffusion_lab" / "conf" / "a.py").is_file()
    assert (copy / "hydra_plugins" / "diffusion_lab_sweeper" / "train_once.py").is_file()
    assert (copy / "users" / "000" / "table.txt").read_text() == "1"
    assert made() == copy
    (tmp_path / "work" / "mine.py").write_text("")
    assert made() != copy
    assert (copy / "users" / "000" / "mine.py").read_text()


def test_what_is_beside_ones_files_is_found_from_the_copy(made, tmp_path):
    (tmp_path / "work" / "images").mkdir()
    (tmp_path / "work" / "images" / "1.png").write_bytes(b"1")
    images = made() / "users" / "000" / "images"
    assert images.is_symlink()
    assert (images / "1.png").is_file()


def test_the_same_files_count_in_the_copy(tmp_path, monkeypatch):
    """Also those of a linked folder; a large one and a link to many are found from the copy and do not count."""
    monkeypatch.setattr(frozen, "PACKAGE", tmp_path / "none")
    monkeypatch.setattr(frozen, "CONF", tmp_path / "none")
    work, shared, many = tmp_path / "work", tmp_path / "shared" / "deep", tmp_path / "many"
    for folder in (work, shared, many):
        folder.mkdir(parents=True)
    (work / "linking.py").write_text("")
    (shared / "table.txt").write_text("1")
    (shared.parent / "large.npy").write_bytes(bytes(2**24 + 1))
    for number in range(1001):
        (many / f"{number}.txt").write_text("1")
    for link in ("shared", "many"):
        (work / link).symlink_to(f"../{link}")
    (shared / "back").symlink_to("../../work")

    def files(folder):
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        return users_files({"x": "linking.X"}, {})

    outside = files(work)
    assert {*digests_of(outside)} == {"linking.py", "shared/deep/table.txt"}
    copy = make_copy(tmp_path / "code", outside)
    monkeypatch.setenv(COPY, str(copy))
    inside = copy / "users" / "000"
    assert digests_of(files(inside)) == digests_of(outside)
    assert (inside / "shared" / "large.npy").stat().st_size == 2**24 + 1
    assert (inside / "many" / "1000.txt").is_file()


def test_python_imports_from_the_copy(made, tmp_path):
    copy = made()
    script = "\n".join([*shell(copy), f"{sys.executable} -c 'import mine; print(mine.PLACE)'"])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "work")}
    said = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "work", env=environment, capture_output=True, text=True
    )
    assert said.stdout.strip() == str(copy / "users" / "000" / "mine.py"), said.stderr
    with pytest.raises(RunError, match="without :"):
        shell(tmp_path / "a:b")


def test_half_a_copy_is_none(made, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        made()
    assert [path.name for path in (tmp_path / "code").iterdir() if not path.name.startswith(".")] == []
