"""No command overwrites or removes a file of the user's, or anything behind a link that leads out of outputs/."""

import os
import re
import shutil
import signal
import time

import pytest

from diffusion_lab.store import newest_model, written
from diffusion_lab.store.lease import FILE
from tests.report.synthetic import write_sweep

from .conftest import STRIDED, TINY, files
from .test_export import WIDE

GAN = "the GAN"  # in a command: its model_dir
SMALL = {"seed": ["1", "2"]}
COMMANDS = {
    "samples/samples.png": ["sample", GAN, "num_images=4"],
    "samples/000003.png": ["sample", GAN, "num_images=4", "format=png"],
    "samples/samples.npz": ["sample", GAN, "num_images=4", "format=npz"],
    "schedule/forward.png": ["schedule", "num_images=2"],
    "digits.npz": ["statistics", "data=digits", "moments=false", "to=digits.npz"],
}


def named(command, trained_model):
    return [f"model_dir={trained_model('gan')}" if option is GAN else option for option in command]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if i < 2 else pytest.mark.thorough) for i, n in enumerate(COMMANDS)]
)
def test_a_users_file_is_refused_and_ours_replaced(lab, name, trained_model):
    file = lab.folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"mine")
    for _ in range(2):
        lab.refused(*named(COMMANDS[name], trained_model), said=f"{name} was changed, or not written by diffusion-lab")
        assert file.read_bytes() == b"mine"
        file.unlink()
        for _ in range(2):
            lab.done(*named(COMMANDS[name], trained_model))
        file.write_bytes(b"mine")  # an edit


def test_fewer_samples_leave_none_of_the_earlier_ones(lab, trained_model):
    mine = lab.folder / "samples" / "000017.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    for number in (4, 2):
        lab.done(*named(["sample", GAN], trained_model), "format=png", f"num_images={number}", f"seed={number}")
    assert files(mine.parent) == ["000000.png", "000001.png", "000017.png"]
    assert mine.read_bytes() == b"mine"


def test_a_users_report_stays_and_the_new_one_goes_beside(lab):
    write_sweep(lab.folder / "outputs", axes=SMALL)
    (lab.folder / "mine").mkdir()
    page = lab.folder / "mine" / "report.html"
    page.write_text("mine")
    assert "it is kept, and the new one is report.new.html" in lab.done("report", "to=mine")
    assert page.read_text() == "mine"
    assert (page.parent / "report.new.html").is_file()


@pytest.mark.parametrize("name", ["report", "report/figures"])
def test_a_report_behind_a_strangers_link_is_refused(lab, name):
    sweep, elsewhere = write_sweep(lab.folder / "theirs", axes=SMALL), lab.folder / "elsewhere"
    named = [f"sweep={sweep.path}"]
    lab.done("report", f"to={elsewhere}", *named)
    if name == "report":
        sweep.report.symlink_to(elsewhere)
    else:
        sweep.report.mkdir()
        (sweep.path / name).symlink_to(elsewhere / "figures")
    before = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")}
    lab.refused("report", *named, said=f"{name} lies behind a link that leads out of ")
    assert {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")} == before


def test_nothing_is_scored_behind_a_link(lab, trained_model):
    elsewhere = lab.folder / "elsewhere"
    elsewhere.mkdir()
    (lab.folder / "outputs").mkdir()
    (lab.folder / "outputs" / "runs").symlink_to(elsewhere)
    options = [*named([GAN], trained_model), "evaluation.num_samples=8", "features=pixels"]
    before = files(elsewhere)
    lab.refused("evaluate", *options, said="lies behind a link that leads out of ")
    assert files(elsewhere) == before


def fill(folder, old_model):
    """What each command works on, and files of the user's beside it; the user's files."""
    write_sweep(folder / "outputs", axes=SMALL)
    old_model("vae", folder / "outputs")
    places = ("samples", "outputs/sweeps/test/report/figures", f"{old_model('gan', folder / 'outputs').path}")
    users = [folder / place / name for place in places for name in ("000099.png", ".mine.final.staged", "yours.txt")]
    for file in users:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    return users


KILLED = {
    "sample": ["sample", GAN, "num_images=12", "format=png"],
    "report": ["report"],
    "prune": ["prune", "remove=true"],
    "export": ["export", "model_dir=../trained"],
}
STAGED = r"\.[0-9a-f]{8}\.staged(/|$)"
TIMES = int(os.environ.get("KILLS", "2"))


@pytest.mark.thorough
@pytest.mark.parametrize("command", KILLED)
def test_killed_at_any_moment_nothing_is_half_or_lost(tmp_path, zygote, command, trained_model, old_model):
    """After kill -9 at several moments, the same command gives the result of an undisturbed one."""

    def run(folder, delay=None):
        process = zygote.start(folder, *named(KILLED[command], trained_model))
        began = time.monotonic()
        while process.poll() is None and (delay is None or time.monotonic() < began + delay):
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return time.monotonic() - began, process.returncode, (folder / "err").read_text()

    def content(folder):
        """Of all but records, leases, status and the terminal."""
        left = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        own = (written.FILE, FILE, "out", "err")
        return {n: p.read_bytes() for n, p in left.items() if p.name not in own}

    def without_dates(found):
        return {name: content for name, content in found.items() if not name.endswith((".pdf", ".html"))}

    whole = tmp_path / "whole"
    fill(whole, old_model)
    if command == "export":
        training = zygote.start(whole, "train", *TINY, *STRIDED, *WIDE, "score=false", "outputs=../outputs")
        assert training.communicate()[1] == ""
        shutil.copytree(newest_model(tmp_path / "outputs").path, tmp_path / "trained")
    took, code, err = run(whole)
    assert code == 0, err
    expected = content(whole)
    for number in range(TIMES):
        folder = tmp_path / str(number)
        users = fill(folder, old_model)
        before = content(folder)
        run(folder, took * (number + 1) / (TIMES + 1))
        for name, there in content(folder).items():
            if not re.search(STAGED, name) and there != before.get(name):
                assert written.is_ours(folder / name) or there == expected[name], name
        _, code, err = run(folder)
        assert code == 0 or (command == "export" and "already exists" in err), err
        found = content(folder)
        assert found.keys() == expected.keys()
        assert without_dates(found) == without_dates(expected)
        assert {path.read_text() for path in users} == {"mine"}
