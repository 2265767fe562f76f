"""A sample's last mean goes to the end level that it most probably means, and nowhere else."""

import math

import pytest
import torch

from diffusion_lab.diffusion.levels import nearest_level
from diffusion_lab.sampling import EndLevels, NearestLevel

LEVELS = 64
X = torch.linspace(-1, 1, 6302)  # none of them halfway between two levels


@pytest.mark.parametrize(
    ("num_levels", "shares", "error"),
    [
        (LEVELS, (0.4, 0.05), 1.3),
        (3, (0.5, 0.4), 1.5),  # from here on some x lie within reach of both ends
        (4, (0.6, 0.3), 1.5),
        (5, (0.6, 0.3), 1.5),
        (17, (0.5, 0.5), 1.5),
    ],
)
def test_the_end_takes_what_the_prior_of_the_levels(num_levels, shares, error):
    """The end takes what the prior of the levels and a gaussian error give it.

    By Bayes' rule over all levels, each of which the error may have moved to x.
    """
    p = torch.full((num_levels,), (1 - sum(shares)) / (num_levels - 2), dtype=torch.float64)
    p[0], p[-1] = shares
    level = (X.double()[:, None] + 1) * (num_levels - 1) / 2
    posterior = p.log() - (level - torch.arange(num_levels)) ** 2 / (2 * error**2)
    most_probable = posterior.argmax(1)
    rounded = nearest_level(EndLevels(shares, num_levels, error)(X), num_levels)
    # The formula compares with the level nearest to x, Bayes' rule weighs x itself: they part within a hundredth of a level.
    assert (rounded != most_probable).double().mean() < 0.01 * 4 / num_levels + 4 / len(X)
    ends = (0, num_levels - 1)
    assert all((rounded == end).sum() > 200 for end in ends)


def test_black_is_taken_up_to_the_stated_distance():
    shares, error = (0.5, 0.0), 1.5
    reach = error * math.sqrt(2 * math.log(0.5 / (0.5 / (LEVELS - 2))))
    level = (X + 1) * (LEVELS - 1) / 2
    rounded = EndLevels(shares, LEVELS, error)(X)
    near = level < reach - 1e-3
    assert (rounded[near] == -1).all()
    assert torch.equal(rounded[level > reach + 1e-3], X[level > reach + 1e-3])


@pytest.mark.parametrize(
    "rounding",
    [
        NearestLevel(),
        EndLevels((0.5, 0.1), LEVELS, error=0.0),
        EndLevels((1 / LEVELS, 1 / LEVELS), LEVELS),
        EndLevels(None, None),
        EndLevels((0.5, 0.5), 2),
    ],
    ids=repr,
)
def test_nothing_is_rounded_without_error(rounding):
    """Nothing is rounded without error or without more pixels at the ends."""
    assert torch.equal(rounding(X), X)


def test_what_a_rounding_cannot_use_is_named():
    with pytest.raises(ValueError, match=r"rounding\.error=-1 must be a number of levels, 0 or more"):
        EndLevels((0.5, 0.1), LEVELS, error=-1)
    with pytest.raises(ValueError, match="not known for this model: use rounding=nearest"):
        EndLevels(None, LEVELS)
    with pytest.raises(ValueError, match=r"rounding\.shares=\[0.5, 2\] must be two numbers from 0 to 1"):
        EndLevels([0.5, 2], LEVELS)
