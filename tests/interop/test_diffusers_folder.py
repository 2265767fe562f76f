"""A folder of diffusers and the model that we make of it are one model: network, chain, samples. Others are refused."""

import json
import pickle
from dataclasses import dataclass

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

from diffusion_lab.diffusion import CosineSchedule, SigmoidSchedule
from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.interop.opening import opened
from diffusion_lab.interop.to_diffusers import to_diffusers
from diffusion_lab.interop.transformer_weights import DIFFUSERS_PERIOD
from diffusion_lab.sampling import DDIMSampler, Spacing
from diffusion_lab.store.records import RunError
from tests.hostile import Harm
from tests.models.stand_ins import configured

from .strangers import STEPS, diffusers_folder, model_of, random_weights

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.usefixtures("hydra_in_less_time"), pytest.mark.needs("diffusers")]
ATTENTION = "down_blocks.1.attentions.0"


@dataclass(frozen=True)
class Counted(Spacing):
    """Steps that are counted back from T, all of one length, as diffusers' trailing spacing counts them."""

    num_steps: int

    def __call__(self, process):
        return torch.arange(1, self.num_steps + 1) * (STEPS // self.num_steps)


@pytest.mark.parametrize(
    ("scheduler", "unet"),
    [
        ({"clip_sample": False, "prediction_type": "v_prediction"}, {}),
        ({"clip_sample": True}, {"sample_size": (8, 12), "in_channels": 1, "out_channels": 1}),
        ({"prediction_type": "sample", "beta_schedule": "scaled_linear"}, {"center_input_sample": True}),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {"num_class_embeds": 3}),
    ],
    ids=["v", "epsilon", "sample", "classes"],
)
def test_network_and_ddim_samples_are_those_of_diffusers(tmp_path, scheduler, unet):
    num_steps = 8
    theirs, process = diffusers_folder(tmp_path, unet=unet, timestep_spacing="trailing", **scheduler)
    model = model_of(opened(tmp_path, {}))
    channels, *sides = model.shape
    x_T, y = torch.randn(3, channels, *sides), torch.tensor([0, 2, 1]) if "num_class_embeds" in unet else None
    with torch.no_grad():
        for t in (0, 17, STEPS - 1):
            output = theirs(x_T, torch.full((3,), t), class_labels=y).sample
            assert output.std() > 0.05
            assert torch.allclose(model.network(x_T, torch.full((3,), t), y), output, atol=1e-5)
        x_t = x_T
        process.set_timesteps(num_steps)
        for t in process.timesteps:
            output = theirs(x_t, t, class_labels=y).sample
            x_t = process.step(output, t, x_t, eta=0.0, use_clipped_model_output=True).prev_sample
        ours = DDIMSampler(Counted(num_steps))(model.process, model.reverse, x_T, y)
    # Where theirs has no signal at all at T, ours has ᾱ = 2⁻²⁴: α·x_T, up to 10⁻³, is in x̂_0.
    assert ours.std() > 0.05
    assert torch.allclose(ours, x_t, atol=5e-3 if "num_class_embeds" in unet else 1e-3)


LISTED = [0.001 * (1 + i % 7) for i in range(STEPS)]


DDPM, DDIM, DPM = "DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"


@pytest.mark.parametrize(
    ("scheduler", "options", "name"),
    [
        (DDPM, {}, "linear"),
        (DDIM, {"beta_start": 0.002, "beta_end": 0.3}, "linear"),
        (DPM, {"beta_schedule": "scaled_linear", "beta_start": 0.0085, "beta_end": 0.3}, "table"),
        (DPM, {"beta_schedule": "squaredcos_cap_v2"}, "cosine"),
        (DDIM, {"trained_betas": LISTED}, "table"),
        (DPM, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, "table"),
    ],
)
def test_the_chain_has_their_alpha_bar_and_the_name_of_its_formula(tmp_path, scheduler, options, name):
    _, theirs = diffusers_folder(tmp_path, scheduler, **options)
    found = opened(tmp_path, {})
    assert f"schedule={name}" in found.options
    sampler = {DDPM: "strided", DDIM: "ddim", DPM: "dpm_solver"}[scheduler]
    assert f"sampler={sampler}" in found.options
    expected = theirs.alphas_cumprod.double()
    if "rescale_betas_zero_snr" in options:
        expected[-1] = 2**-24
    assert torch.allclose(model_of(found).schedule.alpha_bar()[1:], expected, rtol=1e-4)


