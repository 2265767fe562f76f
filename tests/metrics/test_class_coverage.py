import math

import pytest
import torch

from diffusion_lab.metrics.class_coverage import ClassCoverage, class_coverage

from .stand_ins import GaussianModel
from .test_score import scored


def test_all_alike_one_alone_and_what_lies_between():
    assert class_coverage(torch.arange(40) % 8) == (8, pytest.approx(3))
    assert class_coverage(torch.full((40,), 3)) == (1, 0)
    assert class_coverage(torch.tensor([0, 0, 0, 5])) == (2, pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2))


class OneImage(GaussianModel):
    def latents(self, indices, seed):
        return torch.zeros(len(indices), *self.shape)


def test_a_model_of_one_image_covers_one_class(tmp_path):
    scores = scored(tmp_path, OneImage(), metrics=[ClassCoverage()])
    assert (scores.values["classes_present"], scores.values["class_entropy"]) == (1, 0)
    found = scores.protocol["class_coverage"]
    assert (found["reference_present"], found["reference_entropy"]) == (3, pytest.approx(1.5, abs=0.05))
