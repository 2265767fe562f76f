"""Moments of a training: how they are written, and that each has one name."""

import pytest

from diffusion_lab.store.weight_names import IMAGES, SECONDS, SHARE, STEPS, Moment, read_moment


@pytest.mark.parametrize(
    ("written", "moment", "name"),
    [
        (0.05, Moment(SHARE, 0.05), "0.05"),
        ("2m", Moment(SECONDS, 120), "2m"),
        ("90s", Moment(SECONDS, 90), "1.5m"),
        ("1h", Moment(SECONDS, 3600), "60m"),
        ("0.1s", Moment(SECONDS, 0.1), "0.1s"),
        ("1000steps", Moment(STEPS, 1000), "1000steps"),
        ("1e6images", Moment(IMAGES, 1_000_000), "1000000images"),
    ],
)
def test_a_moment_is_read_and_named(written, moment, name):
    assert read_moment(written) == moment
    assert str(moment) == name
    assert read_moment(name if moment.unit != SHARE else float(name)) == moment


@pytest.mark.parametrize(
    "written", [0, 1, 1.0, -0.1, True, None, "", "2", "m", "-2m", "0m", "1.5steps", "2 m", "2m\n", "1e99steps", [1]]
)
def test_anything_else_is_none(written):
    with pytest.raises(ValueError, match="is not a moment of a training; write"):
        read_moment(written)
