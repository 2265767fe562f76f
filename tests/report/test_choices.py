"""Runs that no sweep made: which options are their axes, and what a choice is called."""

import pytest
import yaml

from diffusion_lab.report.choices import read_choices


def axes_of(tmp_path, *configs, recorded=()):
    runs = []
    for i, config in enumerate(configs):
        path = tmp_path / f"{i}.yaml"
        path.write_text(yaml.safe_dump(config))
        runs.append((path, recorded[i] if recorded else {}))
    axes, choices, unread = read_choices(runs)
    assert unread == []
    return axes, choices


def of(group, *targets, **options):
    return [{group: {"_target_": target, **options}} for target in targets]


def test_a_class_is_called_by_the_choice_that_the_score_records(tmp_path):
    spacings = [{"sampler": {"_target_": "x.S", "spacing": {"_target_": name}}} for name in ("x.Even", "x.LogSNR")]
    recorded = [{"sampler": "fast", "sampler/spacing": spacing} for spacing in ("even", "log_snr")]
    assert axes_of(tmp_path, *spacings, recorded=recorded)[0] == {"sampler.spacing": ["even", "log_snr"]}
    assert axes_of(tmp_path, *spacings)[0] == {"sampler.spacing": ["Even", "LogSNR"]}
    one_of_two = [recorded[0], {}]
    assert axes_of(tmp_path, *spacings, recorded=one_of_two)[0] == {"sampler.spacing": ["Even", "LogSNR"]}
    families = [{"seed": 1, **model} for model in of("model", "x.VAE", "x.GAN")]
    assert axes_of(tmp_path, *families, recorded=[{"model": "vae"}, {"model": "gan"}])[0] == {"model": ["gan", "vae"]}


def test_conditions_are_one_axis(tmp_path):
    clusters = {"_target_": "x.Clusters", "num_clusters": 30}
    found = ({}, {"classes": {"_target_": "x.Classes"}}, {"classes": {"_target_": "x.Classes"}, "clusters": clusters})
    configs = [{**of("model", "x.Diffusion")[0], "condition": condition} for condition in found]
    assert axes_of(tmp_path, *configs)[0] == {"condition": ["classes", "classes, clusters", "none"]}


def test_choices_that_build_one_class_imply_their_options(tmp_path):
    jointly, apart = (of("variance", "x.Range", stop=stop)[0] for stop in (False, True))
    recorded = [{"variance": "jointly"}, {"variance": "learned"}]
    assert axes_of(tmp_path, jointly, apart, recorded=recorded)[0] == {"variance": ["jointly", "learned"]}
    assert axes_of(tmp_path, jointly, apart, recorded=[recorded[0]] * 2)[0] == {"variance.stop": ["False", "True"]}


def test_two_names_of_one_choice_are_one(tmp_path):
    """variance=fixed is variance=fixed_large."""
    alias, named = ({"seed": seed, **of("variance", "x.Large")[0]} for seed in (1, 2))
    assert set(axes_of(tmp_path, alias, named, recorded=[{"variance": "fixed"}, {"variance": "large"}])[0]) == {"seed"}


def test_another_class_under_the_name_of_a_choice_is_shown(tmp_path):
    configs, recorded = of("schedule", "x.Cosine", "mine.Cosine"), [{"schedule": "cosine"}] * 2
    assert axes_of(tmp_path, *configs, recorded=recorded)[0] == {"schedule": ["mine.Cosine", "x.Cosine"]}


def test_the_variance_of_a_run_is_the_one_that_scored(tmp_path):
    def measured(trained, name, **options):
        return of("variance", trained)[0] | of("measured_variance", name, _partial_=True, **options)[0]

    small = of("variance", "x.Small")[0]
    analytic = measured("x.Small", "x.Analytic", bounded=True)
    assert axes_of(tmp_path, small, analytic)[0] == {"variance": ["Analytic", "Small"]}
    axes, choices = axes_of(tmp_path, small, analytic, measured("x.Large", "x.Analytic", bounded=True))
    assert axes == {"variance": ["Analytic", "Small"], "variance.trained": ["Large", "Small"]}
    assert [chosen["variance.trained"] for chosen in choices] == [None, "Small", "Large"]


