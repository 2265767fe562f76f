"""A milestone of denoising-diffusion-pytorch and the model that we make of it are one model. Others are refused."""

import pytest
import torch

from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.interop.opening import opened
from diffusion_lab.sampling import DDIMSampler, Spacing

from .strangers import STEPS, milestone, model_of

pytest.importorskip("denoising_diffusion_pytorch")
pytestmark = [pytest.mark.usefixtures("hydra_in_less_time"), pytest.mark.needs("denoising-diffusion-pytorch")]
SIZE = {"image_size": "8"}
MODELS = {
    "default": ({}, {}),
    "noise": ({}, {"objective": "pred_noise", "beta_schedule": "linear", "min_snr_loss_weight": True}),
    "start": ({"channels": 1, "init_dim": 12}, {"objective": "pred_x0", "beta_schedule": "cosine"}),
    "heads": (
        {
            "dim_mults": (1, 2, 3),
            "attn_heads": (2, 1, 3),
            "attn_dim_head": (8, 4, 16),
            "full_attn": (True, False, True),
        },
        {"beta_schedule": "cosine", "schedule_fn_kwargs": {"s": 0.05}, "min_snr_loss_weight": True},
    ),
    "self-conditioned": ({"self_condition": True}, {"beta_schedule": "cosine"}),
}


class Theirs(Spacing):
    """The steps of its ddim_sample: round(linspace) towards 0."""

    def __call__(self, process):
        return torch.linspace(-1, STEPS - 1, steps=9).int()[1:].long() + 1


@pytest.mark.parametrize(("unet", "options"), MODELS.values(), ids=MODELS)
def test_network_and_reverse_steps_and_ddim_samples_are_those_of_the_package(tmp_path, monkeypatch, unet, options):
    theirs = milestone(tmp_path / "model-1.pt", unet, sampling_timesteps=8, **options)
    found = opened(tmp_path / "model-1.pt", SIZE)
    model = model_of(found)
    name = {"pred_noise": "noise", "pred_x0": "start"}.get(options.get("objective"), "velocity")
    assert f"prediction={name}" in found.options
    formula = "table" if "schedule_fn_kwargs" in options else options.get("beta_schedule", "sigmoid")
    assert f"schedule={formula}" in found.options
    x_t = torch.randn(3, *model.shape)
    for t in (2, 20, STEPS):
        times = torch.full((3,), t)
        with torch.no_grad():
            output = theirs.model(x_t, times - 1)
            step = model.reverse(model.process, x_t, times)
            mean, _, log_variance, x_0 = theirs.p_mean_variance(x_t, times - 1)
        assert output.std() > 0.05
        assert torch.allclose(step.output, output, atol=1e-5)
        assert torch.allclose(step.x_0, x_0, atol=1e-3)
        assert torch.allclose(step.distribution.mean, mean, atol=1e-3)
        assert torch.allclose(step.distribution.log_variance, log_variance, atol=1e-3)
    if unet.get("self_condition"):
        return  # its samplers pass the last guess on
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: x_t)
    expected = theirs.ddim_sample(x_t.shape) * 2 - 1
    ours = DDIMSampler(Theirs())(model.process, model.reverse, x_t)
    assert ours.std() > 0.05
    assert torch.allclose(ours, expected, atol=1e-3)


def test_a_version_is_a_text(tmp_path):
    """Nested lists are small in a file but endless as text."""
    milestone(tmp_path / "model-1.pt", objective="pred_noise")
    saved = torch.load(tmp_path / "model-1.pt", weights_only=True)
    nested = ["x"]
    for _ in range(60):
        nested = [nested, nested]
    torch.save({**saved, "version": nested}, tmp_path / "model-2.pt")
    assert opened(tmp_path / "model-2.pt", SIZE).origin["version"] == "unknown"


def test_a_learned_variance_is_read(tmp_path):
    theirs = milestone(tmp_path / "model-1.pt", learned=True, objective="pred_noise")
    model = model_of(opened(tmp_path / "model-1.pt", SIZE))
    x_t, t = torch.randn(2, 3, 8, 8), torch.tensor([2, 30])
    with torch.no_grad():
        step = model.reverse(model.process, x_t, t)
        mean, _, log_variance, _ = theirs.p_mean_variance(x=x_t, t=t - 1, clip_denoised=True)
    assert torch.allclose(step.distribution.mean, mean, atol=1e-3)
    assert torch.allclose(step.distribution.log_variance, log_variance, atol=1e-3)


def test_the_average_is_read_unless_the_user_asks_for_the_others(tmp_path):
    file = tmp_path / "model-1.pt"
    theirs = milestone(file)
    averaged, others = (opened(file, SIZE | more) for more in ({}, {"weights": "model"}))
    assert (averaged.which, others.which) == ("ema", "model")
    assert torch.equal(averaged.tensors["init_conv.weight"], theirs.model.init_conv.weight)
    assert not others.tensors["init_conv.weight"].any()
    torch.save(theirs.state_dict(), file)  # the model alone
    assert torch.equal(opened(file, SIZE).tensors["init_conv.weight"], theirs.model.init_conv.weight)


def changed(**changes):
    def change(saved):
        for part in (saved["model"], saved["ema"]):
            for name in [name for name in part if name.removeprefix("ema_model.") in changes]:
                new = changes[name.removeprefix("ema_model.")]
                part.pop(name) if new is None else part.update({name: new})

    return change


WIDTH = torch.ones(20, 16, 3, 3)
REFUSED = {
    "no size": (None, {}, "add image_size=32"),
    "an odd size": (None, {"image_size": "7"}, "sides that are divisible by 2"),
    "flags": (None, SIZE | {"flags": "--x 1"}, "flags=--x 1 has no effect for a milestone"),
    "no average": (lambda saved: saved.pop("ema"), SIZE, "has no ema: add weights=model"),
    "no betas": (changed(betas=None), SIZE, "states no betas"),
    "some weights": (changed(loss_weight=torch.rand(STEPS)), SIZE, "does not say what its network predicts"),
    "odd widths": (changed(**{"model.downs.1.3.weight": WIDTH}), SIZE, "are not multiples of 8"),
    "a bad beta": (changed(betas=torch.full((STEPS,), 2.0)), SIZE | {"prediction": "noise"}, "above 0 and below 1"),
}


@pytest.mark.parametrize(("change", "given", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_known_or_is_not_theirs_is_one_sentence(tmp_path, change, given, said):
    file = tmp_path / "model-1.pt"
    milestone(file)
    if change is not None:
        saved = torch.load(file, weights_only=True)
        change(saved)
        torch.save(saved, file)
    with pytest.raises(CheckpointError) as error:
        opened(file, given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_other_layers_than_the_shapes_tell_are_named(tmp_path):
    file = tmp_path / "model-1.pt"
    milestone(file)
    saved = torch.load(file, weights_only=True)
    norm = "ema_model.model.mid_block1.block1.norm"
    saved["ema"][f"{norm}.weight"] = saved["ema"].pop(f"{norm}.g")
    torch.save(saved, file)
    with pytest.raises(CheckpointError, match=r"it has no .*block1\.norm\.g, and it has .*block1\.norm\.weight"):
        model_of(opened(file, SIZE))
