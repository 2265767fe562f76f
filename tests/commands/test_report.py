"""diffusion-lab report, on runs that were really trained and scored."""

import shutil

import pytest

from diffusion_lab.runs import sweep_directory

from .conftest import STRIDED, TINY, files


@pytest.fixture
def scored(lab):
    """One model, scored three times."""
    assert lab("train", *TINY, *STRIDED)[0] == 0
    for options in (["sampler.spacing.num_steps=6"], ["sampler=ddim", "sampler.spacing.num_steps=3"]):
        assert lab("evaluate", *options)[0] == 0
    return lab


def test_a_report_on_runs_finds_what_was_varied(scored):
    code, out, err = scored("report", "runs=outputs/runs")
    assert code == 0, err
    assert "DDIMSampler" in out
    assert "fd_pixels" in out
    assert {"report/report.html", "report/table.csv", "report/table.tex", "report/figures/steps_fd_pixels.pdf"} <= set(
        files(scored.folder)
    )
    page = (scored.folder / "report" / "report.html").read_text()
    assert "3 of 3 cells scored" in page
    assert "What do sampler and num_steps change" in page


def test_a_report_on_a_sweep_the_newest_by_default(scored):
    runs = sorted(path.name for path in (scored.folder / "outputs" / "runs").iterdir())
    (model,) = [path.name for path in (scored.folder / "outputs" / "models").iterdir()]
    for name in ("first", "second"):
        cells = [{"choices": {"x": str(i)}, "overrides": [], "model": model, "run": run} for i, run in enumerate(runs)]
        cells.append({"choices": {"x": "3"}, "overrides": [], "model": model, "run": "never"})
        sweep_directory(scored.folder / "outputs", name).write_sweep(
            {"name": name, "command": [], "axes": {"x": ["0", "1", "2", "3"]}, "created": "", "cells": cells}
        )
    code, out, err = scored("report")
    assert code == 0, err
    assert "outputs/sweeps/second/report/report.html" in out
    assert "missing: 3: trained, not scored yet" in out
    code, out, err = scored("report", "first", "to=elsewhere")
    assert code == 0, err
    assert (scored.folder / "elsewhere" / "table.md").is_file()
    shutil.rmtree(scored.folder / "outputs" / "runs")
    code, out, err = scored("report", "sweep=first")
    assert code == 0, err
    assert out.count("missing: ") == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "there is no sweep in outputs/sweeps"),
        (["nowhere"], "sweep=nowhere: there is no such sweep"),
        (["runs=nowhere/*"], "runs=nowhere/*: there is no such folder"),
        (["runs=."], "metrics.json"),
        (["runs=.", "sweep=x"], "one or the other"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(lab, options, said):
    code, _, err = lab("report", *options)
    assert code == 1
    assert len(err.strip().splitlines()) == 1, err
    assert said in err
    assert files(lab.folder) == []
