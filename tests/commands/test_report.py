"""diffusion-lab report, on runs that were really trained and scored."""

import pytest

from diffusion_lab.store import sweep_directory

from .conftest import STRIDED, TINY, files


@pytest.mark.thorough
def test_a_report_on_runs_that_were_really_scored(lab):
    """A report on runs that were really scored and on sweeps of them."""
    lab.given("train", *TINY, "sampler=strided", *STRIDED)
    assert lab("evaluate", "sampler=ddim", "sampler.spacing.num_steps=6")[0] == 0

    out = lab.done("report", "runs=outputs/runs")
    assert "ddim" in out
    assert "fd_pixels" in out
    written = {"report.html", "table.csv", "table.tex", "figures/steps_fd_pixels.pdf", "figures/training_mse.png"}
    assert {f"report/{name}" for name in written} <= set(files(lab.folder))
    page = (lab.folder / "report" / "report.html").read_text()
    assert "2 of 2 cells scored" in page
    assert "What do sampler and num_steps change" in page
    assert '"columns":3,"rows":3' in page  # eight samples, cut out of samples.png

    runs = sorted(path.name for path in (lab.folder / "outputs" / "runs").iterdir())
    (model,) = [path.name for path in (lab.folder / "outputs" / "models").iterdir()]
    for name in ("first", "second"):
        cells = [
            {"choices": {"x": str(i)}, "overrides": [], "model": model, "run": run}
            for i, run in enumerate([*runs, "never"])
        ]
        sweep = {"name": name, "command": [], "axes": {"x": ["0", "1", "2"]}, "created": "", "cells": cells}
        sweep_directory(lab.folder / "outputs", name).write_sweep(sweep)
    out = lab.done("report")
    assert "outputs/sweeps/second/report/report.html" in out
    assert "missing: 2: trained, not scored yet" in out
    lab.done("report", "first", "to=elsewhere")
    assert (lab.folder / "elsewhere" / "table.md").is_file()
