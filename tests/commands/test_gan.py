"""model=gan through the command: one experiment, on two ranks, and its mistakes."""

import pytest

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
def test_what_cannot_work_is_one_sentence(lab, options, sentence):
    """What cannot work is one sentence and nothing is written."""
    lab.refused("train", *TINY[:2], *options, said=sentence)
    assert not (lab.folder / "outputs").exists()
