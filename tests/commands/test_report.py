"""`diffusion-lab report`: figures for a poster, and runs that are named wrongly."""

import pytest

from ..report.synthetic import write_sweep
from .conftest import STRIDED, TINY

AXES = {"schedule": ["linear", "cosine"], "sampler": ["strided", "ddim"], "seed": ["1", "2"]}


@pytest.fixture
def swept(lab):
    return write_sweep(lab.folder / "outputs", axes=AXES)


@pytest.mark.thorough
def test_figures_for_a_poster(lab, swept):
    """One of each main measure, as vectors and as pixels, beside the report and without it."""
    lab.done("report", "format=figure")
    folder = swept.path / "figure"
    assert {path.name for path in folder.glob("[!.]*")} == {
        f"{measure}.{form}" for measure in ("fd_digits_cnn", "bits_per_dim") for form in ("pdf", "svg", "png")
    }
    assert (folder / "fd_digits_cnn.pdf").read_bytes().startswith(b"%PDF")
    assert "<image" not in (folder / "fd_digits_cnn.svg").read_text()
    assert not swept.report.exists()
    lab.done("report", "runs=outputs/runs", "format=figure", "to=talk")
    assert (lab.folder / "talk" / "bits_per_dim.svg").is_file()


def test_figures_go_to_no_tracker(lab, swept, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    lab.refused("report", "format=figure", "logger=wandb", said="logger has no effect")
    lab.refused("report", "format=pdf", said=("page", "figure"))


def test_a_report_on_models_names_the_scores(lab):
    lab.given("train", *TINY, *STRIDED)
    lab.refused("report", "runs=outputs/models", said="runs=outputs/runs")
