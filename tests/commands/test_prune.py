"""`diffusion-lab prune` lists what nothing refers to, removes it if asked, and touches nothing else."""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from diffusion_lab.commands.prune import removed
from diffusion_lab.store import ModelDirectory, RunDirectory, newest_model, run_directory, sweep_directory
from diffusion_lab.store.files import write_whole
from diffusion_lab.store.lease import hold
from diffusion_lab.store.places import models_in
from diffusion_lab.sweeps.frozen import make_copy
from diffusion_lab.sweeps.jobs import Submitted
from diffusion_lab.sweeps.pruning import Outputs

from .conftest import STRIDED, TINY, files

OUTPUTS = Path("outputs")


def scored(model: ModelDirectory, **more: object) -> RunDirectory:
    """A score of a model, as far as it is looked at."""
    run = run_directory(model.path.parent.parent, f"{model.path.name}-0123456789ab")
    run.write_metrics({"protocol": {"fingerprint": model.read_training()["fingerprint"], **more}})
    write_whole(run.config, model.config.read_bytes())
    return run


def swept(model: ModelDirectory, command: tuple[str, ...] = (), run: str = "a-run") -> None:
    cells = [{"choices": {"seed": "1"}, "overrides": [], "model": model.path.name, "run": run}]
    content = {"name": "mine", "command": list(command), "axes": {"seed": ["1"]}, "created": "now", "cells": cells}
    sweep_directory(OUTPUTS, "mine").write_sweep(content)


@pytest.mark.parametrize("damage", [lambda text: text[:20], lambda text: text.replace("digits", "\\u0064igits")])
def test_a_damaged_sweep_keeps_what_it_names(lab, old_model, damage):
    swept(old_model())
    file = sweep_directory(OUTPUTS, "mine").sweep
    file.write_text(damage(file.read_text()))
    before = files(lab.folder)
    lab("prune", "remove=true")
    assert files(lab.folder) == before


def test_it_lists_what_other_code_has_made(lab, old_model):
    """It removes nothing unless asked."""
    lab.given("train", *TINY, *STRIDED)
    mine = files(lab.folder)
    assert "nothing to prune in outputs" in lab.done("prune"), "today's code finds what it has just made"
    old = old_model()
    write_whole(old.weights("ema_0.9"), bytes(3 * 2**20))
    run = scored(old)
    before = files(lab.folder)
    out = lab.done("prune")
    assert f"3.2 MB  models/{old.path.name}" in out
    assert f"runs/{run.path.name}" in out
    assert "nothing has been removed" in out
    assert files(lab.folder) == before
    assert "removed 3.2 MB" in lab.done("prune", "remove=true")
    assert files(lab.folder) == mine


def test_what_a_user_put_there_stays(lab, old_model):
    """Links are not followed."""
    old, outside = old_model(), lab.folder / "elsewhere"
    outside.mkdir()
    for name in ("raw.safetensors", "precious.txt"):
        (outside / name).write_text("mine")
    old.weights("ema_0.9").unlink()
    old.weights("ema_0.9").symlink_to(outside / "raw.safetensors")
    old.samples.symlink_to(outside)
    (outside / "step_0000001.png").write_text("mine")
    theirs = ["notes.txt", "mine.safetensors", "logs/version_0/events", "other.ckpt", "resume.ckpt"]
    theirs += [".thesis.final.staged", "retraining/raw.safetensors"]
    for name in theirs:
        (old.path / name).parent.mkdir(parents=True, exist_ok=True)
        (old.path / name).write_text("mine")
    linked = old_model("vae", Path("disk"))
    (OUTPUTS / "models" / linked.path.name).symlink_to(linked.path.absolute())
    renamed = old_model("flow")
    renamed.path.rename(renamed.path.with_name("my-best-flow"))
    (OUTPUTS / "models" / "notes.txt").write_text("mine")
    out = lab.done("prune", "remove=true")
    assert f"outputs/models/{old.path.name} is kept, because it holds files that the lab did not write" in out
    assert files(old.path) == sorted([*theirs, "ema_0.9.safetensors"])
    assert [path.read_text() for path in outside.iterdir()] == ["mine"] * 3
    assert ModelDirectory(linked.path).finished
    assert {model.path.name for model in models_in(OUTPUTS)} == {old.path.name, linked.path.name, "my-best-flow"}
    assert "nothing to prune" in lab.done("prune")


