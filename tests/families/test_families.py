"""What every generative family promises, whichever it is: a new conf/model/*.yaml is checked the moment it exists."""

import json
from contextlib import nullcontext
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.trainable import GenerativeModel
from tests.models.stand_ins import at_batch, configured, step

DATA = {"digits": {"shape": (1, 8, 8), "num_levels": 17}, "mixture": {"shape": (2,)}}
INDICES = torch.tensor([3, 11, 0, 7, 11])
SHORT = {"diffusion": ["sampler.spacing.num_steps=6"]}
NARROW = {
    "diffusion": ["network.base_channels=8", "network.head_channels=8"],
    "flow": ["network.hidden=8", "network.coarse_hidden=16"],
    "gan": ["network.base_channels=8"],
    "vae": ["network.base_channels=8"],
}
FAMILIES = [
    path.stem
    for path in sorted((CONF / "model").glob("*.yaml"))
    if issubclass(get_class(OmegaConf.load(path).model._target_), GenerativeModel)
]


@pytest.fixture(scope="module", autouse=True)
def in_less_time(hydra_in_less_time):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion_lab.families.vae.vae.IMPORTANCE_DRAWS", 4)
        yield


def built(family, data="digits", num_classes=None, narrow=True):
    """With weights that a few steps of anything could have left: what starts at zero would hide what depends on what."""
    options = [*SHORT.get(family, []), *(NARROW.get(family, []) if narrow and data == "digits" else [])]
    cfg = configured(f"model={family}", f"data={data}", *options, num_classes=num_classes, **DATA[data])
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("shape", [[2, 32], [1, 8, 8, 8]])
@pytest.mark.parametrize("name", ["gan", "vae", "flow"])
def test_series_and_volumes_are_for_diffusion(name, shape):
    cfg = configured(f"model={name}", "data=digits", shape=shape, num_levels=17)
    with pytest.raises(InstantiationException, match=r"takes images and points, .*: use model=diffusion"):
        instantiate(cfg.model)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=DATA)
def data(request):
    return request.param


def data_like(model, size):
    """Something that could be data, on the data's own levels where they have any."""
    x, highest = torch.rand(size, *model.shape, generator=torch.Generator().manual_seed(1)), (model.num_levels or 1) - 1
    return 2 * ((x * highest).round() / highest if highest else x) - 1


@torch.no_grad()
def test_a_sample_is_a_function_of_seed_and_index_alone(family, data):
    model = built(family, data).generator()
    together = model.sample(INDICES, 5)
    assert together.shape == (5, *model.shape)
    assert together.dtype == torch.float32
    assert together.isfinite().all()
    if model.num_levels is not None:
        assert float(together.abs().max()) <= 1
    alone = torch.cat([model.sample(INDICES[i : i + 1], 5) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[1], together[4], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])
    assert not torch.allclose(together, model.sample(INDICES, 6))


@torch.no_grad()
def test_a_conditional_model_draws_what_it_is_told(family):
    model = built(family, num_classes=10).generator()
    y = torch.tensor([0, 1, 2, 3, 4])
    told = model.sample(INDICES, 5, y)
    assert not torch.allclose(told, model.sample(INDICES, 5, y + 5))
    torch.testing.assert_close(told[2:3], model.sample(INDICES[2:3], 5, y[2:3]), rtol=1e-4, atol=1e-4)
    assert model.protocol()["conditional"] is True
    assert built(family).generator().protocol()["conditional"] is False


@torch.no_grad()
def test_without_a_class_a_conditional_model_refuses(family):
    """It draws as for the null class, where its network has one."""
    model, unconditional = (built(family, num_classes=known).generator() for known in (10, None))
    refusal = pytest.raises(ValueError, match="set condition=…") if family in ("gan", "vae", "flow") else nullcontext()
    with refusal:
        assert model.sample(INDICES, 5).isfinite().all()
    if not isinstance(model, DiffusionGenerator):
        y = torch.tensor([0, 1, 2, 3, 4])
        assert torch.equal(unconditional.sample(INDICES, 5, y), unconditional.sample(INDICES, 5))


@torch.no_grad()
def test_latents_are_standard_normal(family, data):
    model = built(family, data).generator()
    z = model.latents(torch.arange(2000), 5)
    assert z.flatten(1).mean(0).abs().max() < 5 / 2000**0.5
    assert z.flatten(1).var(0).sub(1).abs().max() < 5 * (2 / 2000) ** 0.5
    images = model.decode(z[:2])
    torch.testing.assert_close(images, model.decode(z[:2]))


@torch.no_grad()
def test_a_likelihood_is_the_sum_of_its_parts(family, data):
    """And each image's own."""
    model = built(family, data).generator()
    x_0, indices = data_like(model, 2), torch.tensor([5, 1])
    stated = model.likelihood(x_0, None, 3, indices, max_terms=10)
    if stated is None:
        assert model.encode(x_0) is None, "what looks back can say how likely an image is"
        with pytest.raises(ValueError, match="has no likelihood"):
            model.bits_per_dim(x_0)
        return
    assert stated.kind
    assert stated.bits_per_dim.shape == (2,)
    assert stated.bits_per_dim.dtype == torch.float64
    assert stated.bits_per_dim.isfinite().all()
    torch.testing.assert_close(sum(stated.parts.values()), stated.bits_per_dim, rtol=1e-6, atol=1e-6)
    alone = [model.likelihood(x_0[i : i + 1], None, 3, indices[i : i + 1], 10).bits_per_dim for i in range(2)]
    torch.testing.assert_close(stated.bits_per_dim, torch.cat(alone), rtol=1e-4, atol=1e-4)
    other = model.likelihood(x_0, None, 3, indices + 1, 10)
    if "exact" not in stated.kind:
        assert not torch.equal(stated.bits_per_dim, other.bits_per_dim)