def test_the_sigmoid_of_diffusers_is_not_ours(tmp_path):
    _, theirs = diffusers_folder(tmp_path, "DDPMScheduler", beta_schedule="sigmoid")
    found = opened(tmp_path, {})
    assert "schedule=table" in found.options
    assert torch.allclose(model_of(found).schedule.alpha_bar()[1:], theirs.alphas_cumprod.double(), rtol=1e-4)
    for schedule in (CosineSchedule(STEPS), SigmoidSchedule(STEPS)):
        assert not torch.allclose(model_of(found).schedule.alpha_bar(), schedule.alpha_bar(), rtol=0.1)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"])
def test_the_variance_is_that_of_their_ddpm(tmp_path, kind):
    unet = {"out_channels": 6} if kind == "learned_range" else {}
    network, theirs = diffusers_folder(tmp_path, "DDPMScheduler", unet, variance_type=kind)
    model = model_of(opened(tmp_path, {}))
    x_t = torch.randn(1, 3, 8, 8)
    for t in (2, 21, STEPS):
        with torch.no_grad():
            step = model.reverse(model.process, x_t, torch.tensor([t]))
            shown = network(x_t, t - 1).sample[:, 3:]
        variance = theirs._get_variance(t - 1, shown)
        if kind == "fixed_small_log":
            variance = variance.square()  # theirs is a standard deviation there
        if kind == "learned_range":
            variance = variance.exp()
        log_variance = step.distribution.log_variance
        assert torch.allclose(log_variance, variance.log().expand_as(log_variance), atol=1e-3)


@pytest.mark.parametrize("kind", ["equal groups", "groups", "dit", "dit with the frequencies of diffusers"])
def test_the_model_that_we_export_comes_back(tmp_path, kind):
    """Its network, run by diffusers or read by us, is the same function, with its classes, its chain and its clipping."""
    _, _ = diffusers_folder(tmp_path / "any", unet={"num_class_embeds": 4})
    index = {"_class_name": ["pipeline", "DiffusionLabPipeline"]}
    (tmp_path / "any" / "model_index.json").write_text(json.dumps(index))
    wrapped = opened(tmp_path / "any", {})
    assert (wrapped.num_classes, "network.null_class=True" in wrapped.options) == (3, False)
    ours = _of_ours(kind)
    for name, content in to_diffusers(ours.generator()).items():
        (tmp_path / "ours" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ours" / name).write_bytes(content)
    back = model_of(opened(tmp_path / "ours", {}))
    x_t, t = torch.randn(4, 3, 8, 8), torch.tensor([1, 9, 20, 24])
    assert torch.equal(back.process.timesteps, ours.process.timesteps)
    assert torch.allclose(back.process.log_snr(t), ours.process.log_snr(t), rtol=1e-6)
    for y in (None, torch.tensor([0, 2, 1, 3])):
        with torch.no_grad():
            theirs, own = (model.reverse(model.process, x_t, t, y) for model in (back, ours))
        assert own.output.std() > 0.1
        assert torch.allclose(theirs.output, own.output, atol=1e-5)
        assert torch.allclose(theirs.x_0, own.x_0, atol=1e-4)
        assert torch.allclose(theirs.distribution.log_variance, own.distribution.log_variance, atol=1e-4)


_WIDE = ["base_channels=32", "channel_multipliers=[1,2]", "head_channels=32", "num_res_blocks=1"]
_DIT = ["width=32", "num_heads=2", "num_blocks=2", "patch_size=2"]
_OF_OURS = {
    "equal groups": ["published", *_WIDE, "num_groups=8"],
    "groups": ["published", *_WIDE],
    "dit": ["dit", *_DIT],
    "dit with the frequencies of diffusers": ["dit", *_DIT, f"max_period={DIFFUSERS_PERIOD}"],
}


def _of_ours(kind):
    name, *small = _OF_OURS[kind]
    options = [f"network=diffusion/{name}", *(f"network.{option}" for option in small), "schedule.num_timesteps=24"]
    cfg = configured(*options, "sampler.spacing.num_steps=5", shape=(3, 8, 8), num_levels=256, num_classes=3)
    model = instantiate(cfg.model).eval()
    random_weights(model.network)
    return model


@pytest.mark.parametrize("form", ["flat", "old names", "bin", "no index"])
def test_other_layouts_of_the_folder_are_read(tmp_path, form):
    theirs, _ = diffusers_folder(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    if form == "old names":
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, name in old.items():
            weights = {key.replace(f".{new}.", f".{name}."): value for key, value in weights.items()}
        assert f"{ATTENTION}.query.weight" in weights
        save_file(weights, file)
    if form == "bin":
        torch.save(weights, file.with_suffix(".bin"))
        file.unlink()
    if form == "no index":
        (tmp_path / "model_index.json").unlink()
    if form == "flat":
        for path in (*tmp_path.glob("*/*.json"), file):
            path.rename(tmp_path / path.name)
        for part in ("unet", "scheduler"):
            (tmp_path / part).rmdir()
    network = model_of(opened(tmp_path, {})).network
    x_t, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 30])
    with torch.no_grad():
        assert torch.allclose(network(x_t, t), theirs(x_t, t).sample, atol=1e-5)


