import json
import math

import pytest
import torch

from diffusion_lab.diffusion.levels import from_levels
from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.metrics.copying import Copying
from diffusion_lab.metrics.cost import Cost
from diffusion_lab.metrics.drawer import Generated
from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.pictures import PAIRS
from diffusion_lab.metrics.samples import KEPT_IMAGES
from diffusion_lab.metrics.score import ScorePlan, score
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.sliced_wasserstein import SlicedWasserstein
from diffusion_lab.metrics.stored import digest, silent
from diffusion_lab.store import CacheDirectory
from diffusion_lab.store.measures import read_measures
from diffusion_lab.versions import versions
from tests.metrics.stand_ins import METRICS, Broken, Constant, GaussianModel, RawPixels, Silent, TinyImages, moments


def scored(
    cache,
    model=None,
    data=None,
    features=None,
    metrics=METRICS,
    progress=silent,
    training=None,
    weights="raw",
    **settings,
):
    settings = Evaluation(**({"batch_size": 16} | settings))
    model, features = model or GaussianModel(), features or [RawPixels()]
    source = Generated(
        generator=model,
        weights=weights,
        identities=[type(model).__name__] * len(features),
        cache=CacheDirectory(cache),
        training=training or {},
    )
    return score(ScorePlan(source, data or TinyImages(), features, metrics, settings), progress)


def test_every_number_of_the_table_is_there_and_finite(tmp_path):
    training = {"steps": 10, "seconds": 1.5, "images": 640}
    metrics = [*(metric for metric in METRICS if not isinstance(metric, BitsPerDim)), BitsPerDim(num_draws=2)]
    scores = scored(tmp_path, metrics=metrics, training=training)
    assert {
        *("fd_raw", "fd_raw_floor", "kd_raw", "kd_raw_standard_error", "precision", "recall"),
        *("precision_low", "precision_high", "recall_low", "recall_high"),
        *("bits_per_dim", "bits_per_dim_standard_error", "bits_per_dim_noise_error", "bits_per_dim_prior"),
        *("parameters", "nfe", "seconds_per_1000_samples", "peak_memory_mib", "flops_per_sample"),
        *("training_steps", "training_seconds", "training_images", "classes_present", "class_entropy"),
    } == set(scores.values)
    assert all(math.isfinite(value) for value in scores.values.values())
    assert scores.values["flops_per_sample"] == 5000
    assert scores.values["training_images"] == 640
    assert scores.protocol["absent"] == {}


@pytest.mark.parametrize(("num_samples", "few"), [(2, True), (40, False)])
def test_too_few_images_for_a_distance_are_named(tmp_path, num_samples, few):
    detail = scored(tmp_path, num_samples=num_samples).details["fd_raw"]
    assert ("too few images" in detail) == few


def test_features_that_take_too_much_memory_have_a_reason(tmp_path, monkeypatch):
    """Of 300 and 40 images of 500 features 40 fit, one by one; others are measured on as many."""
    for module in ("reference", "metric"):
        monkeypatch.setattr(f"diffusion_lab.metrics.{module}.MOST_VALUES", 40 * 500)
    wide = RawPixels()
    wide.check, wide.dim, wide.forward = lambda _: None, 500, lambda x: x.flatten(1).repeat(1, 125)
    scores = scored(tmp_path, features=[wide])
    assert "500 features of 300 images" in scores.protocol["absent"]["fd_raw"]
    assert scores.protocol["kernel_distance"]["num_reference"] == 40
    assert {"kd_raw", "precision", "recall"} <= scores.values.keys()


def test_the_distance_is_between_the_samples_and_all_training_images(tmp_path):
    data = TinyImages()
    scores = scored(tmp_path, data=data)
    real = moments(data.splits["train"][0])
    assert scores.samples.shape == (40, 1, 2, 2)
    assert scores.values["fd_raw"] == pytest.approx(frechet_distance(moments(scores.samples), real), rel=1e-9)
    floor = frechet_distance(moments(data.splits["test"][0]), real)
    assert scores.values["fd_raw_floor"] == pytest.approx(floor, rel=1e-9)


