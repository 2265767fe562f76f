"""What every metric owes its readers, and what a user's own one gets."""

import pytest

from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.metrics.inception_score import InceptionScore
from diffusion_lab.metrics.kernel_distance import KernelDistance
from diffusion_lab.metrics.metric import FeatureMetric, Metric, Naming, Scores
from diffusion_lab.metrics.precision_recall import PrecisionRecall
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store.measures import LOW, Measure, merged, read_measures
from tests.metrics.stand_ins import METRICS, RawPixels
from tests.metrics.test_drawer import Counting
from tests.metrics.test_score import scored


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
def test_a_metric_says_what_its_numbers_mean(metric):
    first, second = Naming("one", "fd_one"), Naming("two", "fd_two", first=False)
    measures = list(metric.measures([first, second]))
    names = [measure.name for measure in measures]
    assert len(set(names)) == len(names), "two sets of features have two columns"
    assert all(measure.meaning for measure in measures)
    assert all("features" in m.agrees or "features_two" in m.agrees for m in measures if "two" in m.name)


@pytest.mark.parametrize(
    ("metric", "option", "value"),
    [
        (KernelDistance, "num_subsets", 0),
        (KernelDistance, "subset_size", 1),
        (PrecisionRecall, "neighbours", 0),
        (InceptionScore, "num_parts", 0),
        (BitsPerDim, "num_images", 0),
        (BitsPerDim, "batch_size", 0),
        (BitsPerDim, "max_terms", 1),
        (BitsPerDim, "num_draws", 0),
    ],
)
def test_an_impossible_number_is_named(metric, option, value):
    with pytest.raises(ValueError, match=rf"{option}={value} must be at least"):
        metric(**{option: value})


class Shift(FeatureMetric):
    def feature_measures(self, naming):
        yield naming.measure("shift", better=LOW, meaning="distance of the means")

    def score_view(self, view):
        shift = float((view.drawn.vectors().mean(0) - view.some_real.mean(0)).norm())
        return Scores(values={view.naming("shift"): shift})


class Fails(Metric):
    def measures(self, namings):
        return [Measure("done", "done"), Measure("left", "left")]

    def score(self, subject):
        scores = Scores(values={"done": 1.0})
        with scores.attempt(["done", "left"]):
            raise UnmeasurableError("no light")
        return scores


def test_a_metric_of_the_users_own_is_a_column_or_a_reason(tmp_path):
    scores = scored(tmp_path, metrics=[Shift(), Fails()])
    assert scores.values.keys() == {"shift", "done"}
    assert scores.protocol["absent"] == {"left": "no light"}
    assert [measure.name for measure in read_measures(scores.content())] == ["shift", "done", "left"]


def test_two_numbers_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have a value named shift: remove one of them"):
        scored(tmp_path, metrics=[Shift(), Shift()])


def test_measures_of_several_scores_stand_where_they_occur_first():
    def row(names):
        return [Measure(name, name) for name in names]

    assert "".join(m.name for m in merged([row("ace"), row("abce"), row("xa"), row("ed")])) == "acebxd"


@pytest.mark.parametrize(
    "entry",
    [
        "precision",
        {"name": "a/b", "label": "a"},
        {"name": "a", "label": 3},
        {"name": "a", "label": "a", "better": "larger"},
        {"name": "a", "label": "a", "decimals": 10**9},
        {"name": "a", "label": "a", "agrees": [["data"]]},
    ],
    ids=str,
)
def test_a_description_from_a_stranger_is_read_or_refused(entry):
    with pytest.raises(ValueError, match=r"measures"):
        read_measures({"measures": [entry]})
    newer = {"name": "a", "label": "a", "colour": "of a newer version"}
    assert read_measures({"measures": [newer]}) == [Measure("a", "a")]


class Sums(RawPixels):
    name, identity, metric_name, dim = "sums", "1" * 64, "fd_sums", 1

    def check(self, shape):
        pass

    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True)


def test_several_features_look_at_one_drawing_and_each_has_its_columns(tmp_path):
    model = Counting()
    both = scored(tmp_path, model, features=[RawPixels(), Sums()])
    assert model.asked == list(range(40)), "drawn once"
    for part, names in ((RawPixels(), ("precision", "precision")), (Sums(), ("precision_sums", "precision"))):
        alone = scored(tmp_path, model, features=[part])
        there, here = names
        assert both.values[there] == alone.values[here]
        assert both.values[part.metric_name] == alone.values[part.metric_name]
        assert both.protocol["features" if there == here else "features_sums"] == alone.protocol["features"]
    assert model.asked == list(range(40)), "and found by whoever asks for one of them"
    assert {m.label for m in both.measures} >= {"precision", "precision (sums)", "fd_raw", "fd_sums"}
    (precision,) = [measure for measure in both.measures if measure.name == "precision_sums"]
    assert precision.how(both.protocol)["features_sums"] == {"name": "sums", "identity": "1" * 64}


def test_features_that_come_later_see_the_samples_that_are_there(tmp_path):
    first, later = Counting(), Counting()
    alone = scored(tmp_path, first, features=[RawPixels()], num_samples=200)
    both = scored(tmp_path, later, features=[RawPixels(), Sums()], num_samples=200)
    assert later.asked == list(range(200)), "images are not kept"
    assert both.values["seconds_per_1000_samples"] == alone.values["seconds_per_1000_samples"]
    assert both.values["fd_raw"] == alone.values["fd_raw"]
