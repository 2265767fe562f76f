"""A report replaces and removes what a report wrote, and nothing that the user put or changed there."""

import hashlib
import json
from contextlib import suppress

import pytest

from diffusion_lab.report import make as written
from diffusion_lab.report.make import report_files, write_report
from diffusion_lab.store import written as record

PAGE = "report.html"
FIRST = {PAGE: b"first", "table.tex": b"first", "figures/a.png": b"first", "figures/b.pdf": b"first"}
SECOND = {PAGE: b"second", "table.tex": b"second", "figures/a.png": b"second"}


def there(folder):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if not name.endswith(record.FILE)}


def moved(folder, contents):
    """Which files of a report went beside the user's."""
    return {name: path.name for name, path in write_report(folder, contents).items() if path != folder / name}


def test_the_next_report_replaces_all_of_the_one_before(tmp_path):
    assert moved(tmp_path, FIRST) == {}
    assert there(tmp_path) == FIRST
    assert moved(tmp_path, SECOND) == {}
    assert there(tmp_path) == SECOND
    assert report_files(tmp_path).keys() == SECOND.keys()


def test_what_the_user_added_or_changed_stays(tmp_path):
    users = {"figures/mine.png": b"mine", "figures/deep/mine.pdf": b"mine", "table.tex": b"mine", "notes.md": b"mine"}
    for name, content in users.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert moved(tmp_path, FIRST) == {"table.tex": "table.new.tex"}
    assert there(tmp_path) == FIRST | users | {"table.new.tex": b"first"}
    (tmp_path / "figures" / "a.png").write_bytes(b"changed")
    (tmp_path / "figures" / "b.pdf").write_bytes(b"changed")
    (tmp_path / "table.new.tex").write_bytes(b"changed")
    assert moved(tmp_path, SECOND) == {"table.tex": "table.new2.tex", "figures/a.png": "a.new.png"}
    changed = dict.fromkeys(("figures/a.png", "figures/b.pdf", "table.new.tex"), b"changed")
    ours = {PAGE: b"second", "figures/a.new.png": b"second", "table.new2.tex": b"second"}
    assert there(tmp_path) == ours | changed | users
    assert report_files(tmp_path).keys() == ours.keys()
    (tmp_path / "table.tex").unlink()
    assert moved(tmp_path, SECOND) == {"figures/a.png": "a.new.png"}
    assert there(tmp_path)["table.tex"] == b"second"


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_report_without_our_record_is_the_users(tmp_path, content):
    write_report(tmp_path, FIRST)
    for folder in (tmp_path, tmp_path / "figures"):
        (folder / record.FILE).unlink()
        if content is not None:
            (folder / record.FILE).write_bytes(content)
    assert moved(tmp_path, SECOND)[PAGE] == "report.new.html"
    assert FIRST.items() <= there(tmp_path).items()


@pytest.mark.parametrize("name", ["../outside.png", "outside.png", ".", "linked"])
def test_a_record_from_a_stranger_removes_nothing_else(tmp_path, name):
    outside, to = tmp_path / "outside.png", tmp_path / "to"
    (to / "figures").mkdir(parents=True)
    for file in (outside, to / ".ssh", to / "figures" / ".thesis.final.staged"):
        file.write_bytes(b"precious")
    (to / "figures" / "linked").symlink_to(outside)
    name = str(outside) if name == "outside.png" else name
    digest = hashlib.sha256(b"precious").hexdigest()
    lines = [{"name": name, "size": 8, "sha256": digest}, 7, {}]
    (to / "figures" / record.FILE).write_text("\n".join(map(json.dumps, lines)))
    write_report(to, SECOND)
    for file in (outside, to / ".ssh", to / "figures" / ".thesis.final.staged", to / "figures" / "linked"):
        assert file.read_bytes() == b"precious"


def test_a_report_that_was_killed_is_made_again(tmp_path, monkeypatch):
    """After any file: the one that follows knows the files of the last report and those of the one that was cut short."""
    for number in range(len(SECOND) + 1):
        folder, left = tmp_path / str(number), number
        write_report(folder, FIRST)
        write = written.write_whole

        def until_killed(path, content, write=write):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            write(path, content)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(written, "write_whole", until_killed)
            write_report(folder, SECOND)
        (folder / "figures" / ".a.png.0123abcd.staged").write_bytes(b"half")
        assert moved(folder, SECOND) == {}
        assert there(folder) == SECOND
