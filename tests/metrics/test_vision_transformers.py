"""DINOv2 and CLIP features: the published architectures with weights by a rule, against published code and torch-fidelity."""

from pathlib import Path

import pytest
import torch
import torch_fidelity
from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

from diffusion_lab.diffusion.levels import to_levels
from diffusion_lab.metrics.features.vision_transformers import CLIPFeatures, DINOv2, DINOv2Features
from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.reference import FeatureStatistics
from tests.metrics.random_vision import by_the_rule, dinov2_shapes, images, write_clip, write_dinov2
from tests.metrics.test_inception import AsBytes, pictures

# Of the published code, as `python -m tests.metrics.random_vision` prints them.
PUBLISHED = {
    False: [[0.98976, -1.19739, -1.43179, -0.0079], [0.03482, 0.13507, -0.27919, 0.44302]],
    True: [[0.99409, 1.05403, -1.78986, 1.05012], [0.44944, 1.16803, -0.67539, 1.01908]],
}


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> DINOv2Features:
    path = tmp_path_factory.mktemp("dinov2") / "weights.pth"
    return DINOv2Features("dinov2_s", path, sha256=write_dinov2(path))


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("clip") / "weights.pt"
    return path, write_clip(path)


@pytest.mark.parametrize("gated", [False, True])
def test_the_network_is_the_published_one(gated):
    network = DINOv2.of(by_the_rule(dinov2_shapes(gated=gated)))
    torch.testing.assert_close(network(images())[:, :4], torch.tensor(PUBLISHED[gated]), rtol=1e-4, atol=1e-4)


def test_dinov2_looks_as_torch_fidelity_does(dinov2, monkeypatch):
    monkeypatch.setattr(torch.hub, "load", lambda *_: DINOv2.of(by_the_rule(dinov2_shapes())))
    theirs = FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"])
    x = pictures(5, 1.0, 0.0, n=3)
    assert torch.equal(dinov2(x), theirs(to_levels(x, 256))[0])
    assert (dinov2.dim, dinov2.metric_name) == (64, "fd_dinov2_s_bilinear224")


def test_clip_looks_as_torch_fidelity_does(clip_file):
    path, sha256 = clip_file
    features = CLIPFeatures(path, sha256=sha256)
    theirs = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], str(path))
    x = pictures(6, 1.0, 0.0, n=3)
    assert torch.equal(features(x), theirs(to_levels(x, 256))[0])
    assert (features.dim, features.metric_name) == (32, "fd_clip_b_32_bilinear224")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_distance_is_that_of_torch_fidelity(clip_file):
    path, sha256 = clip_file
    features = CLIPFeatures(path, sha256=sha256)
    sets = [pictures(1, 1.5, 0.3, n=40), pictures(2, 1.0, 0.0, n=40)]
    moments = [FeatureStatistics(features.dim, [features(x)]).compute() for x in sets]
    theirs = torch_fidelity.calculate_metrics(
        input1=AsBytes(sets[0]), input2=AsBytes(sets[1]), fid=True,
        feature_extractor="clip-vit-b-32", feature_extractor_weights_path=str(path),
        **dict.fromkeys(("cuda", "cache", "verbose"), False),
    )  # fmt: skip
    assert frechet_distance(*moments) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
