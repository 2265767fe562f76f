"""Contracts over every yaml of a group: a new choice is tested the moment it exists."""

import dataclasses
import pickle
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.naming import asked_of_training
from diffusion_lab.config.options import check_options
from diffusion_lab.data.in_memory import OneSet
from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedSmall,
    GaussianDiffusion,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.metrics.features import Pixels
from diffusion_lab.metrics.features.classifiers import ClassifierFeatures
from diffusion_lab.metrics.features.self_supervised import SelfSupervisedFeatures
from diffusion_lab.metrics.given import GivenImages
from diffusion_lab.metrics.metric import Metric, Naming
from diffusion_lab.metrics.reference import Moments
from diffusion_lab.metrics.score import ScorePlan, score
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.sampling import ClassifierFree, EvenSpacing, Guidance
from diffusion_lab.store import CacheDirectory

from ..diffusion.oracles import GaussianData
from ..sampling.test_solvers import LINE, check_order, exact

FACTS = {
    "shape": [1, 8, 8],
    "channels": 1,
    "size": 8,
    "num_levels": 17,
    "conditions": [],
    "num_classes": None,
    "bounded": True,
}
FACTS |= {"identity": "0" * 64, "end_shares": [0.5, 0.1]}


# Of features that have no classes there is nothing to say.
SILENT = {"inception_score", "classes_present", "class_entropy"}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


METRICS = [name for name in choices("metrics") if name not in ("default", "quick", "diagnose", "own_images")]


