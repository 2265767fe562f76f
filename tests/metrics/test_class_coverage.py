import math

import pytest
import torch

from diffusion_lab.data.digits import Digits
from diffusion_lab.metrics.class_coverage import ClassCoverage, class_coverage
from diffusion_lab.metrics.features.classifiers import ClassifierFeatures
from diffusion_lab.metrics.samples import TrainedModel
from diffusion_lab.metrics.score import score
from diffusion_lab.metrics.settings import Evaluation

from .stand_ins import GaussianModel


def test_all_alike_one_alone_and_what_lies_between():
    assert class_coverage(torch.arange(40) % 8) == (8, pytest.approx(3))
    assert class_coverage(torch.full((40,), 3)) == (1, 0)
    assert class_coverage(torch.tensor([0, 0, 0, 5])) == (2, pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2))


def test_digits_cover_their_classes_and_a_model_of_one_image_does_not(tmp_path):
    features, data = ClassifierFeatures("digits_cnn"), Digits(batch_size=8, seed=0)
    x, _ = next(data.batches("test", 360))
    present, entropy = class_coverage(features.classes(features(x)))
    assert present == 10
    assert entropy == pytest.approx(math.log2(10), abs=0.02)

    class OneImage(GaussianModel):
        def __init__(self):
            super().__init__()
            self.shape, self.num_levels = (1, 8, 8), 17

        def decode(self, z, y=None):
            return x[:1].expand(len(z), -1, -1, -1)

        def latents(self, indices, seed):
            return torch.zeros(len(indices), 1)

    settings = Evaluation(num_samples=12, weights="raw")
    scores = score(
        TrainedModel(OneImage(), ["one image"], tmp_path),
        data,
        [features],
        [ClassCoverage()],
        settings,
    )
    assert scores.values["classes_present"] == 1
    assert scores.values["class_entropy"] == 0
    assert scores.protocol["class_coverage"]["reference_present"] == 10
    assert scores.protocol["class_coverage"]["reference_entropy"] == pytest.approx(math.log2(10), abs=0.02)
