"""status.json: how work ended, in its own words."""

import json
import signal

import pytest

from diffusion_lab.store.files import PlaceError
from diffusion_lab.store.status_file import DONE, FAILED, FILE, INTERRUPTED, Announcement, read_status


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (ValueError("two\nlines"), FAILED, "two lines"),
        (ValueError(), FAILED, "ValueError"),
        (KeyboardInterrupt(), INTERRUPTED, "KeyboardInterrupt"),
        (SystemExit("said"), INTERRUPTED, "said"),
        (SystemExit(128 + signal.SIGTERM), INTERRUPTED, "SIGTERM; run the same command again to resume"),
        (SystemExit(128 + signal.SIGUSR2), INTERRUPTED, "SIGUSR2; run the same command again to resume"),
    ],
)
def test_what_ends_work_says_why(tmp_path, error, state, reason):
    with pytest.raises(type(error)), Announcement(tmp_path):
        raise error
    status = read_status(tmp_path)
    assert (status.state, status.reason) == (state, reason)


def test_a_removed_folder_does_not_hide_why_work_ended(tmp_path, monkeypatch):
    def work():
        with Announcement(tmp_path):
            monkeypatch.setattr("diffusion_lab.store.status_file.write_whole", removed)
            raise KeyboardInterrupt

    def removed(*_):
        raise PlaceError("removed")

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize("content", [{"reason": 5}, {"step": "x"}, {"steps": -1}, {"updated": "today"}])
def test_a_status_that_is_none_is_not_read(tmp_path, content):
    (tmp_path / FILE).write_text(json.dumps({"state": FAILED, **content}))
    assert read_status(tmp_path) is None


def test_work_that_ends_by_itself_is_done(tmp_path):
    with Announcement(tmp_path, steps=3) as work:
        work.step(3)
    status = read_status(tmp_path)
    assert (status.state, status.step, status.reason) == (DONE, 3, None)
