"""Quality against what sampling costs: which choice is better at how many network evaluations."""

import re
from dataclasses import replace

import pytest

from diffusion_lab.report.cells import read_sweep
from diffusion_lab.report.plots import curve_findings
from diffusion_lab.report.plots.sampling_cost import plots as sampling_plots
from diffusion_lab.report.table import build_table
from tests.report.synthetic import write_sweep

AXES = {
    "schedule": ["linear", "cosine"],
    "variance": ["fixed_small", "fixed_large"],
    "sampler.spacing.num_steps": ["5", "20", "80"],
    "seed": ["1", "2", "3"],
}


def noisy(choices, metrics):
    """fixed_large falls as 40/K, fixed_small as 8/√K: equal at 25 steps; linear's are twice as far all the way."""
    steps = int(choices["sampler.spacing.num_steps"])
    distance = 40 / steps if choices["variance"] == "fixed_large" else 8 / steps**0.5
    distance *= (2 if choices["schedule"] == "linear" else 1) * (1 + 1e-6 * int(choices["seed"]))
    metrics["values"] |= {"fd_digits_cnn": distance, "nfe": steps}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return build_table(read_sweep(write_sweep(tmp_path_factory.mktemp("outputs"), axes=AXES, change=noisy)))


def test_a_crossing_is_said_of_lines_that_differ_in_one_axis_and_change_places(table):
    found = [
        said for said in curve_findings(table, table.groups[0]) if said.what == "fd_digits_cnn against sampling cost"
    ]
    assert len(found) == 2
    for said, schedule in zip(found, ("linear", "cosine"), strict=True):
        assert said.sure
        assert re.findall(r"fixed_\w+|linear|cosine|\d+", said.text) == [
            *("fixed_large", schedule, "fixed_small", schedule, "25", "3", "3")
        ]


def test_it_is_the_note_of_the_plot(table):
    (plot,) = [plot for plot in sampling_plots(table, table.groups[0]) if plot.name == "fd_digits_cnn"]
    assert all(said.text in plot.note for said in curve_findings(table, table.groups[0]) if said.what[:2] == "fd")
    assert [line.x for panel in plot.panels for line in panel.series] == [[5, 20, 80]] * 4


def test_an_axis_has_panels_only_if_it_does_not_follow_from_the_lines(tmp_path):
    axes = AXES | {"schedule": ["linear"], "objective": ["simple", "vlb"], "data.batch_size": ["32", "64"]}

    def panels(keep):
        gathered = read_sweep(write_sweep(tmp_path, axes=axes, change=noisy))
        table = build_table(replace(gathered, cells=[cell for cell in gathered.cells if keep(cell.choices)]))
        (plot,) = [plot for plot in sampling_plots(table, table.groups[0]) if plot.name == "fd_digits_cnn"]
        return [panel.title for panel in plot.panels]

    assert panels(lambda choices: True) == ["batch_size 32", "batch_size 64"]
    assert panels(lambda choices: (choices["objective"] == "vlb") == (choices["data.batch_size"] == "64")) == [""]
