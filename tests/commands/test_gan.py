"""model=gan through the command: one experiment, on two ranks, and its mistakes."""

import json

import pytest
from safetensors.torch import load_file

from diffusion_lab.store import RunDirectory, newest_model

from .test_ranks import assert_close, trained

TINY = [
    "model=gan",
    "network.base_channels=8",
    "network.channel_multipliers=[1]",
    "network.latent_size=4",
    "data.batch_size=8",
    "trainer.log_every_n_steps=1",
    "callbacks.sample_grid.every_n_steps=0",
    "evaluation.num_samples=12",
]


def test_one_command_trains_samples_and_scores_and_another_samples(lab):
    code, out, err = lab("train", *TINY, "trainer.max_steps=3")
    assert code == 0, err
    assert "this model has no likelihood" in out
    model = newest_model(lab.folder / "outputs")
    assert model.read_training()["steps"] == 3
    (path,) = (lab.folder / "outputs" / "runs").iterdir()
    run = RunDirectory(path)
    metrics = json.loads(run.metrics.read_text())
    assert metrics["values"]["nfe"] == 1
    assert 1 <= metrics["values"]["classes_present_digits_cnn"] <= 10
    assert 0 <= metrics["values"]["class_entropy_digits_cnn"] <= 3.33
    assert metrics["protocol"]["class_coverage_digits_cnn"]["reference_present"] == 10
    assert metrics["protocol"]["absent"]["bits_per_dim"] == "this model has no likelihood"
    assert metrics["protocol"]["model"]["family"] == "gan"
    assert run.samples_png.is_file()
    assert run.interpolation_png.is_file()
    assert "classes" in out
    columns = model.metrics_csv.read_text().splitlines()[0].split(",")
    assert {"train/accuracy_real", "train/accuracy_fake", "train/loss_discriminator"} <= set(columns)
    averages = load_file(model.weights("ema_0.999"))
    assert {name.partition(".")[0] for name in averages} == {"network"}
    code, out, err = lab("train", *TINY, "trainer.max_steps=3")
    assert code == 0, err
    assert "already trained" in out
    code, out, err = lab("sample")
    assert code == 0, err
    code, out, err = lab("evaluate", "evaluation.num_samples=10", "evaluation.seed=3")
    assert code == 0, err
    assert len(list((lab.folder / "outputs" / "runs").iterdir())) == 2


def test_points_and_labels(lab):
    options = ["model=gan", "data=mixture", "data.num_train=100", "data.num_test=20", "data.batch_size=10"]
    code, _, err = lab(
        *("train", *options, "conditional=true", "network.hidden=8", "trainer.max_steps=2"),
        "callbacks.sample_grid.every_n_steps=0",
    )
    assert code == 0, err


@pytest.mark.thorough
def test_two_ranks_equal_one(zygote, tmp_path):
    options = [*TINY, "conditional=true", "score=false", "optimizer.lr=1e-4", "trainer.max_steps=6"]
    (one, _), (two, _) = (trained(zygote, tmp_path / str(ranks), *options, ranks=ranks) for ranks in (1, 2))
    assert_close(one, two)
    assert one.read_training()["steps"] == two.read_training()["steps"] == 6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["trainer.gradient_clip_val=1.0"], "trainer.gradient_clip_val=1.0: a GAN takes two steps per batch"),
        (["trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches=2: a GAN takes a step every batch"),
        (
            ["adversarial_loss=wasserstein_gp", "regularizer=r1"],
            "adversarial_loss Wasserstein has no minimum unless the slope of the discriminator is bounded",
        ),
        (["regularizer.gamma=0"], "regularizer.gamma=0 must be above 0"),
        (["schedule=cosine"], "schedule"),
        (["network.channel_multipliers=[1,1,1,1]"], "4 levels shrink a side of 8 pixels to 1"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_nothing_is_written(lab, options, sentence):
    code, _, err = lab("train", *TINY[:2], *options)
    assert code == 1
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not (lab.folder / "outputs").exists()
