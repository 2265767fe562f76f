from types import SimpleNamespace

import pytest

from diffusion_lab.models import budget
from diffusion_lab.models.budget import Clock, budget_used, seconds_of, seconds_trained


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(budget, "monotonic", lambda: now.seconds)
    return now


def trainer_of(*callbacks, max_steps=-1, rank_zero_says=None):
    strategy = SimpleNamespace(broadcast=lambda said: said if rank_zero_says is None else rank_zero_says)
    return SimpleNamespace(max_steps=max_steps, callbacks=callbacks, strategy=strategy, should_stop=False)


def test_the_budget_is_steps_or_time_whichever_ends_first(clock):
    time = Clock(120.0)
    timed, both = trainer_of(time), trainer_of(time, max_steps=20)
    time.on_train_start(timed, None)
    clock.seconds += 30
    time.on_train_batch_end(timed, None, None, None, 0)
    assert budget_used(timed, 10) == 0.25
    assert [budget_used(both, step) for step in (2, 10, 40)] == [0.25, 0.5, 1.0]
    clock.seconds += 1000
    assert budget_used(timed, 10) == 0.25, "measured once a batch"
    time.on_train_batch_end(timed, None, None, None, 1)
    assert (budget_used(timed, 10), timed.should_stop) == (1.0, True)


def test_every_rank_goes_by_the_clock_of_rank_zero(clock):
    time, trainer = Clock(120.0), None
    trainer = trainer_of(time, rank_zero_says=60.0)
    time.on_train_start(trainer, None)
    clock.seconds += 500
    time.on_train_batch_end(trainer, None, None, None, 0)
    assert (budget_used(trainer, 1), trainer.should_stop) == (0.5, False)


def test_without_a_limit_time_is_no_budget(clock):
    time = Clock()
    trainer = trainer_of(time, max_steps=10)
    time.on_train_start(trainer, None)
    clock.seconds += 1000
    time.on_train_batch_end(trainer, None, None, None, 0)
    assert (seconds_trained(trainer), budget_used(trainer, 1), trainer.should_stop) == (1000, 0.1, False)


def test_a_resumed_run_goes_on_from_the_time_that_was_used(clock):
    first, second = Clock(100.0), Clock(100.0)
    first.on_train_start(trainer_of(first), None)
    clock.seconds += 40
    first.on_train_batch_end(trainer_of(first), None, None, None, 0)
    clock.seconds += 5000
    second.load_state_dict(first.state_dict())
    trainer = trainer_of(second)
    second.on_train_start(trainer, None)
    assert budget_used(trainer, 0) == 0.4
    clock.seconds += 20
    second.on_train_batch_end(trainer, None, None, None, 0)
    assert budget_used(trainer, 0) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("written", "seconds"), [("00:00:10:00", 600.0), ("01:02:03:04", 93784.0), ({"minutes": 1.5}, 90.0)]
)
def test_times(written, seconds):
    assert seconds_of(written) == seconds


@pytest.mark.parametrize("wrong", ["10", "00:00:00:00", {"minuets": 1}, {"minutes": -1}])
def test_times_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="write days:hours:minutes:seconds"):
        seconds_of(wrong)
