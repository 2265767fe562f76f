"""The parts of a training step add up to it."""

import pytest

from diffusion_lab.training.step_times import StepTimes


def test_the_parts_of_a_step_add_up():
    """The first call of each, with compilation and warm-up, is left out; Lightning times forward and backward within the batch."""
    times = StepTimes()
    spent = {
        "[_TrainingEpochLoop].train_dataloader_next": 0.001,
        "[Strategy]DDPStrategy.training_step": 0.002,
        "[Strategy]DDPStrategy.backward": 0.004,
        "run_training_batch": 0.007,
        "[Callback]EMA.on_train_batch_end": 0.0003,
        "[Callback]PowerAverages.on_train_batch_end": 0.0002,
        "[Callback]Monitor.on_train_batch_end": 0.0004,
        "[Callback]EMA.on_after_backward": 5.0,
    }
    times.recorded_durations.update({name: [9.0, seconds, seconds] for name, seconds in spent.items()})
    assert times.milliseconds() == pytest.approx(
        {"data": 1, "forward": 2, "backward": 4, "optimizer": 1, "averages": 0.5, "other": 0.4}
    )
    assert set(StepTimes().milliseconds().values()) == {0}
