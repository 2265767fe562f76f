"""`diffusion-lab` alone: what lies in outputs/ decides which commands it shows."""

import errno
import shutil
import sys
from pathlib import Path

import pytest

from diffusion_lab.commands import main
from diffusion_lab.commands.next_steps import next_steps
from diffusion_lab.store import ModelDirectory, named_model, run_directory, sweep_directory
from diffusion_lab.store.lease import hold
from diffusion_lab.store.status_file import INTERRUPTED, RUNNING, Status

from .test_status import write_sweep


@pytest.fixture
def shown(tmp_path, monkeypatch, trained_model):
    """shown() -> what is printed in this folder, as one text."""
    monkeypatch.chdir(tmp_path)

    def show() -> str:
        lines = next_steps(Path("outputs"))
        assert len(lines) <= 15
        return "\n".join(lines)

    def put_model(family: str) -> ModelDirectory:
        model = named_model(show.outputs, family)
        shutil.copytree(trained_model(family), model.path)
        return model

    show.outputs, show.put_model = tmp_path / "outputs", put_model
    return show


def test_a_model_its_samples_and_its_scores(shown):
    model = shown.put_model("diffusion_fixed")
    assert "1 trained model. The newest: outputs/models/diffusion_fixed" in shown()
    assert "  diffusion-lab sample  " in shown()
    assert "diffusion-lab evaluate sampler.spacing.num_steps=10  " in shown()
    assert "report" not in shown()
    run = run_directory(shown.outputs, f"{model.path.name}-0123")
    run.write_metrics({"values": {}})
    run.samples_png.touch()
    assert f"Samples: outputs/runs/{run.path.name}/samples.png" in shown()
    assert "diffusion-lab report runs=outputs/runs" in shown()


def test_a_classifier_is_not_sampled_from(shown):
    shown.put_model("noisy_classifier")
    assert "There is no trained model" in shown()
    shown.put_model("gan")
    named_model(shown.outputs, "noisy_classifier").training.touch()
    assert "The newest: outputs/models/gan" in shown()


def test_trainings_that_run_or_have_stopped(shown):
    running, stopped = (named_model(shown.outputs, name) for name in ("running", "stopped"))
    for model, state in ((running, RUNNING), (stopped, INTERRUPTED)):
        model.path.mkdir(parents=True)
        Status.begin(steps=10).now(state, step=3).write(model.path)
    with hold(running.path, waiting=print):
        assert "Training now: outputs/models/running (step 3 of 10)" in shown()
    assert "Stopped before the end: outputs/models/stopped (step 3 of 10) and 1 more." in shown()


def test_a_sweep_that_waits_and_one_that_is_over(shown):
    write_sweep(shown.outputs.parent, "mine")
    assert "Sweep outputs/sweeps/mine: models: 2 queued; cells: 2 queued" in shown()
    assert "  diffusion-lab status mine  " in shown()
    for seed in "12":
        named_model(shown.outputs, f"m{seed}").finish(steps=1, seconds=1.0, images=1)
        run_directory(shown.outputs, f"r{seed}").write_metrics({"values": {}})
    assert "  diffusion-lab report mine  " in shown()
    assert "status" not in shown()
    page = sweep_directory(shown.outputs, "mine").report / "report.html"
    page.parent.mkdir()
    page.touch()
    assert "Report: outputs/sweeps/mine/report/report.html" in shown()


def test_a_broken_sweep_is_one_sentence(shown):
    sweep = sweep_directory(shown.outputs, "broken")
    sweep.path.mkdir(parents=True)
    sweep.sweep.write_text("{")
    assert "The newest sweep cannot be read: outputs/sweeps/broken/sweep.json is not JSON" in shown()


def test_a_folder_that_cannot_be_read_is_one_sentence(monkeypatch):
    def refuse(_):
        raise PermissionError(errno.EACCES, "denied", "/outputs")

    monkeypatch.setattr("diffusion_lab.commands.next_steps.next_steps", refuse)
    monkeypatch.setattr(sys, "argv", ["diffusion-lab"])
    with pytest.raises(SystemExit, match=r"^diffusion-lab: /outputs: denied"):
        main.main()
