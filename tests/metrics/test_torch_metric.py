"""torchmetrics' image metrics as columns: their values by hand, and reasons where they have none."""

import pytest
import torch
import torchmetrics
from torch import nn
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from diffusion_lab.conditions.computed import LowResolution
from diffusion_lab.data.order import fixed_subset
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.metrics import samples as drawing
from diffusion_lab.metrics.cost import NetworkEvaluations
from diffusion_lab.metrics.reference import quantise
from diffusion_lab.metrics.torch_metric import column
from diffusion_lab.store.measures import HIGH, LOW
from tests.metrics.random_inception import RandomFeatures
from tests.metrics.stand_ins import Broken, GaussianModel, RawPixels, TinyImages
from tests.metrics.test_drawer import Counting
from tests.metrics.test_score import scored

pytestmark = pytest.mark.filterwarnings("ignore:Metric `.*` will save all:UserWarning")
SHAPE = (1, 16, 16)


class Larger(TinyImages):
    """Images (1, 16, 16) of 17 levels: noise, brighter with the class."""

    shape = SHAPE

    def _load(self):
        super()._load()
        generator = torch.Generator().manual_seed(1)
        for split, (_, y) in self.splits.items():
            levels = torch.randint(0, 17, (len(y), *SHAPE), generator=generator) * (y + 1).view(-1, 1, 1, 1) // 3
            self.splits[split] = from_levels(levels, 17), y


class Wide(RawPixels):
    dim = 256


class Blocks(GaussianModel):
    """x = the field, enlarged, + 0.3 z."""

    conditions = ((1, 4, 4),)

    def decode(self, z, y=None):
        return (y.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.3 * z).clamp(-1, 1)


def larger(**options):
    return scored(**{"data": Larger(), "features": [Wide()], "model": GaussianModel(shape=SHAPE)} | options)


def as_bytes(x):
    return to_levels(x, 256).expand(-1, 3, -1, -1)


def by_hand(metric, seed, *updates):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for arguments, options in updates:
            metric.update(*arguments, **options)
        return metric.compute()


SETS = {
    "kid": (KernelInceptionDistance, {"subsets": 5, "subset_size": 30}),
    "kid_of_floats": (KernelInceptionDistance, {"subsets": 3, "subset_size": 20, "normalize": True}),
    "mifid": (MemorizationInformedFrechetInceptionDistance, {}),
    "fid": (FrechetInceptionDistance, {}),
}


@pytest.mark.parametrize("name", SETS)
def test_a_distance_is_that_of_the_same_images_by_hand(tmp_path, name):
    kind, options = SETS[name]
    metric = column("mine", kind(feature=RandomFeatures(8), **options), options)
    scores = larger(cache=tmp_path, metrics=[metric], num_samples=60, seed=3)
    real = Larger()
    real.prepare()
    images = [as_bytes(x) for x in (real.splits["train"][0], scores.samples)]
    images = [x / 255 for x in images] if options.get("normalize") else images
    assert len(images[1]) == 60
    updates = [((x,), {"real": real}) for x, real in zip(images, (True, False), strict=True)]
    found = by_hand(kind(feature=RandomFeatures(8), **options), 3, *updates)
    found = found if isinstance(found, tuple) else (found,)
    expected = dict(zip(("mine", "mine_std"), map(float, found), strict=False))
    assert scores.values == pytest.approx(expected, rel=1e-4)
    assert scores.protocol["mine"] == {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "arguments": options,
        "torchmetrics": torchmetrics.__version__,
        "num_images": 60,
        "num_reference": 300,
    }
    (measure,) = scores.measures
    assert (measure.better, measure.agrees) == (LOW, ("data", "samples", "reference", "mine"))


def test_what_it_draws_depends_on_the_seed_alone(tmp_path):
    """Not on draws before it, which it does not change either."""

    def kid(seed):
        metric = column("kid", KernelInceptionDistance(RandomFeatures(8), subsets=2, subset_size=10), {})
        return larger(cache=tmp_path, metrics=[metric], seed=seed).values["kid"]

    torch.manual_seed(5)
    first, state = kid(0), torch.get_rng_state()
    torch.rand(3)
    assert kid(0) == first
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_score_of_the_samples_alone(tmp_path):
    metric = column("isc", InceptionScore(RandomFeatures(8), splits=2), {})
    scores = larger(cache=tmp_path, metrics=[metric], seed=3)
    expected = by_hand(InceptionScore(RandomFeatures(8), splits=2), 3, ((as_bytes(scores.samples),), {}))
    assert [scores.values["isc"], scores.values["isc_std"]] == pytest.approx([float(x) for x in expected], rel=1e-5)
    assert (scores.measures[0].better, scores.protocol["isc"]["num_images"]) == (HIGH, 40)