@pytest.mark.parametrize("folder", ["models", "runs", "cache"])
def test_a_folder_of_outputs_that_is_a_link_is_not_followed(lab, folder, old_model):
    lab.given("train", *TINY, *STRIDED)
    run = scored(old_model())
    (OUTPUTS / folder).rename(lab.folder / "disk")
    (OUTPUTS / folder).symlink_to(lab.folder / "disk")
    before = files(lab.folder / "disk")
    out = lab.done("prune", "remove=true", "what=[models,runs,cache]")
    assert f"outputs/{folder} is a link, which prune does not follow" in out
    assert files(lab.folder / "disk") == before
    assert run.metrics.is_file() == (folder != "cache")


def test_what_a_sweep_or_config_refers_to_stays(lab, old_model):
    """What the config of a run that stays refers to stays too."""
    old, run = old_model(), scored(old_model("vae"))
    classifier, other = old_model("noisy_classifier"), old_model("flow")
    swept(old, ("guidance=classifier", f"guidance.classifier=outputs/models/{classifier.path.name}"), run.path.name)
    out = lab.done("prune", "remove=true")
    assert [model.finished for model in (old, classifier, other)] == [True, True, False]
    assert run.metrics.is_file()
    assert "removed" in out
    guide = old_model("diffusion_fixed")
    run.config.write_text(f"guidance:\n  model: outputs/models/{guide.path.name}\n")
    assert "nothing to prune" in lab.done("prune")
    run.config.write_text("")
    assert f"models/{guide.path.name}" in lab.done("prune")


def test_an_unfinished_training_of_todays_code_stays(lab, old_model):
    lab.given("train", *TINY, *STRIDED)
    mine, old = newest_model(OUTPUTS), old_model()
    for model in (mine, old):
        model.training.unlink()
        model.resume.write_bytes(b"half")
    out = lab.done("prune")
    assert mine.path.name not in out
    assert f"models/{old.path.name}  an unfinished training with other code" in out


def test_a_folder_that_a_process_holds_stays(lab, old_model):
    old, other = old_model(), old_model("vae")
    run = scored(other)
    with hold(old.path, print), hold(run.path, print):
        assert "nothing to prune" in lab.done("prune", "remove=true")
    assert f"models/{old.path.name}" in lab.done("prune")


def test_who_comes_between_list_and_removal(lab, monkeypatch, old_model):
    from diffusion_lab.commands import prune

    old, other = old_model(), old_model("flow")
    listed, held = prune._lines, []

    def lines(*arguments):
        held.append(hold(old.path, print))
        held[0].__enter__()
        return listed(*arguments)

    monkeypatch.setattr(prune, "_lines", lines)
    out = lab.done("prune", "remove=true")
    held[0].__exit__(None, None, None)
    assert f"kept: outputs/models/{old.path.name}: process " in out
    assert [model.finished for model in (old, other)] == [True, False]


def test_where_nobody_can_tell_a_model_stays(lab, monkeypatch, old_model):
    """Nothing of it runs."""
    (lab.folder / "sentinel.py").write_text("open('ran', 'w')\nclass Data: pass\n")
    gone = old_model("vae", data={"_target_": "gone.Data"})
    there = old_model("flow", data={"_target_": "sentinel.Data"})
    foreign = old_model("diffusion_fixed", objective={"_target_": "sentinel.Data"})
    broken = old_model()
    broken.config.write_text("a: [")
    out = lab.done("prune", "remove=true")
    assert all(f"{model.path} is kept" in out for model in (gone, foreign, broken))
    assert all(model.finished for model in (gone, there, foreign, broken))
    shutil.rmtree(foreign.path)
    monkeypatch.setenv("DIFFUSION_LAB_TARGETS", "sentinel")
    lab.done("prune", "remove=true")
    assert [model.finished for model in (gone, there, broken)] == [True, False, True]
    assert not (lab.folder / "ran").exists()
    assert "sentinel" not in sys.modules