def test_a_score_that_needs_no_samples_draws_those_of_the_picture(tmp_path):
    scores = scored(tmp_path, metrics=[BitsPerDim()], num_samples=500)
    assert len(scores.samples) == scores.protocol["samples"]["num_images"] == KEPT_IMAGES
    assert scores.values["bits_per_dim"] == scored(tmp_path, num_samples=40).values["bits_per_dim"]


def test_the_floor_is_at_the_same_number_of_images_or_says_at_which(tmp_path):
    assert scored(tmp_path, num_samples=30).protocol["floor"] == {"split": "test", "num_images": 30}
    more = scored(tmp_path, num_samples=50)
    assert more.protocol["samples"]["num_images"] == 50
    assert more.protocol["floor"]["num_images"] == 40


def test_a_test_split_as_reference_is_not_its_own_floor(tmp_path):
    scores = scored(tmp_path, reference="test")
    assert scores.protocol["reference"] == {"split": "test", "num_images": 40}
    assert scores.protocol["floor"]["split"] == "train"
    assert scores.values["fd_raw_floor"] > 0


def test_a_conditional_model_is_asked_for_the_classes_of_the_data(tmp_path):
    model = GaussianModel(num_classes=3)
    scores = scored(tmp_path, model)
    counts = torch.bincount(torch.cat(model.labels), minlength=3)
    assert (counts - 40 * torch.tensor([0.5, 0.25, 0.25])).abs().max() < 14  # over four standard deviations
    assert scores.protocol["samples"]["labels"] == "drawn from the shares of the classes in train"
    assert scored(tmp_path).protocol["samples"]["labels"] == "none"


def test_what_was_measured_and_how_is_written_down(tmp_path):
    data = TinyImages()
    protocol = scored(tmp_path, data=data, seed=3).protocol
    assert protocol["data"] == {"name": "tiny", "identity": data.identity, "shape": [1, 2, 2]}
    assert protocol["features"] == {"name": "raw", "identity": "0" * 64}
    samples = {"num_images": 40, "seed": 3, "precision": "32-true", "num_levels": 17, "labels": "none"}
    assert protocol["samples"] == samples
    assert protocol["reference"] == {"split": "train", "num_images": 300}
    assert protocol["kernel_distance"]["subset_size"] == 40
    assert protocol["precision_recall"] == {"neighbours": 3, "num_reference": 40}
    assert protocol["weights"] == "raw"
    assert protocol["model"] == {"sampler": "one step"}
    bound = protocol["bound"]
    assert (bound["kind"], bound["num_images"], bound["num_terms"], bound["split"]) == ("made up", 40, 2, "test")
    assert protocol["versions"] == versions()


def test_scores_are_plain_json(tmp_path):
    scores = scored(tmp_path)
    content = json.loads(json.dumps(scores.content(), allow_nan=False))
    assert all(content[key] == scores.content()[key] for key in ("values", "protocol", "curves"))
    assert read_measures(content) == scores.measures
    assert len(scores.curves["bits_per_dim"]["terms"]) == 2


def test_scoring_twice_gives_the_same_numbers_and_another_seed_others(tmp_path):
    timed = {"seconds_per_1000_samples", "peak_memory_mib"}

    def values(**settings):
        return {k: v for k, v in scored(tmp_path, **settings).values.items() if k not in timed}

    assert values() == values()
    assert values(seed=1)["fd_raw"] != values()["fd_raw"]
    assert values(batch_size=7) == pytest.approx(values(), rel=1e-9)


def test_other_weights_have_samples_of_their_own_and_no_score_changes_any(tmp_path):
    models = GaussianModel(), GaussianModel(mean=-0.2)
    before = [digest(model.weights()) for model in models]
    raw, averaged = (scored(tmp_path, m, weights=w) for m, w in zip(models, ("raw", "ema_0.9"), strict=True))
    assert (raw.protocol["weights"], averaged.protocol["weights"]) == ("raw", "ema_0.9")
    assert averaged.samples.mean() == pytest.approx(float(raw.samples.mean()) - 0.2, abs=0.05)
    assert [digest(model.weights()) for model in models] == before


