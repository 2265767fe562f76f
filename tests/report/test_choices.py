import pytest
import yaml

from diffusion_lab.conf_dir import CONF
from diffusion_lab.report.choices import choices_by_class, choices_of, read_choices

SPACINGS = ("diffusion_lab.sampling.LogSNRSpacing", "diffusion_lab.sampling.EvenSpacing", "mine.Mine")


def axes_of(tmp_path, *configs):
    paths = []
    for i, config in enumerate(configs):
        paths.append(tmp_path / f"{i}.yaml")
        paths[-1].write_text(yaml.safe_dump(config))
    axes, choices, unread = read_choices(paths)
    assert unread == []
    return axes, choices


def test_options_that_differ_are_axes_and_no_others(tmp_path):
    axes, choices = axes_of(tmp_path, {"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    assert axes == {"b.c": ["2", "3"]}
    assert choices == [{"b.c": "2"}, {"b.c": "3"}]


def test_a_class_that_one_choice_of_its_group_builds_is_called_as_on_the_command_line(tmp_path):
    spacings = [{"sampler": {"_target_": "x.S", "spacing": {"_target_": name}}} for name in SPACINGS]
    assert axes_of(tmp_path, *spacings)[0] == {"sampler.spacing": ["Mine", "even", "log_snr"]}
    families = [{"seed": 1, "model": {"_target_": f"diffusion_lab.models.{name}"}} for name in ("vae.VAE", "gan.GAN")]
    assert axes_of(tmp_path, *families)[0] == {"model": ["gan", "vae"]}


def variance(name, **options):
    return {"_target_": f"diffusion_lab.diffusion.{name}", **options}


def test_of_several_choices_that_build_a_class_the_options_tell_which_it_was(tmp_path):
    configs = [{"variance": variance("LearnedRange", stop_gradient=stop)} for stop in (True, False)]
    axes, choices = axes_of(tmp_path, *configs, {"variance": variance("FixedLarge")})
    assert axes.keys() == {"variance"}
    assert [chosen["variance"] for chosen in choices] == ["learned", "learned_jointly", "fixed_large"]
    assert axes_of(tmp_path, {"variance": variance("LearnedRange")}, configs[1])[0] == {
        "variance.stop_gradient": ["False"]
    }


def test_the_variance_of_a_run_is_the_one_that_scored(tmp_path):
    def measured(trained, name, **options):
        return {"variance": variance(trained), "measured_variance": variance(name, _partial_=True, **options)}

    small = {"variance": variance("FixedSmall")}
    analytic = measured("FixedSmall", "Analytic", bounded=True)
    assert axes_of(tmp_path, small, analytic)[0] == {"variance": ["analytic", "fixed_small"]}
    another = measured("FixedLarge", "Analytic", bounded=True)
    axes, choices = axes_of(tmp_path, small, analytic, another)
    assert axes == {"variance": ["analytic", "fixed_small"], "variance.trained": ["FixedLarge", "FixedSmall"]}
    assert [chosen["variance.trained"] for chosen in choices] == [None, "FixedSmall", "FixedLarge"]
    heads = [measured("FixedSmall", "Regressed", head=head) for head in "ab"]
    assert axes_of(tmp_path, small, *heads)[0] == {
        "variance": ["fixed_small", "regressed"],
        "variance.head": ["a", "b"],
    }


def test_a_class_that_several_choices_build_keeps_its_name_where_nothing_tells_which(tmp_path):
    # sampler=strided is sampler=ddpm with another spacing, as sampler=few is of sampler=dpm_solver_sde
    ancestral = {"sampler": {"_target_": "diffusion_lab.sampling.AncestralSampler"}}
    ddim = {"sampler": {"_target_": "diffusion_lab.sampling.DDIMSampler"}}
    few = {"sampler": {"_target_": "diffusion_lab.sampling.DPMSolverSampler", "order": 2, "stochastic": True}}
    assert axes_of(tmp_path, ancestral, ddim, few)[0] == {"sampler": ["AncestralSampler", "DPMSolverSampler", "ddim"]}
    mine = {"sampler": {"_target_": "mine.ddim"}}
    assert axes_of(tmp_path, mine, ddim)[0] == {"sampler": ["ddim", "mine.ddim"]}


def test_an_option_that_one_of_two_runs_of_a_class_lacks_is_an_axis_beside_the_choice(tmp_path):
    one, two = ({"variance": variance("LearnedRange", stop_gradient=stop)} for stop in (True, False))
    one["variance"]["floor"] = 0.1
    assert axes_of(tmp_path, one, two)[0] == {"variance": ["learned", "learned_jointly"], "variance.floor": ["0.1"]}


def test_a_class_keeps_its_name_in_all_runs_if_one_does_not_tell_the_choice(tmp_path):
    known, unknown = (
        {"timesteps": {"_target_": "diffusion_lab.diffusion.NormalTimesteps", "mean": mean, "std": 1.2}}
        for mean in (-1.2, -0.4)
    )
    assert axes_of(tmp_path, known, unknown)[0] == {"timesteps.mean": ["-1.2", "-0.4"]}
    other = {"timesteps": {"_target_": "x.Other"}}
    assert axes_of(tmp_path, known, unknown, other)[0]["timesteps"] == ["NormalTimesteps", "Other"]
    assert axes_of(tmp_path, known, other)[0]["timesteps"] == ["Other", "log_normal"]


def test_what_follows_from_a_groups_class_is_no_axis_of_its_own(tmp_path):
    linear = {"schedule": {"_target_": "x.Linear", "beta_end": 0.02, "num_timesteps": 10}}
    cosine = {"schedule": {"_target_": "x.Cosine", "s": 0.008, "num_timesteps": 10}}
    longer = {"schedule": {"_target_": "x.Cosine", "s": 0.008, "num_timesteps": 20}}
    assert axes_of(tmp_path, linear, cosine)[0] == {"schedule": ["Cosine", "Linear"]}
    assert set(axes_of(tmp_path, linear, cosine, longer)[0]) == {"schedule", "schedule.num_timesteps"}


def test_an_option_that_both_classes_have_is_an_axis_though_it_goes_along_with_them(tmp_path):
    three = {"sampler": {"_target_": "x.Ancestral", "num_steps": 3}}
    six = {"sampler": {"_target_": "x.DDIM", "num_steps": 6, "eta": 0.0}}
    assert set(axes_of(tmp_path, three, six)[0]) == {"sampler", "sampler.num_steps"}


def test_of_several_families_what_each_has_of_its_own_is_no_axis(tmp_path):
    gan = {"model": {"_target_": "x.GAN"}, "optimizer": {"lr": 0.001}, "trainer": {"max_steps": 20}, "seed": 1}
    vae = {"model": {"_target_": "x.VAE"}, "optimizer": {"lr": 0.003}, "trainer": {"max_steps": 10}, "seed": 2}
    axes, choices = axes_of(tmp_path, gan, vae)
    assert axes == {"seed": ["1", "2"], "model": ["GAN", "VAE"], "trainer.max_steps": ["10", "20"]}
    assert choices[0] == {"seed": "1", "model": "GAN", "trainer.max_steps": "20"}
    other = vae | {"optimizer": {"lr": 0.002}}
    assert set(axes_of(tmp_path, gan, vae, other)[0]) == {*axes, "optimizer.lr"}


def test_a_copy_under_another_group_is_left_out_but_not_an_option_that_happens_to_go_along(tmp_path):
    one = {"seed": 1, "data": {"seed": 1}, "schedule": {"_target_": "x.Linear"}}
    two = {"seed": 2, "data": {"seed": 2}, "schedule": {"_target_": "x.Cosine"}}
    assert set(axes_of(tmp_path, one, two)[0]) == {"seed", "schedule"}


def test_places_and_machines_are_no_choices(tmp_path):
    one = {"outputs": "here", "trainer": {"devices": 1}, "sampler": {"eta": 0}}
    two = {"outputs": "there", "trainer": {"devices": 2}, "sampler": {"eta": 1}}
    assert set(axes_of(tmp_path, one, two)[0]) == {"sampler.eta"}
    cpu, gpu = (
        {"trainer": {"_target_": "lightning.pytorch.Trainer", "accelerator": it}, "seed": it} for it in ("cpu", "gpu")
    )
    assert set(axes_of(tmp_path, cpu, gpu)[0]) == {"seed"}


@pytest.mark.parametrize(
    "text",
    [
        "a: 2024-99-99",
        "a: !!int ''",
        "a: !!bool x",
        "a: !!timestamp x",
        f"a: 0x{'f' * 6000}",
    ],
)
def test_a_value_that_cannot_be_read_costs_a_sentence(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    axes, _, unread = read_choices([path])
    assert axes == {}
    assert len(unread) == 1


def test_a_group_with_a_name_too_long_for_a_folder_is_an_axis_too(tmp_path):
    long = "a" * 5000
    assert axes_of(tmp_path, {long: {"_target_": "x.A"}}, {long: {"_target_": "x.B"}})[0] == {long: ["A", "B"]}


def test_what_is_measured_is_no_choice(tmp_path):
    one = {"metrics": {"bits_per_dim": {"_target_": "x.BitsPerDim", "num_images": 64}}, "sampler": {"eta": 0}}
    two = {"metrics": {"frechet_distance": {"_target_": "x.FrechetDistance"}}, "sampler": {"eta": 1}}
    assert set(axes_of(tmp_path, one, two)[0]) == {"sampler.eta"}
    more = {"metrics": {"bits_per_dim": {"_target_": "x.BitsPerDim", "num_images": 128}}, "sampler": {"eta": 0}}
    assert set(axes_of(tmp_path, one, two, more)[0]) == {"sampler.eta", "metrics.bits_per_dim.num_images"}


def test_numbers_are_in_order_and_what_a_config_has_not_is_none(tmp_path):
    axes, choices = axes_of(tmp_path, {"k": 100}, {"k": 9}, {})
    assert axes == {"k": ["9", "100"]}
    assert choices[2] == {"k": None}


def test_a_long_list_is_its_beginning_and_a_digest_that_tells_two_apart(tmp_path):
    betas = [0.001 * i for i in range(1000)]
    axes, choices = axes_of(tmp_path, {"betas": betas}, {"betas": [*betas[:-1], 0.5]}, {"betas": [0.1]})
    first, second, short = (choice["betas"] for choice in choices)
    assert first != second
    assert short == "[0.1]"
    assert max(map(len, axes["betas"])) == 80


@pytest.mark.parametrize(
    "folder", sorted({file.parent for file in CONF.glob("*/**/*.yaml")}, key=str), ids=lambda folder: folder.name
)
def test_every_choice_of_every_group_is_called_by_its_name_or_by_its_class(folder):
    group = ".".join(folder.relative_to(CONF).parts)
    choices = [choice for some in choices_by_class(group).values() for choice in some]
    for choice in choices:
        called = choices_of([choice.options])[0].get(group)
        assert called is None or called is choice
    targets = {file.stem for file in folder.glob("*.yaml") if "_target_" in (yaml.safe_load(file.read_text()) or {})}
    assert targets <= {choice.name for choice in choices}
