import pytest

from diffusion_lab.evaluation.metrics import BitsPerDim
from diffusion_lab.report.cells import read_sweep
from diffusion_lab.report.effects import effects
from diffusion_lab.report.table import build_table

from .synthetic import AXES, write_sweep

BITS, _ = BitsPerDim().measures([])
ADDED = {"linear": 1.0, "cosine": 0.0, "fixed_small": 4.0, "fixed_large": 2.0, "learned": 0.0}


def additive(choices, metrics):
    steps = {"10": 3.0, "50": 1.0, None: 0.0}[choices["sampler.spacing.num_steps"]]
    seed = 0.1 * int(choices["seed"])
    metrics["values"]["bits_per_dim"] = 2.0 + ADDED[choices["schedule"]] + ADDED[choices["variance"]] + steps + seed


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
    sweep = write_sweep(tmp_path, axes=AXES, change=additive)
    assert effect(sweep, "sampler").left_out == ["ddpm"]  # it has no number of steps, so more than the sampler differs
    steps = effect(sweep, "sampler.spacing.num_steps")
    assert steps.left_out == [None]
    assert steps.means[0] - steps.means[1] == pytest.approx(2.0)


def test_errors_are_over_seeds(tmp_path):
    found = effect(write_sweep(tmp_path, axes=AXES, change=additive), "schedule")
    assert found.errors == pytest.approx([0.05, 0.05])  # of 0.1 and 0.2
    assert all(len(block) == 2 for block in found.blocks)