def test_every_sample_is_given_where_few_are_kept_as_images(tmp_path, monkeypatch):
    """They are drawn once more, with their images, which are then in the cache."""
    monkeypatch.setattr(drawing, "KEPT_VALUES", 0)
    monkeypatch.setattr(drawing, "KEPT_IMAGES", 8)
    model, kid = Counting(), column("kid", KernelInceptionDistance(RandomFeatures(8), subset_size=40), {})
    plain = scored(tmp_path, model, metrics=[NetworkEvaluations()])
    assert (len(plain.samples), len(model.asked)) == (8, 40)
    for _ in range(2):
        scores = scored(tmp_path, model, metrics=[kid])
        assert (scores.protocol["kid"]["num_images"], len(model.asked)) == (40, 80)
    assert torch.equal(scores.samples[:8], plain.samples)


@pytest.mark.parametrize("name", ["ssim", "psnr"])
def test_a_pair_is_a_held_out_image_and_a_sample_for_its_condition(tmp_path, name):
    metric = StructuralSimilarityIndexMeasure(data_range=1.0)
    if name == "psnr":
        metric = torchmetrics.image.PeakSignalNoiseRatio(data_range=1.0)
    data = Larger()
    data.condition_on({"low": LowResolution(factor=4)})
    scores = larger(
        cache=tmp_path, model=Blocks(shape=SHAPE), data=data, metrics=[column(name, metric, {})], num_samples=30
    )
    x = data.splits["test"][0][fixed_subset(40, 30)]
    low = nn.functional.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    drawn = quantise((low + 0.3 * SampleNoise(0, torch.arange(30)).initial(SHAPE)).clamp(-1, 1), 17)
    expected = by_hand(metric, 0, (((drawn + 1) / 2, (x + 1) / 2), {}))
    assert scores.values[name] == pytest.approx(float(expected), rel=1e-5)
    assert scores.protocol[name] | {"split": "test", "num_images": 30} == scores.protocol[name]
    assert (scores.measures[0].better, scores.measures[0].agrees) == (HIGH, ("data", name))


@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_pair_needs_a_truth(tmp_path, num_classes):
    model = GaussianModel(num_classes, shape=SHAPE)
    ssim = column("ssim", StructuralSimilarityIndexMeasure(data_range=1.0), {})
    absent = larger(cache=tmp_path, model=model, metrics=[ssim]).protocol["absent"]
    reason = "compares samples with the images that they are drawn for, so it needs condition=vector or field"
    assert absent == {"ssim": reason}


def test_what_torchmetrics_refuses_is_a_reason(tmp_path):
    kid = column("kid", KernelInceptionDistance(RandomFeatures(8), subset_size=41), {})
    assert "`subset_size` should be smaller" in scored(tmp_path, metrics=[kid]).protocol["absent"]["kid"]
    few = column("kid", KernelInceptionDistance(RandomFeatures(8), subset_size=4), {})
    assert scored(tmp_path, Broken(), metrics=[few]).protocol["absent"]["kid"] == "6 of 40 samples are not finite"
    values = TinyImages()
    values.num_levels = None
    absent = scored(tmp_path, data=values, metrics=[few]).protocol["absent"]
    assert absent == {"kid": "reads images with grey levels and two axes"}


@pytest.mark.parametrize(
    ("kind", "takes"),
    [(torchmetrics.MeanMetric, "value"), (torchmetrics.image.QualityWithNoReference, "preds, target")],
)
def test_metrics_of_anything_but_images_are_refused(kind, takes):
    with pytest.raises(
        ValueError, match=f"metrics.mine: {kind.__name__}.update takes {takes}: choose a metric of images"
    ):
        column("mine", kind(), {})
    with pytest.raises(ValueError, match="in the name of a column"):
        column("a-b", StructuralSimilarityIndexMeasure(), {})
