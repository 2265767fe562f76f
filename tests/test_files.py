import errno
import os
import stat

import pytest

from diffusion_lab.files import check_guards, guarded, write_folder, write_whole


def test_writes_and_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    write_whole(tmp_path / "file", b"content")
    assert order[:2] == ["fsync", "replace"]


def test_others_may_read_it_as_the_umask_says(tmp_path):
    write_whole(tmp_path / "file", b"")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_guard_sees_every_file_before_it_appears_in_its_folder_and_may_refuse(tmp_path):
    class NoError(Exception):
        pass

    def refuse():
        raise NoError

    ours, theirs = tmp_path / "ours", tmp_path / "ours too"
    write_whole(ours / "file", b"old")
    with guarded(ours, refuse):
        for path in (ours / "file", ours / "deep" / "down"):
            with pytest.raises(NoError):
                write_whole(path, b"new")
            with pytest.raises(NoError):
                check_guards(path)
        write_whole(theirs / "file", b"new")
    assert (ours / "file").read_bytes() == b"old"
    assert [path for path in ours.rglob("*") if path.is_file()] == [ours / "file"]
    write_whole(ours / "file", b"new")


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    files = {"a": b"1", "inner/b": b"2"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        with pytest.raises(OSError, match="new"):
            write_folder(tmp_path / "new", files)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()  # an empty one may be there
    write_folder(tmp_path / "new", files)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {"a": b"1", "b": b"2"}
    with pytest.raises(FileExistsError, match="it already exists"):
        write_folder(tmp_path / "new", {"c": b"3"})
    assert not (tmp_path / "new" / "c").exists()


def fails(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space")
