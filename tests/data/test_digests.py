"""The second start reads no file again, unless something says that it may have changed."""

import os
import time
from pathlib import Path

import pytest

from diffusion_lab.data import DataError, image_files, image_folder
from diffusion_lab.data.image_folder import ImageFolder


@pytest.fixture
def checked(image_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, as they are; time has passed since they were written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clock = time.time
    monkeypatch.setattr(image_files.time, "time", lambda: clock() + 10)
    names: list[str] = []
    check = image_folder.check_image

    def watched(path: Path, *arguments) -> None:
        names.append(path.name)
        check(path, *arguments)

    monkeypatch.setattr(image_folder, "check_image", watched)
    return names


def identity(root: Path, **options) -> str:
    data = ImageFolder(4, 0, str(root), image_size=8, num_workers=0, **options)
    data.prepare()
    return data.identity


def test_a_second_start_reads_nothing_and_says_the_same(image_root: Path, checked: list[str]) -> None:
    first = identity(image_root)
    assert len(checked) == 20
    checked.clear()
    assert identity(image_root) == first
    assert checked == []


def test_a_file_that_may_have_changed_is_read_again(image_root: Path, checked: list[str]) -> None:
    first = identity(image_root)
    checked.clear()
    path = image_root / "ants" / "02.bmp"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time of change as they were
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert identity(image_root) != first
    assert checked == ["02.bmp"]


def test_a_file_put_in_anothers_place_is_read_again(image_root: Path, checked: list[str]) -> None:
    first = identity(image_root)
    checked.clear()
    os.replace(image_root / "ants" / "00.png", image_root / "ants" / "08.gif")
    assert identity(image_root) != first
    assert checked == ["08.gif"]


def test_a_broken_file_is_never_remembered_and_the_good_ones_are(image_root: Path, checked: list[str]) -> None:
    (image_root / "ants" / "zz.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"zz\.png"):
        identity(image_root)
    first = identity(image_root, on_error="skip")  # reads what the error left unread
    checked.clear()
    assert identity(image_root, on_error="skip") == first
    assert checked == ["zz.png"]


def test_what_was_just_written_is_not_remembered(image_root: Path, checked: list[str], monkeypatch) -> None:
    monkeypatch.setattr(image_files, "_SETTLED_SECONDS", 60.0)
    identity(image_root)
    identity(image_root)
    assert len(checked) == 40


def test_other_rules_forget_what_was_allowed(image_root: Path, checked: list[str]) -> None:
    identity(image_root)
    with pytest.raises(DataError, match=r"more than data\.max_pixels=100"):
        identity(image_root, max_pixels=100)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_broken_memory_is_no_memory(image_root: Path, checked: list[str], tmp_path: Path, content: bytes) -> None:
    first = identity(image_root)
    (memory,) = (tmp_path / "cache").rglob("*.json")
    memory.write_bytes(content)
    checked.clear()
    assert identity(image_root) == first
    assert len(checked) == 20


def test_a_cache_folder_that_cannot_be_written_only_costs_time(
    image_root: Path, checked: list[str], monkeypatch
) -> None:
    (image_root / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(image_root / "file"))
    assert identity(image_root) == identity(image_root)
