"""Pairs of choices that cannot work are refused, with the fix."""

import pytest

from diffusion_lab.diffusion import (
    EDMSchedule,
    FixedSmall,
    Hybrid,
    LearnedRange,
    RectifiedSchedule,
    Simple,
    StratifiedTimesteps,
)
from diffusion_lab.models.compatibility import check_parts


@pytest.mark.parametrize("schedule", [RectifiedSchedule(20), EDMSchedule(20)])
def test_a_learned_range_needs_unit_variance(schedule):
    timesteps = StratifiedTimesteps(schedule.num_timesteps, real=False)
    check_parts(schedule, FixedSmall(), Simple(), timesteps)
    with pytest.raises(ValueError, match=rf"variance LearnedRange .*{type(schedule).__name__}.* variance=fixed_small"):
        check_parts(schedule, LearnedRange(), Hybrid(), timesteps)