def test_what_follows_from_a_groups_class_is_no_axis(tmp_path):
    linear = {"schedule": {"_target_": "x.Linear", "beta_end": 0.02, "num_timesteps": 10}}
    cosine = {"schedule": {"_target_": "x.Cosine", "s": 0.008, "num_timesteps": 10}}
    longer = {"schedule": {"_target_": "x.Cosine", "s": 0.008, "num_timesteps": 20}}
    assert axes_of(tmp_path, linear, cosine)[0] == {"schedule": ["Cosine", "Linear"]}
    assert set(axes_of(tmp_path, linear, cosine, longer)[0]) == {"schedule", "schedule.num_timesteps"}


@pytest.mark.parametrize("recorded", [(), ({"sampler": "a"}, {"sampler": "b"})], ids=["classes", "choices"])
def test_an_option_that_both_classes_have_is_an_axis(tmp_path, recorded):
    three = {"sampler": {"_target_": "x.Ancestral", "num_steps": 3}}
    six = {"sampler": {"_target_": "x.DDIM", "num_steps": 6, "eta": 0.0}}
    assert set(axes_of(tmp_path, three, six, recorded=recorded)[0]) == {"sampler", "sampler.num_steps"}


def test_what_each_family_has_of_its_own_is_no_axis(tmp_path):
    gan = {"model": {"_target_": "x.GAN"}, "optimizer": {"lr": 0.001}, "trainer": {"max_steps": 20}, "seed": 1}
    vae = {"model": {"_target_": "x.VAE"}, "optimizer": {"lr": 0.003}, "trainer": {"max_steps": 10}, "seed": 2}
    axes, choices = axes_of(tmp_path, gan, vae)
    assert axes == {"seed": ["1", "2"], "model": ["GAN", "VAE"], "trainer.max_steps": ["10", "20"]}
    assert choices[0] == {"seed": "1", "model": "GAN", "trainer.max_steps": "20"}
    other = vae | {"optimizer": {"lr": 0.002}}
    assert set(axes_of(tmp_path, gan, vae, other)[0]) == {*axes, "optimizer.lr"}


def test_a_copy_under_another_group_is_left_out(tmp_path):
    one = {"seed": 1, "data": {"seed": 1}, "schedule": {"_target_": "x.Linear"}}
    two = {"seed": 2, "data": {"seed": 2}, "schedule": {"_target_": "x.Cosine"}}
    assert set(axes_of(tmp_path, one, two)[0]) == {"seed", "schedule"}


def test_places_machines_and_metrics_are_no_choices(tmp_path):
    one = {"outputs": "here", "trainer": {"devices": 1}, "sampler": {"eta": 0}}
    two = {"outputs": "there", "trainer": {"devices": 2}, "sampler": {"eta": 1}}
    one["metrics"], two["metrics"] = of("bits", "x.Bits", num_images=64)[0], of("distance", "x.Distance")[0]
    assert set(axes_of(tmp_path, one, two)[0]) == {"sampler.eta"}
    more = two | {"metrics": of("bits", "x.Bits", num_images=128)[0]}
    assert set(axes_of(tmp_path, one, two, more)[0]) == {"sampler.eta", "metrics.bits.num_images"}


@pytest.mark.parametrize("text", ["a: 2024-99-99", f"a: 0x{'f' * 6000}"])
def test_a_value_that_cannot_be_read_costs_a_sentence(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    axes, _, unread = read_choices([(path, {})])
    assert axes == {}
    assert len(unread) == 1


def test_options_that_differ_are_axes_and_no_others(tmp_path):
    """Numbers are in order, and a missing option is none."""
    axes, choices = axes_of(tmp_path, {"a": 1, "b": {"k": 100}}, {"a": 1, "b": {"k": 9}}, {"a": 1})
    assert axes == {"b.k": ["9", "100"]}
    assert choices == [{"b.k": "100"}, {"b.k": "9"}, {"b.k": None}]


def test_long_texts_and_lists_are_their_beginning_and_a_digest(tmp_path):
    """A config may come from somebody else."""
    configs = [{"k": end * 9000, end * 9000: 1, **of("variance", f"x.{end * 9000}")[0]} for end in "ab"]
    axes, (first, second) = axes_of(tmp_path, *configs)
    assert first["k"] != second["k"]
    assert max(len(text) for key, values in axes.items() for text in (key, *values)) == 200
    betas = [0.001 * i for i in range(1000)]
    axes, (first, second) = axes_of(tmp_path, {"betas": betas}, {"betas": [*betas[:-1], 0.5]})
    assert first != second
    assert max(map(len, axes["betas"])) == 80
