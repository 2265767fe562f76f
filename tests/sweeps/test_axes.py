import pytest

from diffusion_lab.sweeps.axes import Axis, MissingOptionError, combinations, sweep_name

OPTIONS = {"ddpm": {"sampler"}, "strided": {"sampler", "steps"}, "ddim": {"sampler", "steps", "eta"}}


def axis(key, *values, swept=True):
    return Axis(key, {value: f"{key}={value}" for value in values}, swept)


def compose(overrides):
    """A config is the frozen set of its overrides; steps and eta exist for some samplers only."""
    chosen = dict(override.split("=") for override in overrides)
    for key in chosen:
        if key not in OPTIONS[chosen["sampler"]] | {"seed"}:
            raise MissingOptionError(key) from LookupError(f"no {key}")
    return frozenset(overrides)


def test_every_combination_is_a_cell_and_the_last_axis_changes_fastest():
    found, count = combinations([axis("sampler", "strided", "ddim"), axis("seed", "1", "2")], compose)
    assert count == 4
    assert [cell.choices for cell in found] == [
        {"sampler": sampler, "seed": seed} for sampler in ("strided", "ddim") for seed in "12"
    ]
    assert found[1].overrides == ("sampler=strided", "seed=2")
    assert found[1].config == {"sampler=strided", "seed=2"}


def test_an_option_that_a_cell_does_not_have_is_dropped_there_and_equal_cells_are_one():
    axes = [axis("sampler", "ddpm", "strided", "ddim"), axis("steps", "10", "50"), axis("eta", "0", "1")]
    found, count = combinations(axes, compose)
    assert count == 12
    assert [cell.overrides for cell in found] == [
        ("sampler=ddpm",),
        ("sampler=strided", "steps=10"),
        ("sampler=strided", "steps=50"),
        *[("sampler=ddim", f"steps={steps}", f"eta={eta}") for steps in (10, 50) for eta in (0, 1)],
    ]
    assert found[0].choices == {"sampler": "ddpm", "steps": None, "eta": None}
    assert found[1].choices == {"sampler": "strided", "steps": "10", "eta": None}


def test_a_fixed_option_is_dropped_alike_and_is_no_choice():
    found, _ = combinations([axis("sampler", "ddpm", "ddim"), axis("steps", "10", swept=False)], compose)
    assert [cell.overrides for cell in found] == [("sampler=ddpm",), ("sampler=ddim", "steps=10")]
    assert [cell.choices for cell in found] == [{"sampler": "ddpm"}, {"sampler": "ddim"}]


@pytest.mark.parametrize("key", ["eta", "colour"])
def test_an_option_that_no_cell_has_is_a_mistake_in_the_words_of_who_composes(key):
    with pytest.raises(LookupError, match=f"no {key}"):
        combinations([axis("sampler", "ddpm", "strided"), axis(key, "0", "1")], compose)


def test_a_sweep_is_named_by_what_it_asks_in_any_order():
    steps, seed = "sampler.spacing.num_steps", axis("seed", "1", swept=False)
    axes = [axis("schedule", "linear", "cosine"), axis(steps, "10", "50"), seed]
    name = sweep_name(axes)
    assert name.startswith("num_steps-schedule-")
    turned = [seed, axes[0], axis(steps, "50", "10")]
    assert sweep_name(turned) == name
    assert sweep_name([*axes[:2], axis("seed", "2", swept=False)]) != name
    assert sweep_name([*axes, axis("rescore", "true", swept=False)]) == name
    assert sweep_name([axis("sampler/spacing@x", "all", "even")]).startswith("spacing-")
    assert len(sweep_name([axis(f"group.option_{i}", "1", "2") for i in range(20)])) < 64
