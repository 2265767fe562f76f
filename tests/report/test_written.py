"""A report replaces and removes what a report wrote, and nothing that the user put or changed there."""

import json
from contextlib import suppress

import pytest

from diffusion_lab.report import written
from diffusion_lab.report.written import write_report, written_files

PAGE = "report.html"
FIRST = {PAGE: b"first", "table.tex": b"first", "figures/a.png": b"first", "figures/b.pdf": b"first"}
SECOND = {PAGE: b"second", "table.tex": b"second", "figures/a.png": b"second"}


def there(folder):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name != ".report.json"}


def test_the_next_report_replaces_all_of_the_one_before(tmp_path):
    assert write_report(tmp_path, FIRST, PAGE) == []
    assert there(tmp_path) == FIRST
    assert write_report(tmp_path, SECOND, PAGE) == []
    assert there(tmp_path) == SECOND
    assert list(written_files(tmp_path)) == [*SECOND, ".report.json"]


def test_what_the_user_added_or_changed_stays(tmp_path):
    users = {"figures/mine.png": b"mine", "figures/deep/mine.pdf": b"mine", "table.tex": b"mine", "notes.md": b"mine"}
    for name, content in users.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert write_report(tmp_path, FIRST, PAGE) == [tmp_path / "table.tex"]
    assert there(tmp_path) == FIRST | users
    (tmp_path / "figures" / "a.png").write_bytes(b"changed")
    (tmp_path / "figures" / "b.pdf").write_bytes(b"changed")
    assert write_report(tmp_path, SECOND, PAGE) == [tmp_path / "table.tex", tmp_path / "figures" / "a.png"]
    assert there(tmp_path) == {PAGE: b"second", "figures/a.png": b"changed", "figures/b.pdf": b"changed"} | users
    assert list(written_files(tmp_path)) == [PAGE, ".report.json"]
    (tmp_path / "table.tex").unlink()
    write_report(tmp_path, SECOND, PAGE)
    assert (tmp_path / "table.tex").read_bytes() == b"second"


def test_nothing_is_removed_or_overwritten_at_the_end_of_a_link(tmp_path):
    to, elsewhere = tmp_path / "to", tmp_path / "elsewhere"
    write_report(to, FIRST, PAGE)
    (to / "figures").rename(elsewhere)
    (to / "figures").symlink_to(elsewhere)
    (to / "table.tex").rename(elsewhere / "table.tex")
    (to / "table.tex").symlink_to(elsewhere / "table.tex")
    assert write_report(to, {PAGE: b"second", "table.tex": b"second"}, PAGE) == [to / "table.tex"]
    assert there(elsewhere) == {"a.png": b"first", "b.pdf": b"first", "table.tex": b"first"}


@pytest.mark.parametrize(
    "name", ["../outside.png", "/outside.png", "figures/../../outside.png", ".ssh", "linked/x.png"]
)
def test_a_record_from_a_stranger_removes_nothing_else(tmp_path, name):
    outside = tmp_path / "outside.png"
    (tmp_path / "to" / "figures").mkdir(parents=True)
    for file in (outside, tmp_path / "to" / ".ssh", tmp_path / "x.png"):
        file.write_bytes(b"precious")
    (tmp_path / "to" / "linked").symlink_to(tmp_path)
    name = str(outside) if name.startswith("/") else name
    record = {"files": {name: [written._digest(outside)], 7: "x", "a.png": "x"}}
    (tmp_path / "to" / ".report.json").write_text(json.dumps(record))
    write_report(tmp_path / "to", SECOND, PAGE)
    assert [file.read_bytes() for file in (outside, tmp_path / "to" / ".ssh", tmp_path / "x.png")] == [b"precious"] * 3


def test_a_report_that_was_killed_is_made_again(tmp_path, monkeypatch):
    """After any file: the one that follows knows the files of the last report and those of the one that was cut short."""
    for number in range(len(SECOND) + 1):
        folder, left = tmp_path / str(number), number
        write_report(folder, FIRST, PAGE)
        write = written.write_whole

        def until_killed(path, content, write=write):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            write(path, content)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(written, "write_whole", until_killed)
            write_report(folder, SECOND, PAGE)
        assert write_report(folder, SECOND, PAGE) == []
        assert there(folder) == SECOND


def test_a_report_of_a_version_that_kept_no_record_is_replaced_and_strangers_to_it_stay(tmp_path):
    write_report(tmp_path, FIRST, PAGE)
    (tmp_path / ".report.json").unlink()
    assert write_report(tmp_path, SECOND, PAGE) == []
    assert there(tmp_path) == FIRST | SECOND