@torch.no_grad()
def test_an_encoder_looks_back_at_what_it_can_draw_again(family):
    model = built(family).generator()
    x_0 = data_like(model, 2)
    z = model.encode(x_0)
    if z is not None:
        assert z.shape == model.latents(INDICES[:2], 0).shape
        assert model.decode(z).shape == x_0.shape


def test_what_is_averaged_draws_the_samples_and_costs(family, data):
    model = built(family, data)
    averaged = model.averaged_parameters()
    parameters = dict(model.named_parameters())
    assert all(parameters[name] is parameter for name, parameter in averaged.items())
    assert {f"network.{name}" for name, _ in model.network.named_parameters()} <= set(averaged)
    generator = model.generator()
    in_use = sum(value.numel() for network in generator.networks.values() for value in network.parameters())
    assert in_use == sum(parameter.numel() for parameter in averaged.values())
    cost = generator.cost()
    assert model.cost() == cost
    assert cost.parameters > 1000
    assert cost.parameters == sum(parameter.numel() for parameter in averaged.values())
    assert cost.forward_flops > cost.parameters / 2
    assert generator.nfe >= 1


@torch.no_grad()
def test_a_generator_is_frozen(family, data):
    """Further training changes neither its samples nor its weights, and nothing in it can be set."""
    model = built(family, data)
    model.averages["ema_0.9"] = {name: value.detach() * 0.9 for name, value in model.averaged_parameters().items()}
    for weights in model.weight_names:
        generator = model.generator(weights)
        before = generator.sample(INDICES, 5)
        assert not any(network.training for network in generator.networks.values())
        for value in (*model.state_dict().values(), *model.averages["ema_0.9"].values()):
            if value.is_floating_point():
                value += 0.01 * torch.randn_like(value)
        assert torch.equal(generator.sample(INDICES, 5), before)
        with pytest.raises(FrozenInstanceError):
            generator.shape = (1,)
        assert not torch.equal(model.generator(weights).sample(INDICES, 5), before)


def test_the_protocol_is_json_and_names_the_family(family):
    model = built(family).generator()
    assert model.protocol()["family"] == family
    assert json.loads(json.dumps(model.protocol())) == model.protocol()
    assert model.sampling_protocol().items() <= model.protocol().items()


def test_families_have_comparable_sizes(family):
    assert 0.5e6 < sum(parameter.numel() for parameter in built(family, narrow=False).parameters()) < 1.2e6


# ---- the held-out loss; of the classifier of noisy images too ----


@pytest.mark.parametrize("family", [path.stem for path in sorted((CONF / "model").glob("*.yaml"))])
@pytest.mark.parametrize("data", DATA)
@torch.no_grad()
def test_held_out_terms_are_those_of_training(family, data):
    """And their noise is each image's own."""
    model = at_batch(built(family, data, 10), strategy=SimpleNamespace(all_gather=lambda value, **_: value))
    x_0 = data_like(SimpleNamespace(shape=model.shape, num_levels=DATA[data].get("num_levels")), 5)
    y = torch.tensor([0, 1, 2, 9, 1])

    def terms(rows):
        noise = SampleNoise(3, INDICES[rows])
        return {name: term.double() for name, term in model.held_out_terms(x_0[rows], y[rows], noise).items()}

    together, alone = terms(slice(0, 5)), [terms(slice(i, i + 1)) for i in range(5)]
    assert set(together) == set(model.term_names)
    if not hasattr(model, "discriminator"):  # it compares the images of a batch
        for name, term in together.items():
            assert float(term.mean()) == pytest.approx(sum(float(one[name]) for one in alone) / 5, rel=1e-3)
    other = model.held_out_terms(x_0, y, SampleNoise(4, INDICES))
    stated = model.generator().likelihood(x_0, y, 0, INDICES, None) if isinstance(model, GenerativeModel) else None
    exact = stated is not None and stated.kind.startswith("exact density")  # which needs no noise
    assert exact or any(not torch.equal(other[name].double(), term) for name, term in together.items())


@pytest.mark.parametrize("family", ["diffusion", "vae", "flow", "noisy_classifier"])
def test_training_is_a_function_of_seed_and_batch(family):
    """Of the global batch, whatever the number of ranks. What is logged has names that are known before."""
    x_0, y = data_like(SimpleNamespace(shape=(1, 8, 8), num_levels=17), 4), torch.tensor([0, 1, 2, 9])
    gather = {"strategy": SimpleNamespace(all_gather=lambda value, **_: value)}

    def trained(seed, *place):
        model = built(family, "digits", 10)
        model.seed = seed
        if family == "flow":
            model.network.initialised.fill_(True)  # its start is in test_flow.py
        return step(model, x_0, *place, y=y, **gather), model

    places = ((1, 0), (1, 0), (1, 1), (2, 0), (1, 0, 0, 2), (1, 0, 1, 2))
    whole, again, *others = (float(trained(*place)[0]["loss"].detach()) for place in places)
    assert whole == again
    assert len({whole, *others}) == 5
    assert sum(others[2:]) / 2 == pytest.approx(whole, rel=1e-5)
    out, model = trained(1, 0)
    assert set(out["terms"]) == set(model.term_names)
    assert set(out.get("weighted", {})) == set(model.weighted_names)
