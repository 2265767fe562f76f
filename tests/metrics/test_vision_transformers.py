"""DINOv2 and CLIP features: the published architectures with weights by a rule, against published code and torch-fidelity."""

import hashlib
import io
from pathlib import Path

import pytest
import torch
import torch_fidelity
from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.metrics.features import WeightsError
from diffusion_lab.metrics.features.vision_transformers import SHA256, CLIPFeatures, DINOv2, DINOv2Features
from tests.metrics.random_vision import by_the_rule, dinov2_shapes, images, write_clip, write_dinov2
from tests.metrics.test_inception import AsBytes, Payload, pictures

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
    from diffusion_lab.metrics.frechet_distance import frechet_distance
    from diffusion_lab.metrics.reference import FeatureStatistics

    path, sha256 = clip_file
    features = CLIPFeatures(path, sha256=sha256)
    sets = [pictures(1, 1.5, 0.3, n=40), pictures(2, 1.0, 0.0, n=40)]
    moments = []
    for x in sets:
        statistics = FeatureStatistics(features.dim)
        statistics.update(features(x))
        moments.append(statistics.compute())
    theirs = torch_fidelity.calculate_metrics(
        input1=AsBytes(sets[0]), input2=AsBytes(sets[1]), fid=True,
        feature_extractor="clip-vit-b-32", feature_extractor_weights_path=str(path),
        **dict.fromkeys(("cuda", "cache", "verbose"), False),
    )  # fmt: skip
    assert frechet_distance(*moments) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)


def test_grey_images_of_few_levels_are_shown_as_bytes_in_three_channels(dinov2):
    levels = torch.randint(0, 17, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x = from_levels(levels, 17)
    seen = (levels.float() * 255 / 16).round().repeat(1, 3, 1, 1)
    resized = interpolate_bilinear_2d_like_tensorflow1x(seen, size=(224, 224), align_corners=False)
    assert resized.shape == (2, 3, 224, 224)
    assert torch.equal(dinov2(x), dinov2(from_levels(seen.to(torch.uint8), 256)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dinov2.train()(x), dinov2(x))
    for shape in ((2,), (4, 8, 8)):
        with pytest.raises(ValueError, match="images with 1 or 3 channels"):
            dinov2.check(shape)


def build(name: str, *given, **options):
    return CLIPFeatures(*given, **options) if name == "clip_b_32" else DINOv2Features(name, *given, **options)


@pytest.mark.parametrize("name", SHA256)
def test_without_the_published_file_it_is_said_which_from_where_and_to_where(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(
        WeightsError, match=rf"features={name} needs the file .*https://.* features.{name}.download=true"
    ) as error:
        build(name)
    assert str(tmp_path / "hub" / "checkpoints") in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "other").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(WeightsError, match=r"other is not .*: its SHA-256 is"):
        build(name, tmp_path / "other")


@pytest.mark.parametrize("name", ["dinov2_s", "clip_b_32"])
def test_a_file_of_other_content_is_refused_in_one_sentence(name, tmp_path):
    trace, stream = tmp_path / "it ran", io.BytesIO()
    torch.save({"cls_token": Payload(trace)}, stream)
    for content in (b"", b"truncated", stream.getvalue()):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(WeightsError, match="does not hold the weights of this network") as error:
            build(name, tmp_path / "other", sha256=hashlib.sha256(content).hexdigest())
        assert "\n" not in str(error.value)
    assert not trace.exists()
