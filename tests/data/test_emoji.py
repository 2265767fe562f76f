"""Emoji from the file that benchmarks/data/drawings.py makes; what both of them do is in tests/benchmarks/test_drawings.py."""

import numpy as np
import pytest
import torch

from diffusion_lab.data import DataError
from diffusion_lab.data.emoji import Emoji
from diffusion_lab.data.order import held_out_groups, without_validation


def test_groups_are_held_out_as_a_whole():
    """For testing every class and size alike; for validation all but one group."""
    random = np.random.default_rng(0)
    groups = torch.from_numpy(np.repeat(np.arange(300), random.integers(1, 9, 300)))
    labels = groups // 100
    is_test = held_out_groups(groups, labels, 0.2)
    assert not {*groups[is_test].tolist()} & {*groups[~is_test].tolist()}
    assert len(groups[is_test].unique()) == 60
    for label in range(3):
        assert float(is_test[labels == label].double().mean()) == pytest.approx(0.2, abs=0.02)
    train, validation = (groups[part] for part in without_validation(len(groups), 100, groups))
    assert len(validation) == 100
    assert len({*train.tolist()} & {*validation.tolist()}) <= 1


def test_how_to_make_the_file_is_said(tmp_path):
    said = r"emoji\.npz is missing: make it with `python benchmarks/data/drawings\.py emoji` .*data\.root=FOLDER"
    with pytest.raises(DataError, match=said):
        Emoji(batch_size=2, seed=0, root=str(tmp_path)).prepare()


@pytest.mark.parametrize("option", [{"alpha": "whitish"}, {"image_size": 65}, {"test_fraction": 1}], ids=str)
def test_an_option_that_cannot_be_is_named(option):
    (name,) = option
    with pytest.raises(DataError, match=rf"data\.{name}="):
        Emoji(**{"batch_size": 2, "seed": 0} | option)
