"""`diffusion-lab prune` moves what can be made again, or was abandoned, to outputs/trash, and removes nothing."""

import os
import shutil
import time
from pathlib import Path

import pytest

from diffusion_lab.store import named_model, run_directory, sweep_directory, write_json
from diffusion_lab.store.files import write_whole
from diffusion_lab.store.lock import hold
from diffusion_lab.sweeps import slurm

from .conftest import files
from .test_status import write_sweep

OUTPUTS = Path("outputs")
ALL = ["what=[resume,cache,code,partial]"]


def begun(name, days=30):
    """A training that nobody has written to for so many days."""
    model = named_model(OUTPUTS, name)
    for path in (model.resume, model.config):
        write_whole(path, bytes(1000))
    for path in (model.resume, model.config, model.path):
        os.utime(path, (time.time() - 86400 * days,) * 2)
    return model


@pytest.fixture
def filled(lab, old_model):
    """A finished model with a checkpoint, its score, a cache, an abandoned training and a recent one."""
    model = old_model("diffusion_fixed")
    write_whole(model.resume, bytes(2 * 10**6))
    run_directory(OUTPUTS, f"{model.path.name}-1").write_metrics({"values": {}, "protocol": {}})
    write_whole(OUTPUTS / "cache" / "digits.safetensors", b"1")
    write_whole(OUTPUTS / "cache" / "samples" / "0123" / "00000000.safetensors", b"1")
    (lab.folder / "mine.txt").write_text("mine")
    begun("abandoned")
    begun("recent", days=1)
    return model


def test_it_moves_what_can_be_made_again(lab, filled):
    before = files(lab.folder)
    assert "resume.ckpt" in lab.done("prune", *ALL, "dry_run=true")
    assert files(lab.folder) == before
    out = lab.done("prune", *ALL)
    assert "moved 2.0 MB; to remove it for good: rm -r outputs/trash" in out
    moved = [
        *(
            f"models/{filled.path.name}/resume.ckpt",
            "cache/digits.safetensors",
            "cache/samples/0123/00000000.safetensors",
        ),
        *("models/abandoned/resume.ckpt", "models/abandoned/config.yaml"),
    ]
    after = {file.replace("outputs/trash/", "outputs/") for file in files(lab.folder)}
    assert sorted(after) == before, "nothing is lost"
    assert {file for file in files(lab.folder) if "/trash/" in file} == {f"outputs/trash/{file}" for file in moved}
    assert "nothing to prune in outputs" in lab.done("prune", *ALL)
    lab.done("prune", f"models=[{filled.path.name}]")
    assert not filled.path.exists()
    assert (OUTPUTS / "trash" / "models" / filled.path.name / "training.json").is_file() or (
        OUTPUTS / "trash" / "models" / f"{filled.path.name}.1" / "training.json"
    ).is_file()


def test_what_somebody_works_with_stays(lab, filled, monkeypatch):
    write_sweep(lab.folder, "mine")
    write_json(sweep_directory(OUTPUTS, "mine").submitted, {"abandoned": "7"})
    monkeypatch.setattr(slurm, "ask", lambda *command: "7 PENDING\n")
    with hold(filled.path, print), hold(OUTPUTS / "cache" / "samples" / "0123", print):
        out = lab.done("prune", *ALL)
    assert out.count("kept: ") == 2
    assert "is using it" in out
    assert named_model(OUTPUTS, "abandoned").path.is_dir(), "a job waits for it"
    assert filled.resume.is_file()


def test_mistakes(lab, filled):
    lab.refused("prune", "what=[runs]", said="what=runs: choose from resume, cache, code, partial")
    lab.refused(
        "prune", "models=other", said=f"models=other: there is no such model; there are abandoned, {filled.path.name}"
    )
    lab.refused("prune", "models=..", said="there is no such model")


def test_a_file_is_moved_as_it_is(lab, filled):
    """A link is not followed."""
    shutil.move(filled.resume, lab.folder / "there.ckpt")
    filled.resume.symlink_to(lab.folder / "there.ckpt")
    lab.done("prune", "what=resume")
    assert (lab.folder / "there.ckpt").is_file()
    assert not filled.resume.is_symlink()


def test_copies_of_code_go_when_every_cell_is_scored(lab, monkeypatch):
    write_sweep(lab.folder, "mine")
    sweep = sweep_directory(OUTPUTS, "mine")
    (sweep.code / "0123").mkdir(parents=True)
    assert "nothing to prune" in lab.done("prune")
    for run in ("r1", "r2"):
        run_directory(OUTPUTS, run).write_metrics({})
    write_json(sweep.submitted, {"m1": "7"})
    monkeypatch.setattr(slurm, "ask", lambda *command: "7 RUNNING\n")
    assert "nothing to prune" in lab.done("prune")
    monkeypatch.setattr(slurm, "ask", lambda *command: "")
    lab.done("prune")
    assert not sweep.code.exists()