def test_a_run_without_its_model_stays_if_todays_code(lab, old_model):
    lab.given("train", *TINY, *STRIDED)
    mine = newest_model(OUTPUTS)
    old = scored(old_model())
    for model in models_in(OUTPUTS):
        shutil.rmtree(model.path)
    out = lab.done("prune")
    assert f"runs/{old.path.name}" in out
    assert f"runs/{mine.path.name}" not in out
    assert "cache/" not in out


@pytest.mark.thorough
def test_what_is_cached_goes_with_its_models_and_scores(lab):
    measured = ["variance=analytic", "evaluation.statistics_images=8", "start=data_moments", "condition=classes"]
    lab.given("train", *TINY, *STRIDED, *measured, "features=digits_cnn")
    mine, cache = newest_model(OUTPUTS), OUTPUTS / "cache"
    ours = files(cache)
    for kind in ("moments", "class-means"):
        assert any(name.startswith(f"digits-pixels-{kind}-train") for name in ours)
    assert {name.partition("/")[0] for name in ours} >= {"samples", "statistics"}
    (cache / "mine-0123456789ab.safetensors").write_bytes(b"mine")
    (cache / "samples" / "0123456789abcdef").mkdir()
    (cache / "samples" / "0123456789abcdef" / "00000000.safetensors").write_bytes(b"mine")
    assert "nothing to prune" in lab.done("prune")
    shutil.rmtree(OUTPUTS / "runs")
    assert "nothing to prune" in lab.done("prune"), "its model may be scored again"
    shutil.rmtree(mine.path)
    out = lab.done("prune", "what=[cache]", "remove=true")
    assert "in all" in out
    assert files(cache) == ["mine-0123456789ab.safetensors", "samples/0123456789abcdef/00000000.safetensors"]
    assert len(list((cache / "samples").iterdir())) == 1
    assert list((cache / "statistics").iterdir()) == []


@pytest.mark.thorough
def test_what_another_training_started_from_stays(lab):
    lab.given("train", *TINY, *STRIDED, "trainer.max_steps=10")
    first = newest_model(OUTPUTS)
    start = [f"init_from={first.path}", "init_weights=at_0.4", "score=false"]
    lab.done("train", *TINY, *STRIDED, *start)
    out = lab.done("prune", "what=[models,runs,cache]", "remove=true")
    assert "trained with other code" not in out
    assert "this model is already trained" in lab.done("train", *TINY, *STRIDED, *start)


def test_copies_of_code_go_when_nothing_needs_them(lab, old_model):
    """When each cell has its score and no job waits."""
    old = old_model()
    swept(old, run=scored(old).path.name)
    sweep, jobs = sweep_directory(OUTPUTS, "mine"), OUTPUTS / "jobs"
    copy = make_copy(sweep.code, [], [])
    Submitted(("m", "r"), "", str(copy), 1).write(jobs, "7")
    os.utime(copy, (0, 0))
    assert "nothing to prune" in lab.done("prune"), "a job waits"
    (jobs / "7_0_outcome.json").write_text("{}")
    assert f"sweeps/mine/code/{copy.name}" in lab.done("prune")
    assert copy.is_dir()
    lab.done("prune", "remove=true")
    assert not copy.exists()


def test_killed_at_any_moment_nothing_looks_finished(lab, monkeypatch, old_model):
    """The next one goes on."""

    class KilledError(BaseException):
        pass

    model, unlink = old_model(), Path.unlink
    whole = shutil.copytree(model.path, lab.folder / "whole")
    left = []  # as many files are removed before the kill

    def until_killed(path, missing_ok=False):
        if path.parent == model.path and not path.name.startswith("."):
            if not left:
                raise KilledError
            left.pop()
        unlink(path, missing_ok=missing_ok)

    def unused():
        (one,) = Outputs(OUTPUTS, lambda *_: False).unused_models()
        return one

    for number in range(30):
        left[:] = [None] * number
        with monkeypatch.context() as patch, suppress(KilledError):
            patch.setattr(Path, "unlink", until_killed)
            removed(unused())
            break
        assert model.finished == (number == 0)
        assert removed(unused()) is None
        assert not model.path.exists()
        shutil.copytree(whole, model.path)
    assert number >= 5
    assert not model.path.exists()
