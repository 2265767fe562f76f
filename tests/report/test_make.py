import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from diffusion_lab.report.make import make_report, report_on_runs
from diffusion_lab.report.read import read_sweep
from diffusion_lab.store import RunError, SweepDirectory
from diffusion_lab.store.status_file import Status

from .synthetic import write_sweep

SMALL = {"sampler.spacing.num_steps": ["10", "50"]}
HOSTILE = "</script><img src=x onerror=alert(1)>"


class Elements(HTMLParser):
    """Every start tag outside of scripts, with its attributes, and all text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sweep whose names and reasons would be markup, with a failed cell, and its report."""
    axes = {"note": [HOSTILE, "plain"], "sampler.spacing.num_steps": ["10", "50"], "seed": ["1", "2"]}
    sweep = write_sweep(tmp_path_factory.mktemp("outputs"), name="a<b>&c", axes=axes)
    failed = read_sweep(sweep).cells[-1]
    failed.run.metrics.unlink()
    Status("failed", reason=f"it said {HOSTILE}").write(failed.run.path)
    assert make_report(sweep) == sweep.report / "report.html"
    return sweep


def test_a_report_is_a_page_tables_and_figures_for_paper(made):
    written = {str(path.relative_to(made.report)) for path in made.report.rglob("*") if path.is_file()}
    assert {"report.html", "table.csv", "cells.csv", "table.md", "table.tex"} < written
    steps, effects = ("steps_fd_digits_cnn", "steps_bits_per_dim"), ("effects_fd_digits_cnn", "effects_bits_per_dim")
    for figure in (*steps, *effects, "seconds_fd_digits_cnn", "bound_by_t", "training_mse"):
        assert (made.report / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert (made.report / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")


def test_what_names_say_is_text_and_never_markup(made):
    page = Elements((made.report / "report.html").read_text())
    assert [attributes for tag, attributes in page.tags if tag == "img"] == []
    assert [tag for tag, _ in page.tags].count("script") == 4
    assert f"it said {HOSTILE}" in page.text
    assert "a<b>&c" in page.text


def test_nothing_on_the_page_points_elsewhere(made):
    page = Elements((made.report / "report.html").read_text())
    pointers = [a[key] for tag, a in page.tags for key in ("src", "href", "action", "srcset") if key in a]
    assert pointers == ["data:,"]
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_a_report_made_again_leaves_no_figure_of_the_one_before(made, tmp_path):
    sweep = SweepDirectory(shutil.copytree(made.outputs, tmp_path / "copy") / "sweeps" / made.path.name)
    for cell in read_sweep(sweep).cells[1:]:
        cell.run.metrics.unlink(missing_ok=True)
    make_report(sweep)
    left = {path.stem for path in (sweep.report / "figures").glob("[!.]*")}
    assert left == {"bound_by_t", "training_mse"}


def test_a_sweep_of_which_nothing_is_scored_has_a_report(tmp_path):
    sweep = write_sweep(tmp_path, axes=SMALL)
    for cell in read_sweep(sweep).cells:
        cell.run.metrics.unlink()
    assert "Nothing has been scored yet" in make_report(sweep).read_text()


def test_runs_of_several_sweeps_and_protocols_make_one_report(tmp_path):
    def fewer(choices, metrics):
        metrics["protocol"]["samples"]["num_images"] = 64

    one = write_sweep(tmp_path / "one", axes=SMALL)
    two = write_sweep(tmp_path / "two", axes=SMALL, change=fewer)
    runs = [path for sweep in (one, two) for path in sorted((sweep.outputs / "runs").iterdir())]
    page = report_on_runs(runs, tmp_path / "both", "diffusion-lab report").read_text()
    assert "of 2: measured differently, so not compared" in page
    assert (tmp_path / "both" / "figures" / "results_2" / "steps_fd_digits_cnn.pdf").is_file()


def test_no_run_at_all_is_one_sentence(tmp_path):
    with pytest.raises(RunError, match=r"there is no .*metrics\.json"):
        report_on_runs([tmp_path], tmp_path / "report", "")
    assert not (tmp_path / "report").exists()


@pytest.mark.thorough
def test_reporting_imports_no_torch(tmp_path):
    sweep = write_sweep(tmp_path, axes={"seed": ["1", "2"]})
    code = f"""
import sys
from pathlib import Path
from diffusion_lab.store import SweepDirectory
from diffusion_lab.report.make import make_report
make_report(SweepDirectory(Path({str(sweep.path)!r})))
heavy = {{"torch", "lightning", "hydra"}} & set(sys.modules)
assert not heavy, heavy
"""
    assert isinstance(sweep, SweepDirectory)
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("gap", [0.0, 2.0], ids=["undecided", "decided"])
def test_rows_are_chosen_in_advance_only_where_one_is_decided(tmp_path, gap):
    def change(choices, metrics):
        noise = 0.1 * (-1) ** int(choices["seed"]) * (choices["schedule"] == "linear")
        metrics["values"] |= {"fd_digits_cnn": 4.0 + noise + gap * (choices["schedule"] == "linear")}
        metrics["values"].pop("bits_per_dim")

    axes = {"schedule": ["linear", "cosine"], "seed": ["1", "2", "3", "4"]}
    page = make_report(write_sweep(tmp_path, axes=axes, change=change)).read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert [len(json.loads(data)[name]) for name in ("shown", "preview")] == ([2, 0] if gap else [0, 2])
    assert ("smallest that these seeds can show" in page) == (not gap)
