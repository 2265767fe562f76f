import json

import pytest
import torch

from diffusion_lab.metrics.class_accuracy import class_distances, classified_as_label
from diffusion_lab.metrics.features import Pixels
from diffusion_lab.metrics.features.classifiers import ClassifierFeatures
from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.reference import Reference, UnmeasurableError
from diffusion_lab.store import CacheDirectory
from tests.metrics.stand_ins import GaussianModel, RawPixels, TinyImages, moments
from tests.metrics.test_score import scored


def test_a_distance_of_a_class_is_that_of_its_images_alone(tmp_path):
    data, features = TinyImages(), RawPixels()
    data.prepare()
    x, y = data.splits["train"]
    vectors = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    asked = torch.arange(60) % 3
    found = class_distances(vectors, asked, Reference(data, features, CacheDirectory(tmp_path)), "train")
    assert found["class"] == [0, 1, 2]
    assert found["num_samples"] == [20, 20, 20]
    assert found["num_reference"] == torch.bincount(y).tolist()
    for label in range(3):
        exact = frechet_distance(moments(vectors[asked == label]), moments(x[y == label].flatten(1)))
        assert found["distance"][label] == pytest.approx(exact, rel=1e-9)
    reads = data.reads
    assert class_distances(vectors, asked, Reference(data, features, CacheDirectory(tmp_path)), "train") == found
    assert data.reads == reads  # from the cache


def test_a_class_without_samples_is_left_out_and_too_many_numbers_are_refused(tmp_path, monkeypatch):
    data = TinyImages()
    data.prepare()
    reference = Reference(data, RawPixels(), CacheDirectory(tmp_path))
    asked = torch.tensor([0] * 5 + [1] + [2] * 4)
    assert class_distances(torch.randn(10, 4), asked, reference, "train")["class"] == [0, 2]
    monkeypatch.setattr("diffusion_lab.metrics.class_accuracy.MAX_VALUES", 10)
    with pytest.raises(UnmeasurableError, match="3 covariances of 4 features"):
        class_distances(torch.randn(10, 4), asked, reference, "train")


def test_accuracy_is_the_share_that_is_classified_as_its_label():
    features = ClassifierFeatures("digits_cnn")
    x = torch.randn(7, 1, 8, 8).clamp(-1, 1)
    predicted = features.classes(features(x))
    assert classified_as_label(features, features(x), predicted).all()
    labels = torch.where(torch.arange(7) < 3, predicted, (predicted + 1) % 10)
    assert float(classified_as_label(features, features(x), labels).double().mean()) == pytest.approx(3 / 7)
    with pytest.raises(UnmeasurableError, match="features=pixels have no classes"):
        classified_as_label(Pixels(), torch.zeros(2, 4), torch.zeros(2))


def test_a_score_of_a_conditional_model_tells_class_by_class(tmp_path):
    scores = scored(tmp_path, GaussianModel(num_classes=3))
    assert 0 < scores.values["accuracy_raw"] <= 1
    by_class = scores.curves["classes"]
    assert by_class.keys() == {"class", "fd_raw", "num_samples", "num_reference"}
    assert sum(by_class["num_samples"]) == 40
    json.dumps(scores.curves, allow_nan=False)
    plain = scored(tmp_path)
    assert "accuracy_raw" not in plain.values
    assert "classes" not in plain.curves
    assert not any("class" in name or "accuracy" in name for name in plain.protocol["absent"])
