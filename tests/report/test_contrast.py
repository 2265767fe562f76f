"""The families side by side: who stands for each, with which numbers, and what a browser shows of them."""

from pathlib import Path

import pytest

from diffusion_lab.report.make import make_report
from diffusion_lab.report.read import read_sweep
from diffusion_lab.report.sprites import contenders
from diffusion_lab.report.table import build_table

from .synthetic import samples, table_of, write_sweep

AXES = {"model": ["diffusion", "gan"], "sampler.spacing.num_steps": ["10", "50"], "seed": ["1", "2"]}


def family(choices, metrics):
    name = choices["model"]
    metrics["protocol"]["model"] = {"family": name}
    if name == "gan":
        del metrics["values"]["bits_per_dim"], metrics["protocol"]["bound"], metrics["curves"]["bits_per_dim"]
        metrics["protocol"]["absent"]["bits_per_dim"] = "this model has no likelihood"
        metrics["values"] |= {"nfe": 1, "training_seconds": 61.0, "parameters": 1_234_567}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    sweep = write_sweep(tmp_path_factory.mktemp("outputs"), axes=AXES, change=family)
    for run in (sweep.outputs / "runs").iterdir():
        Path(run / "interpolation.png").write_bytes(samples(0.0))
    return sweep


def test_the_best_row_of_each_family_stands_for_it(sweep):
    table = build_table(read_sweep(sweep))
    diffusion, gan = contenders(table)
    assert (diffusion.family, gan.family) == ("diffusion", "gan")
    assert diffusion.label == "diffusion · num_steps 50"
    facts = {what: entry.text for what, entry, _ in gan.facts}
    assert facts["NFE"] == "1"
    assert facts["s to train"] == "61"
    assert facts["parameters"] == "1.23 M"
    assert facts["bits/dim"] == "–"
    for one, meaning in ((gan, "this model has no likelihood"), (diffusion, "bound of a strided chain")):
        assert {what: meaning for what, _, meaning in one.facts}["bits/dim"] == meaning


def test_one_family_is_no_contrast(tmp_path):
    assert contenders(table_of(tmp_path, {"seed": ["1", "2"]})) == []


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [1440, pytest.param(390, marks=pytest.mark.thorough)])
def test_a_browser_shows_samples_and_ways_of_every_family(browser, sweep, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(make_report(sweep).as_uri())
    assert page.locator("#contrast .family").count() == 2
    page.wait_for_function("document.querySelectorAll('#contrast .picture[data-drawn] canvas').length === 4")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    page.close()
