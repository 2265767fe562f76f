"""Features with published weights: what they are shown, and what their file must be. All weights here are random."""

import hashlib
import io
from pathlib import Path

import pytest
import torch

from diffusion_lab.diffusion.levels import from_levels
from diffusion_lab.metrics.features import WeightsError
from diffusion_lab.metrics.features.inception import FILE_NAME, InceptionFeatures
from diffusion_lab.metrics.features.inception import SHA256 as OF_INCEPTION
from diffusion_lab.metrics.features.vision_transformers import SHA256, CLIPFeatures, DINOv2Features
from tests.hostile import Harm
from tests.metrics.random_vision import write_clip, write_dinov2

SOME = ["inception", "dinov2_s", "clip_b_32"]


def build(name, *given, **options):
    if name.startswith("dinov2"):
        return DINOv2Features(name, *given, **options)
    return {"inception": InceptionFeatures, "clip_b_32": CLIPFeatures}[name](*given, **options)


def refused(name, match, *given, **options) -> str:
    """The sentence that it is refused with."""
    with pytest.raises(WeightsError, match=match) as error:
        build(name, *given, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module", params=SOME)
def features(request, random_inception, tmp_path_factory):
    if request.param == "inception":
        return InceptionFeatures(**random_inception._asdict())
    path = tmp_path_factory.mktemp(request.param) / "weights"
    return build(request.param, path, sha256=(write_clip if request.param == "clip_b_32" else write_dinov2)(path))


@pytest.mark.thorough
def test_grey_images_of_few_levels_are_shown_as_bytes(features):
    """In three channels; and neither the mode, nor autocast, nor the rest of the batch changes anything."""
    levels = torch.randint(0, 17, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x = from_levels(levels, 17)
    shown = (levels.float() * 255 / 16).round().to(torch.uint8).repeat(1, 3, 1, 1)
    seen = features(x)
    assert torch.equal(features(from_levels(shown, 256)), seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features.train()(x), seen)
    torch.testing.assert_close(features(x[1:]), seen[1:], rtol=1e-4, atol=1e-5)


def test_points_and_other_channels_are_refused(features):
    for shape in ((2,), (4, 8, 8)):
        with pytest.raises(ValueError, match="images with 1 or 3 channels"):
            features.check(shape)
    features.check([1, 28, 28])


@pytest.mark.parametrize("name", ["inception", *SHA256])
def test_a_file_that_is_missing_or_another_is_named(name, tmp_path, monkeypatch):
    """The file, where to download it and where to put it; a file with another digest is not opened."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for loader in (torch, torch.jit):
        monkeypatch.setattr(loader, "load", lambda *_, **__: pytest.fail("it was opened"))
    missing = rf"features={name} needs the file .*https://.* features.{name}.download=true"
    assert str(tmp_path / "hub" / "checkpoints") in refused(name, missing)
    for content in (b"", b"truncated", b"\x80\x04cos\nsystem\n"):
        (tmp_path / "other").write_bytes(content)
        refused(name, r"other is not .*: its SHA-256 is", tmp_path / "other")
    assert OF_INCEPTION.startswith(FILE_NAME.removesuffix(".pth").rsplit("-", 1)[1])


@pytest.mark.parametrize("name", SOME)
def test_nothing_is_unpickled_even_if_the_digest_is_right(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate(({"cls_token": Harm()}, {"fc.weight": torch.zeros(2)}, [1, 2], b"short")):
        stream, path = io.BytesIO(), tmp_path / f"{number}"
        torch.save(content, stream)
        path.write_bytes(content if isinstance(content, bytes) else stream.getvalue())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        refused(name, f"does not hold the weights of features={name}", path, sha256=digest)
    assert not Path("harm").exists()


def test_download_fetches_once_and_checks(tmp_path, random_inception, monkeypatch):
    """Over a file:// address; the folder is made, a wrong digest leaves nothing behind. No network is one sentence."""
    address = "diffusion_lab.metrics.features.inception.URL_INCEPTION_V3"
    target = tmp_path / "new" / "weights.pth"
    for url in ("http://127.0.0.1:9/weights.pth", Path(random_inception.path).as_uri()):
        monkeypatch.setattr(address, url)
        refused("inception", "could not be downloaded .* put it there", target, download=True)
        assert list(target.parent.iterdir()) == []
    InceptionFeatures(target, download=True, sha256=random_inception.sha256)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("fetched twice"))
    InceptionFeatures(target, download=True, sha256=random_inception.sha256)
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]
