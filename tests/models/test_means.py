"""Weighted means of torchmetrics, as training and validation log them."""

import math

import pytest
import torch

from diffusion_lab.models.means import Mean


def mean(*updates):
    found = Mean()
    for update in updates:
        found.update(*update)
    return float(found.compute())


def test_weights_count_whatever_their_type():
    value, weight = torch.tensor([1.0, 3.0, 8.0]).double(), torch.tensor([1.0, 0.5, 0.0]).double()
    assert mean((value, weight)) == pytest.approx(2.5 / 1.5)
    assert mean((value[0], torch.tensor(True)), (value[1], torch.tensor(False)), (value[2], 1)) == 4.5
    assert mean((value,), (torch.tensor(0.0),)) == 3
    assert mean((value, 2.0), (torch.tensor(0.0), 6)) == 2


def test_a_value_that_is_no_number_stays_in_the_mean():
    assert math.isnan(mean((torch.tensor(1.0),), (torch.tensor(math.nan),)))


def test_its_state_is_resumed_to_the_bit():
    values, found, resumed = torch.rand(20, 7), Mean(), Mean()
    for row in values[:11]:
        found.update(row)
    resumed.merge_state({"mean_value": found.mean_value.clone(), "weight": found.weight.clone()})
    for row in values[11:]:
        found.update(row)
        resumed.update(row)
    assert torch.equal(found.compute(), resumed.compute())
