"""Metrics and features as a user chooses them and adds their own, from training to the table."""

from __future__ import annotations

import json

from .conftest import STRIDED, TINY

MINE = """\
from diffusion_lab.metrics.metric import FeatureMetric
from diffusion_lab.store.measures import HIGH


class Brightness(FeatureMetric):
    def __init__(self, times: float = 1.0):
        self.times = times

    def feature_measures(self, naming):
        yield naming.measure("brightness", better=HIGH, meaning="how bright the samples are")

    def score_view(self, view, scores):
        scores.record(view.naming("brightness"), self.times * (1 + float(view.drawn.vectors().mean())))
"""
# Without options of metrics and features that a test leaves out.
SMALL = [option for option in TINY if not option.startswith(("metrics", "features"))] + STRIDED
OWN = ["+metrics.mine._target_=mine.Brightness", "+metrics.mine.times=2.0"]


def test_a_metric_of_the_users_own_goes(lab, monkeypatch):
    """A metric of the users own goes from an override to every table."""
    (lab.folder / "mine.py").write_text(MINE)
    options = ["features=[pixels,digits_cnn]", "metrics=[frechet_distance]", *OWN]
    out = lab.done("train", "-m", *SMALL, *options, "seed=1,2", "hydra.sweeper.name=x")
    score = json.loads(next(lab.folder.glob("outputs/runs/*/metrics.json")).read_text())
    assert [measure["name"] for measure in score["measures"]] == [
        *("fd_pixels", "fd_pixels_floor", "fd_digits_cnn", "fd_digits_cnn_floor"),
        *("brightness", "brightness_digits_cnn"),
    ]
    assert "brightness (digits_cnn) ↑" in " ".join(out.split()), "in the table of the sweep"
    (table,) = lab.folder.glob("outputs/sweeps/x/report/*.md")
    assert "brightness" in table.read_text()

    monkeypatch.setenv("DIFFUSION_LAB_TARGETS", "mine")  # the model's folder names it now
    out = lab.done("evaluate", "features=pixels")
    assert "how bright the samples are" in out, "the model's own choice of metrics"
    assert "digits_cnn" not in out
