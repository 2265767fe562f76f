import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from diffusion_lab.store import written
from diffusion_lab.store.files import (
    check_free,
    clear,
    guarded,
    make_folders,
    move,
    name_root,
    remove_staged,
    remove_written,
    whole_file,
    write_folder,
    write_whole,
)
from diffusion_lab.store.written import PlaceError


def in_folder(folder):
    """Files in it, without our record."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in found if not name.endswith(written.FILE)]


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
    assert in_folder(tmp_path) == ["file"]


def test_a_folder_that_is_removed_meanwhile_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="a/file"), whole_file(tmp_path / "a" / "file"):
        shutil.rmtree(tmp_path / "a")


def test_a_place_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch):
    """In /proc making something fails as if its parents were missing."""

    def missing(*_):
        raise FileNotFoundError

    monkeypatch.setattr(os, "mkdir", missing)
    for make in (make_folders, lambda folder: write_folder(folder, {"file": b""})):
        with pytest.raises(PlaceError, match="cannot be made"):
            make(tmp_path / "outputs")


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    write_whole(tmp_path / "file", b"content")
    assert order[:3] == ["fsync", "fsync", "replace"], "the content, the record, the name"


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
        write_whole(theirs / "file", b"new")
    assert (ours / "file").read_bytes() == b"old"
    assert in_folder(ours) == ["file"]
    write_whole(ours / "file", b"new")


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "no space")

    files = {"a": b"1", "inner/b": b"2"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        with pytest.raises(OSError, match="new"):
            write_folder(tmp_path / "new", files)
    assert in_folder(tmp_path) == []
    (tmp_path / "new").mkdir()  # an empty one may be there
    write_folder(tmp_path / "new", files)
    assert in_folder(tmp_path) == ["new/a", "new/inner/b"]
    assert (tmp_path / "new" / "inner" / "b").read_bytes() == b"2"
    with pytest.raises(FileExistsError, match="it already exists"):
        write_folder(tmp_path / "new", {"c": b"3"})
    assert not (tmp_path / "new" / "c").exists()


def test_what_we_wrote_is_replaced_and_what_was_changed_is_kept(tmp_path, capfd):
    path = tmp_path / "metrics.csv"
    write_whole(path, b"1")
    write_whole(path, b"2")
    assert in_folder(tmp_path) == ["metrics.csv"]
    path.write_bytes(b"mine")
    write_whole(path, b"3")
    assert (tmp_path / "yours-metrics.csv").read_bytes() == b"mine"
    assert "yours-metrics.csv" in capfd.readouterr().err
    path.write_bytes(b"too")
    clear(path)
    assert in_folder(tmp_path) == ["yours-metrics.csv", "yours2-metrics.csv"]
    clear(path)
    assert in_folder(tmp_path) == ["yours-metrics.csv", "yours2-metrics.csv"]


@pytest.mark.parametrize("step", ["append", "replace"])
def test_killed_between_record_and_file_both_are_ours(tmp_path, monkeypatch, step):
    class _KilledError(BaseException):
        pass

    def killed(*_):
        raise _KilledError

    path = tmp_path / "file"
    write_whole(path, b"old")
    for _ in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(os if step == "replace" else written, step, killed)
            with pytest.raises(_KilledError):
                write_whole(path, b"new")
    assert written.is_ours(path)
    write_whole(path, b"new")
    assert in_folder(tmp_path) == ["file"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".thesis.final.staged").write_text("mine")
    (tmp_path / ".file.0123abcd.staged").write_text("half")
    folder = tmp_path / ".folder.0123abcd.staged"
    (folder / "inner").mkdir(parents=True)
    with whole_file(tmp_path / "other"):
        remove_staged(tmp_path)
        assert len(list(tmp_path.glob(".other.*"))) == 1, "it is being written"
    assert in_folder(tmp_path) == [".thesis.final.staged", "other"]
    assert not folder.exists()


@pytest.mark.parametrize("write", [lambda at: write_whole(at, b"a"), lambda at: write_folder(at, {"b": b"a"})])
def test_what_is_removed_before_its_lock_is_made_again(tmp_path, monkeypatch, write):
    """Another process may take it for one that a killed process left."""
    lock = fcntl.flock

    def late(descriptor, how):
        monkeypatch.setattr(fcntl, "flock", lock)
        remove_staged(tmp_path)
        assert not list(tmp_path.glob(".*.staged"))
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write(tmp_path / "made")
    assert in_folder(tmp_path)[0] in ("made", "made/b")
    assert not list(tmp_path.glob(".*.staged"))


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to, lambda at, _: os.mkfifo(at)])
def test_a_long_record_is_written_through_no_link(tmp_path, monkeypatch, plant):
    """A link may lie in a folder that comes from somebody else, at any name that we could choose for the copy."""
    monkeypatch.setattr(written, "_LONG", 0)
    folder, precious = tmp_path / "folder", tmp_path / "precious"
    write_whole(folder / "file", b"a")
    precious.write_bytes(b"precious")
    names = [folder / f".{written.FILE}.staged", folder / f".{written.FILE}.00000000.staged"]
    for name in names:
        plant(name, precious)
    with guarded(folder, lambda: None):
        write_whole(folder / "file", b"b")
    assert precious.read_bytes() == b"precious"
    assert not (folder / written.FILE).is_symlink()
    assert written.ours(folder) == [folder / "file"]


@pytest.mark.parametrize("is_held", [True, False])
def test_a_backup_by_hard_links_keeps_its_record(tmp_path, is_held):
    path, backup = tmp_path / "m" / "a", tmp_path / "backup"
    write_whole(path, b"1")
    shutil.copytree(path.parent, backup, copy_function=os.link)
    before = {file.name: file.read_bytes() for file in backup.iterdir()}
    with guarded(path.parent, lambda: None) if is_held else nullcontext():
        write_whole(path, b"2")
        write_whole(path.with_name("b"), b"3")
    assert {file.name: file.read_bytes() for file in backup.iterdir()} == before
    assert written.ours(path.parent) == [path.with_name("b"), path]


def test_a_record_that_cannot_be_read_is_not_erased(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", b"a")
    monkeypatch.setattr(written, "_LONG", 0)
    monkeypatch.setattr(written.Path, "read_bytes", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "error")))
    with guarded(tmp_path, lambda: None), pytest.raises(OSError, match="error"):
        write_whole(tmp_path / "other", b"b")
    monkeypatch.undo()
    assert written.ours(tmp_path) == [tmp_path / "file"]


def test_a_long_record_is_shortened_by_who_holds_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(written, "_LONG", 2000)
    write_whole(tmp_path / "first", b"first")
    with guarded(tmp_path, lambda: None):
        for number in range(50):
            write_whole(tmp_path / "file", b"%d" % number)
    assert (tmp_path / written.FILE).stat().st_size < 3000
    assert written.ours(tmp_path) == [tmp_path / "file", tmp_path / "first"]
    assert in_folder(tmp_path) == ["file", "first"]
    for number in range(50):
        write_whole(tmp_path / "file", b"%d" % number)
    assert (tmp_path / written.FILE).stat().st_size > 3000, "somebody else may write there"


def test_a_file_that_moves_stays_ours(tmp_path):
    path, target = tmp_path / "a" / "log", tmp_path / "b" / "log"
    write_whole(path, b"12")
    move(path, target)
    assert written.ours(target.parent) == [target]
    target.write_bytes(b"13")
    assert not written.is_ours(target)


def test_only_what_we_wrote_and_nobody_changed_is_removed(tmp_path):
    for name in ("a", "b", "inner/c", "inner/d"):
        write_whole(tmp_path / name, b"ours")
    write_whole(tmp_path / "empty" / "e", b"ours")
    (tmp_path / "b").write_bytes(b"mine")
    (tmp_path / "inner" / "mine").write_bytes(b"ours")
    remove_written(tmp_path)
    assert in_folder(tmp_path) == ["b", "inner/mine"]
    assert not (tmp_path / "empty").exists()
    assert list(tmp_path.rglob(written.FILE)) == [tmp_path / written.FILE]


def test_a_copy_that_the_user_made_inside_stays(tmp_path):
    model = tmp_path / "model"
    for name in ("raw", "samples/grid"):
        write_whole(model / name, b"ours")
    for copy, of in {"backup": "", "samples-old": "samples"}.items():
        shutil.copytree(tmp_path / "model" / of, tmp_path / copy)
    for copy in ("backup", "samples-old"):
        shutil.move(tmp_path / copy, model / copy)
    remove_written(model)
    assert in_folder(model) == ["backup/raw", "backup/samples/grid", "samples-old/grid"]


def test_a_users_file_is_refused_before_the_work(tmp_path):
    write_whole(tmp_path / "ours", b"")
    check_free([tmp_path / "ours", tmp_path / "missing"])
    (tmp_path / "mine").mkdir()
    with pytest.raises(PlaceError, match=r"mine was .* another to="):
        check_free([tmp_path / "ours", tmp_path / "mine"])


def test_no_link_leads_out_of_the_folder_that_was_named(tmp_path):
    there, elsewhere, named = (tmp_path / name for name in ("there", "elsewhere", "named"))
    write_whole(elsewhere / "deep" / "file", b"precious")
    there.mkdir()
    named.symlink_to(there)
    name_root(named)
    write_whole(named / "a" / "file", b"ours")
    assert (there / "a" / "file").read_bytes() == b"ours"
    (named / "inside").symlink_to("a")
    write_whole(named / "inside" / "file", b"new")
    (named / "out").symlink_to(elsewhere)
    name_root(named / "out")  # as a default below another folder
    for act in (
        lambda: write_whole(named / "out" / "deep" / "file", b"x"),
        lambda: write_whole(named / "out" / "new", b"x"),
        lambda: make_folders(named / "out" / "new"),
        lambda: clear(named / "out" / "deep" / "file"),
        lambda: remove_written(named / "out"),
        lambda: move(named / "a" / "file", named / "out" / "file"),
        lambda: check_free([named / "out" / "new"]),
        lambda: write_folder(named / "out" / "new", {}),
    ):
        with pytest.raises(PlaceError, match="link"):
            act()
    assert in_folder(elsewhere) == ["deep/file"]
    write_whole(elsewhere / "deep" / "file", b"x")


def test_a_named_folder_below_another_may_be_a_link(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "outputs").symlink_to(tmp_path)
    name_root(tmp_path / "here" / "outputs")
    name_root(tmp_path / "here")  # to=.
    write_whole(tmp_path / "here" / "outputs" / "file", b"ours")
    assert (tmp_path / "file").read_bytes() == b"ours"


@pytest.mark.parametrize("made", [lambda path: path.symlink_to("precious"), os.mkfifo])
def test_a_record_that_is_no_file_is_refused(tmp_path, made):
    (tmp_path / "precious").write_bytes(b"precious")
    made(tmp_path / written.FILE)
    with pytest.raises(PlaceError, match=r"\.written"):
        write_whole(tmp_path / "file", b"")
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["a" * 300, "../precious", "a\0b", {}])
def test_a_record_of_what_no_file_can_be_called(tmp_path, name):
    """Each counts as no record, because it may come from somebody else."""
    write_whole(tmp_path / "folder" / "ours", b"ours")
    (tmp_path / "precious").write_bytes(b"")
    with (tmp_path / "folder" / written.FILE).open("a") as record:
        record.write("\n" + json.dumps({"name": name, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}))
    assert written.names(tmp_path / "folder") == ["ours"]
    remove_written(tmp_path / "folder")
    assert in_folder(tmp_path) == ["precious"]
