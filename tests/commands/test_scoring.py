"""Scoring as a user meets it: stopped and gone on with, and not done twice."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusion_lab.metrics.stored import write_tensors
from diffusion_lab.store import newest_model
from diffusion_lab.training import speed

from .cluster import wait_until
from .conftest import STRIDED, TINY

TIMES = ("seconds_per_1000_samples", "peak_memory_mib", "training_seconds")


def scores(outputs: Path) -> list[dict]:
    """metrics.json of every run, without the figures that are times."""
    found = [json.loads(path.read_text()) for path in sorted(outputs.glob("runs/*/metrics.json"))]
    for metrics in found:
        for name in TIMES:
            metrics["values"].pop(name, None)
        metrics["protocol"].pop("cost")
    return found


def shards(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("cache/samples/*/*.safetensors"))


def test_variances_that_the_sampler_does_not_read(lab):
    """Variances that the sampler does not read share samples.

    Under DDIM fixed small and fixed large differ in their bound only.
    """
    ddim = [*TINY, *STRIDED, "sampler=ddim", "sampler.spacing.num_steps=3"]
    lab.given("train", *ddim, "variance=fixed_small")
    outputs = lab.folder / "outputs"
    drawn = {path: path.stat().st_mtime_ns for path in shards(outputs)}
    assert drawn
    assert lab("train", *ddim, "variance=fixed_large")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in shards(outputs)} == drawn
    one, other = scores(outputs)
    assert one["values"]["fd_pixels"] == other["values"]["fd_pixels"]
    assert one["values"]["bits_per_dim"] != other["values"]["bits_per_dim"]


def test_the_precision_of_drawing_changes_images(lab):
    """The precision of drawing changes images by its rounding and no bound."""
    lab.given("train", *TINY, *STRIDED)
    outputs = lab.folder / "outputs"
    drawn = shards(outputs)
    lab.done("evaluate", "evaluation.precision=bf16-mixed")
    assert len(shards(outputs)) == 2 * len(drawn)
    one, other = scores(outputs)
    assert {score["protocol"]["samples"]["precision"] for score in (one, other)} == {"32-true", "bf16-mixed"}
    assert one["values"]["fd_pixels"] == pytest.approx(other["values"]["fd_pixels"], rel=0.05)
    assert one["values"]["bits_per_dim"] == other["values"]["bits_per_dim"]


@pytest.mark.thorough
def test_a_score_that_was_killed_goes_on(lab, zygote):
    """A score that was killed goes on and is the same score.

    kill -9 in the middle of the samples, then the same command.
    """
    lab.given("train", *TINY, *STRIDED)
    model = newest_model(lab.folder / "outputs").path
    # Four shards of samples, a step of each batch after the other: slow enough to be caught.
    options = [f"model_dir={model}", "sampler.spacing.num_steps=8", "evaluation.num_samples=512"]
    options += ["evaluation.batch_size=32", "metrics.bits_per_dim.num_images=2"]
    options += ["metrics.kernel_distance.num_subsets=2", "evaluation.reference_features=100"]

    assert lab("evaluate", *options, "outputs=undisturbed")[0] == 0
    killed = lab.folder / "killed"
    process = zygote.start(lab.folder, "evaluate", *options, f"outputs={killed}")
    wait_until(lambda: shards(killed), pause=0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    there = {path: path.stat().st_mtime_ns for path in shards(killed)}
    assert 1 <= len(there) < 4
    assert scores(killed) == []

    lab.done("evaluate", *options, f"outputs={killed}")
    assert {path: path.stat().st_mtime_ns for path in shards(killed) if path in there} == there
    assert len(shards(killed)) == 4
    assert scores(killed) == scores(lab.folder / "undisturbed")


def test_a_score_is_of_the_files_as_they_are(lab):
    """Weights or a config that were changed by hand are scored; what a score does not read is not looked at."""
    lab.given("train", *TINY, *STRIDED)
    model = newest_model(lab.folder / "outputs")
    (before,) = scores(lab.folder / "outputs")
    (model.path / "metrics.csv").write_text("step\n")
    os.utime(model.weights("ema_0.999"))
    assert "already scored" in lab.done("evaluate")
    tensors = {name: 100 * tensor for name, tensor in load_file(model.weights("ema_0.999")).items()}
    save_file(tensors, model.weights("ema_0.999"))
    assert "already scored" not in lab.done("evaluate")
    (after,) = scores(lab.folder / "outputs")
    assert after["values"]["fd_pixels"] != before["values"]["fd_pixels"]
    assert after["values"]["bits_per_dim"] != before["values"]["bits_per_dim"]
    assert "already scored" in lab.done("evaluate")
    model.config.write_text(f"# by hand\n{model.config.read_text()}")
    assert "already scored" not in lab.done("evaluate")
    assert "already scored" in lab.done("evaluate")
    (last,) = scores(lab.folder / "outputs")
    assert last["values"] == after["values"]
    reads = [score["protocol"]["read"] for score in (before, after, last)]
    assert [{*read} for read in reads] == [{"config.yaml", "ema_0.999.safetensors"}] * 3
    assert len({read["config.yaml"] for read in reads}) == len({read["ema_0.999.safetensors"] for read in reads}) == 2


def test_default_weights_that_are_gone_are_named(lab):
    """No other average takes their place."""
    lab.given("train", *TINY, *STRIDED, "ema.decays=[0.9,0.999]")
    model = newest_model(lab.folder / "outputs")
    (score,) = scores(lab.folder / "outputs")
    gone = score["protocol"]["weights"]
    assert gone == "ema_0.9"
    model.weights(gone).unlink()
    for command in ("evaluate", "sample"):
        lab.refused(command, said="no weights 'ema_0.9'; it has raw, ema_0.999")
    lab.done("evaluate", "evaluation.weights=ema_0.999")


def poison(outputs: Path) -> int:
    """Let each file of the cache hold other numbers, under its own key."""
    files = [*outputs.glob("cache/**/*.safetensors")]
    for file in files:
        with safe_open(file, "pt") as content:
            about, tensors = content.metadata(), {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        other = {name: 1.1 * x if x.is_floating_point() and name != "n" else x for name, x in tensors.items()}
        write_tensors(file, about["key"], other, about["facts"])
    return len(files)


def test_scoring_anew_reads_nothing_of_the_cache(lab):
    """Neither samples, nor real images, nor statistics of the network."""
    lab.given("train", *TINY, *STRIDED, "objective=simple", "variance=fixed_small")
    outputs = lab.folder / "outputs"
    measured = ["variance=analytic", "evaluation.statistics_images=32"]
    lab.done("evaluate", *measured)
    expected = scores(outputs)
    run = max(outputs.glob("runs/*/metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    assert poison(outputs) >= 4
    run.unlink()
    lab.done("evaluate", *measured)
    poisoned = scores(outputs)
    assert poisoned != expected  # this is how one sees what was read
    assert "NFE" not in lab.done("evaluate", *measured, "rescore=true"), "the main rows, as after training"
    assert scores(outputs) == expected


@pytest.mark.thorough
def test_what_draws_is_compiled(lab, monkeypatch):
    """Of a training and of a score: the network of the generator, which is a copy."""
    calls = []

    def counted(function, how):
        return lambda *args: (calls.append(1), function(*args))[1]

    monkeypatch.setattr(speed, "missing_for", lambda device: None)
    monkeypatch.setattr(speed, "_compiled", counted)
    options = [*TINY, *STRIDED, "compile=true", "val.every_n_steps=0"]
    lab.done("train", *options)
    trained = len(calls)
    lab.done("evaluate", "evaluation.seed=2", "compile=true")
    (score, _) = scores(lab.folder / "outputs")
    assert len(calls) - trained >= score["values"]["nfe"] == 3
    assert trained >= 3


def test_features_that_lack_their_weights_are_named(lab, monkeypatch):
    """Features that lack their weights are named before training."""
    monkeypatch.setenv("TORCH_HOME", str(lab.folder))
    lab.refused("train", *TINY, *STRIDED, "features=inception", said="weights-inception-2015-12-05-6726825d.pth")


OF_TORCHMETRICS = {
    "my_kid": {"_target_": "torchmetrics.image.kid.KernelInceptionDistance", "subsets": 3, "subset_size": 5},
    "my_ssim": {"_target_": "torchmetrics.image.StructuralSimilarityIndexMeasure", "data_range": 1.0, "sigma": 0.5},
}
OF_TORCHMETRICS["my_kid"] |= {"feature": {"_target_": "torch.nn.Flatten"}, "normalize": True}


def test_a_metric_of_torchmetrics_by_a_yaml_alone(lab):
    """Both kinds on a super-resolution; without a condition, pairs are refused before training."""
    lab.given("train", *TINY, *STRIDED, "condition=low_resolution", "score=false")
    folder = lab.folder / "conf" / "metrics"
    folder.mkdir(parents=True)
    for name, options in OF_TORCHMETRICS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({name: options}))
    shown = lab.done("evaluate", "metrics=[my_kid,my_ssim]", "metrics.my_kid.subsets=2")
    assert "my_kid ↓" in shown
    assert "my_ssim ↑" in shown
    (score,) = (json.loads(path.read_text()) for path in lab.folder.glob("outputs/runs/*/metrics.json"))
    assert score["values"].keys() == {"my_kid", "my_kid_std", "my_ssim"}
    assert score["protocol"]["my_kid"]["arguments"]["subsets"] == 2
    said = "metrics.my_ssim compares samples with the images that they are drawn for, so it needs condition="
    rest = [option for option in TINY if not option.startswith("metrics.")]
    lab.refused("train", *rest, *STRIDED, "metrics=[my_kid,my_ssim]", said=said)
