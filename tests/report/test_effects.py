import pytest
from diffusion_lab.report.plots.effects import effects

from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.report.plots import plots_of as row_plots
from diffusion_lab.report.read import read_sweep
from diffusion_lab.report.table import build_table

from .synthetic import AXES, write_sweep

BITS, _ = BitsPerDim().measures([])
ADDED = {"linear": 1.0, "cosine": 0.0, "fixed_small": 4.0, "fixed_large": 2.0, "learned": 0.0}


def additive(choices, metrics):
    steps = {"10": 3.0, "50": 1.0, None: 0.0}[choices["sampler.spacing.num_steps"]]
    seed = 0.1 * int(choices["seed"])
    metrics["values"]["bits_per_dim"] = 2.0 + ADDED[choices["schedule"]] + ADDED[choices["variance"]] + steps + seed


def of_one_kind(choices, metrics):
    additive(choices, metrics)
    metrics["protocol"]["bound"]["kind"] = "bound of a strided chain"


def effect(sweep, axis):
    table = build_table(read_sweep(sweep))
    return effects(table, table.groups[0], BITS, axis)


def test_an_additive_effect_is_found_exactly_though_cells_are_missing(tmp_path):
    sweep = write_sweep(tmp_path, axes=AXES, change=additive)
    lost = read_sweep(sweep).cells[1::11]
    for cell in lost:
        cell.run.metrics.unlink()
    found = effect(sweep, "variance")
    assert found.values == ["fixed_small", "fixed_large", "learned"]
    low = found.means[2]
    assert [mean - low for mean in found.means] == pytest.approx([4.0, 2.0, 0.0])
    assert len(found.errors) == 3


def test_a_value_that_is_never_alone_in_differing_is_left_out(tmp_path):
    sweep = write_sweep(tmp_path, axes=AXES, change=of_one_kind)
    assert effect(sweep, "sampler").left_out == ["ddpm"]  # it has no number of steps, so more than the sampler differs
    steps = effect(sweep, "sampler.spacing.num_steps")
    assert steps.left_out == [None]
    assert steps.means[0] - steps.means[1] == pytest.approx(2.0)


def test_errors_are_over_seeds(tmp_path):
    found = effect(write_sweep(tmp_path, axes=AXES, change=additive), "schedule")
    assert found.errors == pytest.approx([0.05, 0.05])  # of 0.1 and 0.2
    assert all(len(block) == 2 for block in found.blocks)


def test_there_is_no_effect_between_bounds_of_different_kinds(tmp_path):
    axes = {"sampler": ["strided", "ddim"], "variance": ["fixed_large", "learned"], "seed": ["1", "2"]}

    def change(choices, metrics):
        metrics["values"]["bits_per_dim"] = ADDED[choices["variance"]] + (5.0 if choices["sampler"] == "ddim" else 0.0)

    sweep = write_sweep(tmp_path, axes=axes, change=change)
    assert effect(sweep, "sampler") is None
    assert sorted(effect(sweep, "variance").blocks) == [[2.0, 0.0], [7.0, 5.0]]


def test_seeds_of_different_kinds_are_different_blocks(tmp_path):
    axes = {"variance": ["fixed_large", "learned"], "schedule": ["linear", "cosine"], "seed": ["1", "2"]}

    def change(choices, metrics):
        metrics["values"]["bits_per_dim"] = ADDED[choices["variance"]] + (5.0 if choices["seed"] == "2" else 0.0)
        metrics["protocol"]["bound"]["kind"] = f"bound {choices['seed']}"

    found = effect(write_sweep(tmp_path, axes=axes, change=change), "variance")
    assert sorted(found.blocks) == [[2.0, 0.0], [2.0, 0.0], [7.0, 5.0], [7.0, 5.0]]


def test_seconds_of_each_device_have_a_front_of_their_own(tmp_path):
    axes = {"schedule": ["linear", "cosine"], "variance": ["fixed_small", "fixed_large", "learned"]}

    def change(choices, metrics):
        alone = choices == {"schedule": "cosine", "variance": "learned"}
        on_gpu = choices["schedule"] == "cosine"
        metrics["protocol"]["cost"]["device"] = "H200" if alone else "H100" if on_gpu else "cpu"
        metrics["values"]["seconds_per_1000_samples"] = 1.0 if on_gpu else 10.0
        metrics["values"]["fd_digits_cnn"] = ADDED[choices["variance"]] + (1.0 if on_gpu else 2.0)

    table = build_table(read_sweep(write_sweep(tmp_path, axes=axes, change=change)))
    (plot,) = [plot for plot in row_plots(table, table.groups[0]) if plot.key == "seconds_fd_digits_cnn"]
    assert [panel.title for panel in plot.panels] == ["cpu", "H100"]
    assert [panel.series[0].x for panel in plot.panels] == [[10.0], [1.0]]
    assert [sum(len(series.x) for series in panel.series[1:]) for panel in plot.panels] == [3, 2]
    assert "in both: linear · learned / cosine · fixed_large." in plot.note
    assert plot.note.endswith("Left out, because no other row was measured alike: cosine · learned.")
