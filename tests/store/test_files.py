"""Files appear whole or not at all, and a folder of the user's is left as it is."""

import errno
import os
import shutil
import stat

import pytest

from diffusion_lab.store.files import (
    MARKER,
    PlaceError,
    begin_folder,
    check_file,
    check_folder,
    make_folders,
    remove_staged,
    whole_file,
    whole_folder,
    write_whole,
)


def in_folder(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match=r"disk full.*file"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert in_folder(tmp_path) == ["file"]


def test_an_error_about_another_file_names_that_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"), whole_file(tmp_path / "file") as file:
        file.write((tmp_path / "missing").read_bytes())
    assert in_folder(tmp_path) == []


def test_a_folder_that_is_removed_meanwhile_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="a/file"), whole_file(tmp_path / "a" / "file"):
        shutil.rmtree(tmp_path / "a")


def test_a_place_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch):
    """In /proc making something fails as if its parents were missing."""

    def missing(*_):
        raise FileNotFoundError

    monkeypatch.setattr(os, "mkdir", missing)
    with pytest.raises(PlaceError, match="cannot be made"):
        make_folders(tmp_path / "outputs")


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    write_whole(tmp_path / "file", b"content")
    assert order == ["fsync", "replace"]


def test_others_may_read_it_as_the_umask_says(tmp_path):
    write_whole(tmp_path / "file", b"")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_file_before_stays_beside_the_newest(tmp_path):
    for content in (b"1", b"2", b"3"):
        with whole_file(tmp_path / "new", previous=tmp_path / "old") as file:
            file.write(content)
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "new").read_bytes()) == (b"2", b"3")


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "no space")

    def write(folder):
        with whole_folder(folder) as staged:
            (staged / "a").write_bytes(b"1")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        with pytest.raises(OSError, match="new"):
            write(tmp_path / "new")
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "new").mkdir()  # an empty one may be there
    write(tmp_path / "new")
    assert in_folder(tmp_path) == ["new/a"]
    with pytest.raises(FileExistsError, match="it already exists"):
        write(tmp_path / "new")


def test_what_a_killed_process_left_is_removed(tmp_path):
    with whole_file(tmp_path / "file"):
        (staged,) = tmp_path.iterdir()
        shutil.copy(staged, f"{staged}ed.staged")  # as if no block had ended
    (tmp_path / "file").unlink()
    (tmp_path / ".file.89abcdef.staged").mkdir()
    (tmp_path / "mine.staged").touch()
    remove_staged(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.staged"]


def test_a_folder_of_the_users_is_left_as_it_is(tmp_path):
    """A command writes into a new or an empty folder, and into its own: there it replaces these files and touches no other."""
    folder = tmp_path / "to"
    check_folder(folder, "sample")
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(PlaceError, match=r"holds files that diffusion-lab sample did not write"):
        check_folder(folder, "sample")
    (folder / "mine").unlink()
    for names in (("a", "b"), ("b", "c")):
        check_folder(folder, "sample")
        begin_folder(folder, "sample", names)
        for name in names:
            write_whole(folder / name, b"")
        (folder / "mine").write_text("mine")
    assert in_folder(folder) == [MARKER, "a", "b", "c", "mine"]
    with pytest.raises(PlaceError, match="did not write"):
        check_folder(folder, "report")
    for place in (check_file, lambda path: check_folder(path, "sample")):
        with pytest.raises(PlaceError, match="mine"):
            place(folder / "mine")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"command": "sample", "files": ["../kept", "/kept"]}', b"\xff"])
def test_a_marker_of_somebody_else_leads_nowhere(tmp_path, content):
    folder = tmp_path / "to"
    folder.mkdir()
    (tmp_path / "kept").touch()
    (folder / MARKER).write_bytes(content)
    begin_folder(folder, "sample", ["a"])
    assert (tmp_path / "kept").is_file()
