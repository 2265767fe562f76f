import pytest
import torch

from diffusion_lab.metrics.inception_score import inception_score
from diffusion_lab.metrics.reference import UnmeasurableError


def test_it_lies_between_one_and_the_number_of_classes():
    sure = 100 * torch.eye(4).repeat(25, 1)
    assert inception_score(sure, seed=0, num_parts=1)[0] == pytest.approx(4)
    assert inception_score(torch.zeros(100, 4), seed=0)[0] == pytest.approx(1)
    assert inception_score(sure[:1].repeat(100, 1), seed=0)[0] == pytest.approx(1), "one class only"
    mean, deviation = inception_score(sure, seed=0, num_parts=10)
    assert 3 < mean < 4, "in ten samples classes are not equally frequent"
    assert 0 < deviation < 1


def test_a_part_without_samples_has_a_reason():
    with pytest.raises(UnmeasurableError, match="over 10 parts"):
        inception_score(torch.zeros(9, 4), seed=0)