@cache
def composed_once(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
    check_options(cfg)
    cfg.facts = FACTS
    return pickle.dumps(cfg)


def composed(*overrides: str):
    return pickle.loads(composed_once(*overrides))  # in a fourth of the time of a copy


def on_its_data(cfg, name: str, channels: int = 3) -> tuple[int, ...]:
    """Gives a config data that the network of this name is for; their shape."""
    side = int(name.partition("x")[0]) if name[0].isdigit() else {"any": 19, "published": 8}.get(name, 32)
    shape = (2,) if name == "points" else (channels, side, side)
    cfg.facts = {**FACTS, "shape": list(shape), "channels": shape[0], "size": side}
    return shape


@pytest.mark.parametrize("name", choices("schedule"))
def test_a_schedule_is_a_float64_pair_whose_log_snr_falls(name):
    schedule = instantiate(composed(f"schedule={name}").schedule)
    process, t = GaussianDiffusion(schedule), torch.arange(schedule.num_timesteps + 1)
    assert process.signal(t).dtype == process.sigma(t).dtype == torch.float64
    assert (process.signal(t)[0], process.sigma(t)[0]) == (1, 0)
    assert (process.log_snr(t).diff() < 0).all()
    torch.testing.assert_close(schedule.alpha_bar(), process.signal(t).square())
    torch.testing.assert_close(schedule.signal(t[1:].double()).detach(), process.signal(t[1:]))


@pytest.mark.parametrize("name", choices("variance"))
def test_a_variance_brings_an_objective_that_can_train_it(name):
    cfg = composed(f"variance={name}")
    variance, objective = instantiate(cfg.variance), instantiate(cfg.objective)
    assert objective.trains_variance or not variance.outputs_per_channel
    if variance.outputs_per_channel:
        assert type(instantiate(composed(f"variance={name}", "objective=vlb").objective)).__name__ == "VariationalBound"


@pytest.mark.parametrize("decoder", [[], ["decoder=gaussian"]], ids=str)
def test_the_continuous_bound_brings_its_decoder(decoder):
    """And its timesteps; the user's choice wins."""
    cfg = composed("objective=vlb_continuous", "variance=fixed", *decoder)
    objective = instantiate(cfg.objective)
    assert type(objective.decoder).__name__ == ("GaussianDecoder" if decoder else "LevelDecoder")
    assert objective.decoder == instantiate(cfg.decoder)
    assert instantiate(cfg.timesteps).real


@pytest.mark.parametrize("name", choices("sampler"))
def test_a_sampler_turns_noise_into_an_image_in_range(name):
    sampler = instantiate(composed(f"sampler={name}").sampler)
    process = GaussianDiffusion(CosineSchedule(60))
    reverse = ReverseProcess(lambda x_t, *times: torch.zeros_like(x_t), PredictVelocity(), FixedSmall())
    x_0 = sampler(process, reverse, torch.randn(2, 1, 4, 4))
    assert x_0.shape == (2, 1, 4, 4)
    assert float(x_0.abs().max()) <= 1
    assert sampler.order >= 1
    steps = process.respace(sampler.spacing(process)).num_timesteps
    assert steps <= len(sampler.evaluation_times(steps)) <= steps * sampler.evaluations_per_step


@pytest.mark.thorough
@pytest.mark.parametrize("name", choices("sampler"))
def test_a_sampler_that_draws_no_noise_converges(name):
    """A sampler that draws no noise converges at the order that it declares."""
    sampler, x_T = instantiate(composed(f"sampler={name}").sampler), torch.randn(2, 1)
    sampler = dataclasses.replace(sampler, spacing=EvenSpacing(10))
    first, again, other = (
        sampler(LINE, exact(LINE), x_T, noise=SampleNoise(seed, torch.arange(2))) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    if torch.equal(first, other):
        check_order(sampler)


@pytest.mark.parametrize("std", [0.2, 0.8])
def test_fast_is_closer_than_others_in_ten_steps(std):
    """With the exact score of Gaussian data: the error of the samples' variance."""
    process, noise = GaussianDiffusion(CosineSchedule(1000)), SampleNoise(0, torch.arange(4000))
    x_T, reverse = noise.initial((1,)).double(), exact(process, GaussianData(0.0, std))
    errors = {}
    for name in ("fast", "dpm_solver", "dpm_solver_sde", "ddim", "strided"):
        sampler = instantiate(composed(f"sampler={name}", "sampler.spacing.num_steps=10").sampler)
        spread = sampler(process, reverse, x_T, noise=noise).std() / x_T.std()
        errors[name] = abs(float(spread / std) ** 2 - 1)
    assert errors.pop("fast") < min(0.1, *errors.values())


@pytest.mark.parametrize("name", choices("sampler/spacing"))
def test_a_spacing_ends_where_only_noise_is_left(name):
    process = GaussianDiffusion(CosineSchedule(1000))
    kept = instantiate(composed(f"sampler/spacing={name}").sampler.spacing)(process)
    assert process.log_snr(kept[-1:]) < -7.9
    assert (kept.diff() > 0).all()


@pytest.mark.parametrize("schedule", ["cosine", "rectified"])
@pytest.mark.parametrize("name", choices("timesteps"))
def test_a_timestep_sampler_draws_t_of_the_chain(name, schedule):
    """A timestep sampler draws t of the chain with weight one before it has learned."""
    sampler = instantiate(composed(f"timesteps={name}", f"schedule={schedule}", "schedule.num_timesteps=10").timesteps)
    t, w = sampler(1000, torch.Generator().manual_seed(0))
    assert t.is_floating_point() == sampler.real
    assert 1 <= float(t.min()) <= float(t.max()) <= 10
    torch.testing.assert_close(w, torch.ones_like(w))


@pytest.mark.parametrize(
    "group",
    ["prediction", "objective", "decoder", "rounding", "weighting", "optimizer", "lr_scheduler", "ema", "evaluation"],
)
def test_every_choice_can_be_built(group):
    for name in choices(group):
        assert instantiate(composed(f"{group}={name}")[group]) is not None


@pytest.mark.parametrize("name", choices("objective/residual"))
def test_a_residual_brings_its_sampler_and_real_t(name):
    cfg = composed("objective=flow_map", f"objective/residual={name}")
    objective, sampler = instantiate(cfg.objective), instantiate(cfg.sampler)
    assert type(objective.residual).__name__.lower() == name
    assert objective.two_times
    assert sampler.two_times
    assert instantiate(cfg.timesteps).real
    assert not instantiate(composed("objective=flow_map", "sampler=ddim").sampler).two_times


@pytest.mark.parametrize("name", choices("network/diffusion"))
def test_a_network_gives_the_channels_it_is_asked_for(name):
    cfg = composed(f"network=diffusion/{name}")
    shape = on_its_data(cfg, name, channels=1)
    with torch.device("meta"):
        network = instantiate(cfg.network)(out_channels=2 * shape[0])
        output = network(torch.zeros(2, *shape), torch.tensor([0, 999]), None)
    assert output.shape == (2, 2 * shape[0], *shape[1:])
    assert output.dtype == torch.float32


@pytest.mark.parametrize("name", choices("network/vae"))
def test_an_autoencoder_gives_the_outputs(name):
    """As many as its likelihood needs."""
    cfg = composed("model=vae", f"network=vae/{name}")
    shape = on_its_data(cfg, name)
    outputs = instantiate(cfg.decoder_likelihood).outputs_per_channel * shape[0]
    with torch.device("meta"):
        network = instantiate(cfg.network)(out_channels=outputs, num_classes=None)
        mean, log_variance = network.encode(torch.zeros(2, *shape))
        assert network.decode(mean).shape == (2, outputs, *shape[1:])
    assert mean.shape == log_variance.shape == (2, cfg.network.latent_dim)


@pytest.mark.thorough
@pytest.mark.parametrize("name", choices("experiment"))
def test_an_experiment_composes(name):
    cfg = composed(f"experiment={name}")
    other = {"improved_ddpm_cifar10": 4000, "improved_ddpm_imagenet64": 4000, "regression_fashion": 1}
    assert instantiate(cfg.schedule).num_timesteps == other.get(name, 1000)
    assert instantiate(cfg.optimizer) is not None


@pytest.mark.parametrize(
    ("name", "size", "halves", "published"),
    [
        ("ddpm_cifar10", 32, 1, 35.7),
        ("improved_ddpm_cifar10", 32, 2, 50),
        ("improved_ddpm_imagenet64", 64, 2, 120),
        ("edm_cifar10", 32, 1, 55.7),
        ("flow_matching_cifar10", 32, 1, 35.7),
        ("fast_cifar10", 32, 2, 35.7),
        ("fast_imagenet64", 64, 2, 120),
    ],
)
def test_the_papers_networks_have_about_as_many_parameters(name, size, halves, published):
    cfg = composed(f"experiment={name}")
    cfg.facts = {**FACTS, "channels": 3, "size": size}
    with torch.device("meta"):
        network = instantiate(cfg.network)(out_channels=3 * halves)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(published, rel=0.08)


def test_regression_sees_almost_nothing_of_its_image():
    """The one step of its chain starts from x_1 = α x_0 + σ ε with α² = 0.001, so x̂_0 is the mean given the condition."""
    process = GaussianDiffusion(instantiate(composed("experiment=regression_fashion").schedule))
    assert process.num_timesteps == 1
    assert float(process.alpha_bar(torch.tensor([1]))) == pytest.approx(0.001)


def test_a_sampler_of_another_lineage_fits_an_experiment():
    for name, other in (("edm_digits", "ddpm"), ("flow_matching_cifar10", "ddpm"), ("vdm_digits", "heun")):
        assert instantiate(composed(f"experiment={name}", f"sampler={other}").sampler) is not None


def test_edm_samples_in_the_published_35_evaluations():
    """From the published noise."""
    cfg = composed("experiment=edm_cifar10")
    process, sampler = GaussianDiffusion(instantiate(cfg.schedule)), instantiate(cfg.sampler)
    chain = process.respace(sampler.spacing(process))
    assert len(sampler.evaluation_times(chain.num_timesteps)) == 35
    i = torch.arange(18, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al. 2022, eq. 5
    torch.testing.assert_close(chain.sigma(torch.arange(18, 0, -1)), sigma)


def test_an_experiment_may_ask_for_a_conditional_model():
    cfg = composed("experiment=guided_fashion", "guidance.scale=3.0")
    assert [*cfg.condition] == ["classes"]
    assert instantiate(cfg.guidance) == ClassifierFree(3.0)


@pytest.mark.parametrize("name", ["none", "classifier_free", "autoguidance"])
def test_a_guidance_without_files_can_be_built(name):
    assert isinstance(instantiate(composed(f"guidance={name}").guidance), Guidance)


@pytest.mark.parametrize("name", choices("network/gan"))
def test_a_discriminator_judges_what_its_generator_draws(name):
    cfg = composed("model=gan", f"network=gan/{name}")
    shape = on_its_data(cfg, name)
    generator = instantiate(cfg.network)(num_classes=3)
    discriminator = instantiate(cfg.discriminator)(num_classes=3, spectral_norm=False)
    y = torch.tensor([0, 2])
    x = generator(torch.zeros(2, cfg.network.latent_size), y)
    assert x.shape == (2, *shape)
    assert discriminator(x, y).shape == (2,)


@pytest.mark.parametrize("name", choices("network/flow"))
def test_a_flow_can_be_undone(name):
    cfg = composed("model=flow", f"network=flow/{name}")
    shape = on_its_data(cfg, name.replace("any", "20x20"))  # sides that can be halved
    network = instantiate(cfg.network)(num_classes=None)
    x = SampleNoise(0, torch.arange(2)).initial(shape).tanh()
    with torch.no_grad():
        torch.testing.assert_close(network.inverse(network(x)[0]), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("loss", choices("adversarial_loss"))
def test_an_adversarial_loss_brings_a_regularizer(loss):
    """One that it works with."""
    cfg = composed("model=gan", f"adversarial_loss={loss}")
    assert instantiate(cfg.regularizer).bounds_slope or not instantiate(cfg.adversarial_loss).needs_bounded_slope
    assert instantiate(cfg.model) is not None
    chosen = composed("model=gan", f"adversarial_loss={loss}", "regularizer=none")
    assert not instantiate(chosen.regularizer).penalises


GAUSSIAN, MIXTURE = (
    f"diffusion_lab.families.vae.likelihoods.{name}" for name in ("GaussianLikelihood", "DiscretizedLogisticMixture")
)
BROUGHT = [
    ("variance=fixed", "variance._target_", "diffusion_lab.diffusion.FixedLarge"),
    ("model=diffusion", "trainer.gradient_clip_val", 1.0),
    ("model=gan", "trainer.gradient_clip_val", None),
    ("model=gan", "optimizer.betas", [0.0, 0.99]),
    ("model=gan optimizer.lr=0.5", "optimizer.lr", 0.5),
    ("model=vae network=vae/64x64 optimizer.lr=0.5", "optimizer.lr", 0.5),
    ("model=vae data=digits", "model.decoder_likelihood._target_", MIXTURE),
    ("model=vae data=two_moons", "model.decoder_likelihood._target_", GAUSSIAN),
    ("model=vae data=digits decoder_likelihood=gaussian", "model.decoder_likelihood._target_", GAUSSIAN),
    ("experiment=ddpm_digits schedule=cosine", "schedule.max_beta", 0.999),
    ("experiment=guided_fashion condition=none", "condition", {}),
    ("logger=many_loggers", "logger.csv._target_", "lightning.pytorch.loggers.CSVLogger"),
]


@pytest.mark.parametrize(("chosen", "option", "value"), BROUGHT)
def test_a_choice_brings_options_and_the_user_wins(chosen, option, value):
    assert OmegaConf.select(composed(*chosen.split()), option) == value


@pytest.mark.parametrize("data", choices("data"))
def test_every_family_has_a_network_for_every_data_set(data):
    defaults = OmegaConf.to_container(OmegaConf.load(CONF / "data" / f"{data}.yaml"), resolve=False)["defaults"]
    (chosen,) = (part["override /network"] for part in defaults if "override /network" in part)
    family, _, size = chosen.partition("/")
    assert family == "${model}"
    assert all((of_family / f"{size}.yaml").is_file() for of_family in (CONF / "network").iterdir())


@pytest.mark.parametrize("name", choices("network/noisy_classifier"))
def test_a_noisy_classifier_is_the_way_down(name):
    """A noisy classifier is the way down of the denoiser of its size."""
    of_classifier = composed("model=noisy_classifier", f"network=noisy_classifier/{name}")
    assert of_classifier.network == composed(f"network=diffusion/{name}").network


@pytest.mark.parametrize("family", ["vae", "flow"])
def test_large_networks_learn_at_a_smaller_rate(family):
    rates = {name: composed(f"model={family}", f"network={family}/{name}").optimizer.lr for name in ("8x8", "64x64")}
    assert rates["64x64"] < rates["8x8"]


@pytest.mark.parametrize("name", choices("trainer"))
def test_a_trainer_says_how_training_is_carried_out(name):
    """A trainer says how training is carried out and shapes no model."""

    def shaping(*overrides):
        return asked_of_training(OmegaConf.to_container(composed(*overrides), resolve=True))

    assert shaping(f"trainer={name}", "model=gan") == shaping("model=gan")
    trainer = composed(f"trainer={name}").trainer
    assert trainer._target_ == "lightning.pytorch.Trainer"
    assert (trainer.devices > 1) == name.startswith("ddp")
    if name not in ("default", "ddp"):
        assert trainer.accelerator == ("gpu" if name == "gpu" else "cpu")


@pytest.mark.parametrize("name", [name for name in choices("callbacks") if name != "default"])
def test_a_callback_beside_ours_is_in_the_name(name):
    asked = [composed("model=gan", f"callbacks=[{names}]") for names in ("default", f"default,{name}")]
    without, with_it = (asked_of_training(OmegaConf.to_container(cfg, resolve=True)) for cfg in asked)
    assert name in with_it["callbacks"]
    assert "callbacks" not in without


@pytest.mark.parametrize("name", choices("debug"))
def test_debug_trains_little_into_a_folder(name):
    cfg = composed("experiment=improved_ddpm_digits", f"debug={name}")
    assert cfg.outputs == "outputs/debug"
    assert cfg.trainer.max_steps <= 300
    assert composed(f"debug={name}", "trainer.max_steps=7", "outputs=mine").trainer.max_steps == 7


@pytest.mark.parametrize("name", [name for name in choices("hparams_search") if name != "none"])
def test_a_search_has_a_space_a_goal(name):
    """A search has a space a goal and needs no multirun flag."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"hparams_search={name}"], return_hydra_config=True)
    assert cfg.hydra.mode is RunMode.MULTIRUN
    assert cfg.hydra.runtime.choices["hydra/sweeper"] == "optuna"
    assert cfg.objective_metric
    assert cfg.data.validation > 0
    assert cfg.evaluation.reference == "validation"
    for option in cfg.hydra.sweeper.params:
        assert OmegaConf.select(cfg, option) is not None, option


@pytest.mark.parametrize("name", choices("features"))
def test_features_stand_under_their_name(name):
    first, second = ("pixels", name) if name != "pixels" else (name, "digits_cnn")
    assert list(composed(f"features=[{first},{second}]", "data=cifar10").features) == [first, second]


@pytest.mark.parametrize("data", ["digits", "fashion_mnist"])
def test_the_first_features_were_trained_without_labels(data):
    first, second = (instantiate(node) for node in composed(f"data={data}").features.values())
    assert isinstance(first, SelfSupervisedFeatures)
    assert isinstance(second, ClassifierFeatures)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_stands_under_its_name(name):
    """A metric stands under its name with all its options."""
    (key, node), *others = composed(f"metrics=[{name}]").metrics.items()
    assert (key, others) == (name, [])
    metric = instantiate(node)
    assert isinstance(metric, Metric)
    assert dataclasses.asdict(metric) == {option: value for option, value in node.items() if option != "_target_"}
    names = [Naming("digits_cnn", "fd_digits_cnn"), Naming("inception", "fid", first=False)]
    measures = list(metric.measures(names))
    assert all(measure.meaning for measure in measures)
    assert len({measure.name for measure in measures}) == len(measures) > 0


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("labels", [None, torch.arange(12) % 3], ids=["no labels", "labels"])
def test_a_metric_says_what_it_needs_that_given_images(name, labels, tmp_path):
    """A metric says what it needs that given images or statistics do not have.

    Without a model, without labels, without real images: each of its numbers is there or has a reason.
    """
    (metric,) = [instantiate(node) for node in composed(f"metrics=[{name}]").metrics.values()]
    features, generator = Pixels(), torch.Generator().manual_seed(0)
    features.check((1, 4, 4))
    images = torch.randint(0, 256, (12, 1, 4, 4), generator=generator, dtype=torch.uint8)
    moments = Moments(torch.tensor(float("nan")), torch.zeros(16).double(), torch.eye(16).double())
    given = OneSet("given", images, 256, "1" * 64)
    source = GivenImages(given, labels, {}, CacheDirectory(tmp_path), "cpu", published={"": moments})
    nothing = OneSet("statistics", images[:0], 256, "2" * 64)
    nothing.prepare()
    scores = score(ScorePlan(source, nothing, [features], [metric], Evaluation()))
    absent = {name for name, reason in scores.protocol["absent"].items() if reason}
    assert not absent & scores.values.keys()
    assert {m.name for m in metric.measures([Naming("pixels", "fd_pixels")])} <= scores.values.keys() | absent | SILENT
