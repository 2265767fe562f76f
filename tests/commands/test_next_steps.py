"""`diffusion-lab` alone: what lies in outputs/ decides which commands it shows."""

import shutil
from pathlib import Path

import pytest

from diffusion_lab.commands.next_steps import next_steps
from diffusion_lab.store import ModelDirectory, named_model, run_directory, sweep_directory
from diffusion_lab.store.lock import hold
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
    assert "  diffusion-lab evaluate  " in shown()
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


def test_a_training_that_stopped(shown):
    for name in "ab":
        folder = named_model(shown.outputs, name).path
        folder.mkdir(parents=True)
        Status.begin(10, "diffusion-lab train schedule=linear").now(INTERRUPTED, 5).write(folder)
    assert "Stopped before the end: outputs/models/a, step 5 of 10, and 1 more" in shown()
    assert "  diffusion-lab train schedule=linear  " in shown()
    with hold(folder, print):
        Status.begin(10).now(RUNNING, 7).write(folder)
        assert "Running now: outputs/models/b, step 7 of 10" in shown()


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