INDEX, NETWORK, PROCESS = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
LATENT = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
REFUSED = {
    "latent diffusion": ({INDEX: LATENT}, "a StableDiffusionPipeline with vae needs more than its network"),
    "a text": ({INDEX: {"unet": ["diffusers", "UNet2DConditionModel"]}}, "a UNet2DConditionModel cannot be imported"),
    "another network": ({INDEX: {"unet": None}, NETWORK: {"_class_name": "UNet1DModel"}}, "a UNet1DModel cannot be"),
    "own code": ({INDEX: {"unet": ["my_unet", "UNet2DModel"]}}, "its unet is a custom class, which is not run"),
    "own scheduler": ({INDEX: {"scheduler": ["mine", "DDPMScheduler"]}}, "its scheduler is a custom class"),
    "another scheduler": ({INDEX: {"scheduler": ["diffusers", "PNDMScheduler"]}}, "PNDMScheduler cannot be imported"),
    "flow": ({PROCESS: {"prediction_type": "flow_prediction"}}, "prediction_type=flow_prediction is not supported"),
    "variance": ({PROCESS: {"variance_type": "learned"}}, "variance_type=learned is not supported"),
    "half a variance": ({PROCESS: {"variance_type": "learned_range"}}, "does not fit a network with one output"),
    "a formula": ({PROCESS: {"beta_schedule": "laplace"}}, "laplace is not implemented for"),
    "a range": ({PROCESS: {"clip_sample_range": 2.0}}, "clip_sample_range=2.0 is not supported"),
    "thresholds": ({PROCESS: {"thresholding": True, "sample_max_value": 2}}, "sample_max_value=2 is not supported"),
    "no signal": ({PROCESS: {"rescale_betas_zero_snr": True}}, "only v_prediction and sample"),
    "few betas": ({PROCESS: {"trained_betas": [0.1]}}, "a list of num_train_timesteps=40 numbers"),
    "a huge beta": ({PROCESS: {"trained_betas": [10**400] * STEPS}}, "DDIMScheduler cannot be built"),
    "many steps": ({PROCESS: {"num_train_timesteps": 10**9}}, "num_train_timesteps=1000000000 is not supported"),
    "a list": ({PROCESS: {"prediction_type": ["epsilon"]}}, "is not supported"),
    "channels": ({NETWORK: {"out_channels": 4}}, "one or two outputs for each channel"),
    "classes": ({NETWORK: {"class_embed_type": "timestep"}}, "class_embed_type=timestep is not supported"),
    "score model": ({NETWORK: {"time_embedding_type": "fourier"}}, "time_embedding_type=fourier"),
    "no size": ({NETWORK: {"sample_size": None}}, "states no sample_size"),
    "an odd size": ({NETWORK: {"sample_size": 7}}, "cannot be halved"),
    "a newer option": ({NETWORK: {"new_norm": True}}, "the installed diffusers has no new_norm"),
    "a number of many digits": ({NETWORK: {"dropout": 10**400}}, "dropout must hold numbers and words"),
    "an override": ({NETWORK: {"act_fn": "silu,network=x"}}, "act_fn must hold numbers and words"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_nothing_here_does_is_refused_with_the_reason(tmp_path, changes, said):
    diffusers_folder(tmp_path)
    for name, change in changes.items():
        file = tmp_path / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises((CheckpointError, RunError)) as error:
        opened(tmp_path, {})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_of_a_broken_or_hostile_folder_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "theirs"
    with pytest.raises(CheckpointError, match="there is no such file"):
        opened(folder, {})
    folder.mkdir()
    with pytest.raises(CheckpointError, match="not a folder of diffusers"):
        opened(folder, {})
    diffusers_folder(folder)
    (folder / "pipeline.py").write_text("open('harm', 'w')")
    model_of(opened(folder, {}))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        opened(folder, {})
    save_file({"a": torch.ones(1)}, weights)
    with pytest.raises(CheckpointError, match=r"it has no .*, and it has a, which that network does not have"):
        model_of(opened(folder, {}))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"there is no .*safetensors and no diffusion_pytorch_model\.bin"):
        opened(folder, {})
    weights.with_suffix(".bin").write_bytes(pickle.dumps({"a": Harm()}))
    with pytest.raises(CheckpointError, match=r"holds more than tensors|is damaged"):
        opened(folder, {})
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(RunError, match="is not JSON"):
        opened(folder, {})
    assert not (tmp_path / "harm").exists()