def test_a_network_that_guides_decides_samples(tmp_path):
    """A guiding snapshot is not among the weights, and the record calls it by its moment only."""

    class Guided(GaussianModel):
        def __init__(self, shift):
            super().__init__()
            self.guiding = Constant(shift)

        def guiding_weights(self):
            return self.guiding.state_dict()

        def decode(self, z, y=None):
            return super().decode(z, y) + self.guiding.value

    same, first, second = (scored(tmp_path, Guided(shift), num_samples=32) for shift in (0.0, 0.0, 0.4))
    assert torch.equal(same.samples, first.samples)
    assert not torch.equal(first.samples, second.samples)


def test_what_does_not_exist_has_a_reason(tmp_path):
    absent = scored(tmp_path, Silent()).protocol["absent"]
    assert absent == {"bits_per_dim": "this model has no likelihood"}
    scores = scored(tmp_path, num_samples=3)
    assert "3 neighbours" in scores.protocol["absent"]["precision"]
    assert "precision" not in scores.values
    assert "kd_raw" in scores.values


def test_samples_that_are_not_finite_make_no_score_but_no_crash(tmp_path):
    scores = scored(tmp_path, Broken())
    for name in ("fd_raw", "kd_raw", "precision", "recall"):
        assert scores.protocol["absent"][name] == "6 of 40 samples are not finite"
        assert name not in scores.values
    assert "fd_raw_floor" in scores.values
    assert "bits_per_dim" in scores.values


def test_a_number_that_is_not_finite_is_no_number(tmp_path):
    class Diverged(GaussianModel):
        def likelihood(self, *arguments):
            likelihood = super().likelihood(*arguments)
            likelihood.bits_per_dim[0] = math.inf
            return likelihood

    scores = scored(tmp_path, Diverged())
    assert scores.protocol["absent"]["bits_per_dim"] == "the result is inf"
    assert "bits_per_dim" not in scores.values


def test_data_and_features_must_belong_together(tmp_path):
    features = RawPixels()
    features.dim = 5
    with pytest.raises(ValueError, match="want 5 values"):
        scored(tmp_path, features=[features])


def test_the_cache_is_used_for_the_next_model(tmp_path):
    data = TinyImages()
    scored(tmp_path, data=data)
    reads = data.reads
    scored(tmp_path, Silent(), data=data)
    assert data.reads - reads == 40 + PAIRS  # test images whose likelihood and whose reconstruction was asked for


class NoiseToTest(TinyImages):
    """The same training images, and noise as test images."""

    def _load(self):
        super()._load()
        x, y = self.splits["test"]
        levels = torch.randint(0, 17, x.shape, generator=torch.Generator().manual_seed(7))
        self.splits["test"] = from_levels(levels, 17), y.flip(0)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_no_test_image_counts_where_validation_is_the_reference(tmp_path, num_classes):
    metrics = [m for m in METRICS if not isinstance(m, Cost)] + [Copying(), SlicedWasserstein(num_images=30, patches=4)]
    found = {}
    for reference in ("validation", "train"):
        for kind in (TinyImages, NoiseToTest):
            data, cache = kind(), tmp_path / f"{reference}-{kind.__name__}"
            data.hold_back(60)
            scores = scored(cache, GaussianModel(num_classes), data, metrics=metrics, reference=reference)
            found[reference, kind] = scores.content() | {"shown": (scores.samples, scores.reconstructions)}
    one, other = (found["validation", kind] for kind in (TinyImages, NoiseToTest))
    assert all(torch.equal(a, b) for a, b in zip(one.pop("shown"), other.pop("shown"), strict=True) if a is not None)
    assert one == other
    assert found["train", TinyImages]["values"] != found["train", NoiseToTest]["values"]
    protocol = one["protocol"]
    assert protocol["reference"] == {"split": "validation", "num_images": 60}
    assert protocol["bound"]["split"] == protocol["copying"]["split"] == "validation"
    assert protocol["floor"] == {"split": "train", "num_images": 60}
    assert protocol["samples"]["num_images"] == 60
    assert "validation images" in one["sources"]["bits_per_dim"]
    assert found["train", TinyImages]["protocol"]["reference"] == {"split": "train", "num_images": 240}


def test_a_reference_that_was_not_held_out_is_refused():
    with pytest.raises(ValueError, match=r"evaluation\.reference=validation.*data\.validation=N"):
        Evaluation(reference="validation").check(TinyImages())
    data = TinyImages()
    data.hold_back(5)
    Evaluation(reference="validation").check(data)
