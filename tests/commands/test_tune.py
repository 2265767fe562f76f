"""Trainings that start from a model: what they take from it, what trains, and what other programs read of the result."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffusion_lab import load
from diffusion_lab.store import newest_model

from ..interop.strangers import diffusers_folder
from .conftest import STRIDED, TINY, TRANSFORMERS
from .test_resume import EVERYTHING, Training, assert_survives

ODD = ["schedule=sigmoid", "prediction=noise", "weighting=min_snr", "model.condition_dropout=0.2"]
SOURCE = [
    *TINY,
    *STRIDED,
    *ODD,
    "network.channel_multipliers=[1,1]",
    "network.attention_resolutions=[4]",
    "score=false",
]
BRIEF = ["trainer.max_steps=2", "score=false", "val.every_n_steps=0", "data.batch_size=8", "snapshots.averages=0"]
STILL = ["optimizer=adamw", "optimizer.lr=1e-300"]


@pytest.fixture
def source(lab):
    """The folder of a small model of digits with choices that are not the defaults."""
    lab.given("train", *SOURCE)
    return newest_model(lab.folder / "outputs").path.rename(lab.folder / "source")


def tuned(lab, *options):
    """(the config, the record, the choices) of a training from `source`; its folder."""
    lab.done("train", "init_from=source", *BRIEF, *options)
    model = newest_model(lab.folder / "outputs")
    return yaml.safe_load(model.config.read_text()), model.read_training(), model.read_choices(), model


def write_arrays(lab, side=16, levels=17, classes=3):
    draw = np.random.default_rng(0)
    images = draw.integers(0, levels, (24, 1, side, side)).astype(np.uint8)
    images[0, 0, 0, :2] = 0, levels - 1
    np.savez(lab.folder / "train.npz", images=images, labels=np.arange(24) % classes)
    return ["data=arrays", "data.train=train.npz", "data.layout=nchw", "val.every_n_steps=0"]


def test_the_parts_of_the_source_are_taken(lab, source):
    """Its options too; they are recorded under the names of the choices that they were made from."""
    before = yaml.safe_load((source / "config.yaml").read_text())
    cfg, training, choices, _ = tuned(lab, "condition=classes")
    for group in ("network", "prediction", "schedule", "variance", "objective", "weighting", "timesteps", "sampler"):
        assert cfg[group] == before[group], group
    assert cfg["model"]["condition_dropout"] == 0.2
    taken = json.loads((source / "choices.json").read_text())
    taken = {group: choice for group, choice in taken.items() if group in choices}
    assert choices == taken | {"condition": "classes"}
    start = training["start"]
    assert start["anew"] == ["network.encoder.conditioning.classes.weight"]
    assert (start["fitted"], start["left_out"], start["frozen"]) == ([], [], 0)
    assert start["taken"] == len(load_file(source / "raw.safetensors"))


def test_what_the_user_chooses_is_not_taken(lab, source):
    cfg, _, choices, _ = tuned(
        lab, "weighting=none", "schedule.num_timesteps=24", "network.dropout=0.1", "model.condition_dropout=0.3"
    )
    assert choices["weighting"] == "none"
    assert choices["schedule"] == "sigmoid"
    assert cfg["objective"]["weighting"] == {"_target_": "diffusion_lab.diffusion.Unweighted"}
    assert (cfg["schedule"]["num_timesteps"], cfg["timesteps"]["num_timesteps"]) == (24, 24)
    assert (cfg["network"]["dropout"], cfg["model"]["condition_dropout"]) == (0.1, 0.3)
    cfg, _, choices, _ = tuned(lab, "objective=vlb", "variance=learned_jointly", "timesteps=uniform", *STRIDED)
    assert (choices["objective"], choices["timesteps"], choices["weighting"]) == ("vlb", "uniform", "none")


def test_another_size_follows_the_data(lab, source):
    """So do channels and sides; the schedule, whose times the weights mean, keeps the levels of the source."""
    data = write_arrays(lab, levels=256)
    cfg, training, _, model = tuned(lab, *data, "features=pixels")
    assert (cfg["network"]["image_size"], cfg["network"]["attention_resolutions"]) == (16, [8])
    assert (cfg["objective"]["num_levels"], cfg["schedule"]["log_snr_max"]["num_levels"]) == (256, 17)
    assert training["start"]["taken"] == len(load_file(source / "raw.safetensors"))
    assert load(model.path).sample(2, num_steps=2).shape == (2, 1, 16, 16)


def test_several_sources_must_agree(lab, source):
    """With -m their networks, schedules and predictions are the same, or the command says in what they differ."""
    shutil.copytree(source, lab.folder / "second")
    lab.done("train", *SOURCE, "schedule.num_timesteps=20")
    newest_model(lab.folder / "outputs").path.rename(lab.folder / "third")
    lab.refused("train", "-m", "init_from=source,third", *BRIEF, said="these models differ in schedule.num_timesteps")
    lab.done("train", "-m", "init_from=source,second", "lora.rank=1,2", *BRIEF, *STILL, "score=false")
    assert len([*(lab.folder / "outputs" / "models").iterdir()]) == 2  # source and second have the same weights


def test_the_same_command_finds_the_tuned_model(lab, source):
    first = tuned(lab, "lora.rank=2")[3]
    assert "already trained" in lab.done("train", "init_from=source", *BRIEF, "lora.rank=2")
    other = tuned(lab, "freeze=[encoder]")[3]
    assert other.path != first.path


def test_lora_writes_whole_weights(lab, source):
    """With the names of any model; only layers that were adapted have changed, in raw weights and in averages."""
    _, training, _, model = tuned(lab, "lora.rank=2", "lora.target_modules=[qkv,conv_2]")
    there, here = load_file(source / "raw.safetensors"), load_file(model.weights("raw"))
    assert {name: w.shape for name, w in there.items()} == {name: w.shape for name, w in here.items()}
    changed = {name for name in here if not torch.equal(here[name], there[name])}
    assert changed
    assert {name.split(".")[-2] for name in changed} <= {"qkv", "conv_2"}
    average = load_file(model.weights("ema_0.999"))
    assert all(torch.equal(average[name], there[name]) for name in there.keys() - changed)
    assert training["parameters"] == json.loads((source / "training.json").read_text())["parameters"]
    assert 0 < training["start"]["trained"] < training["start"]["frozen"]
    lab.done("evaluate", "evaluation.num_samples=4", "metrics=[frechet_distance]", "features=pixels")


def test_an_average_may_start_it(lab, source):
    _, _, _, model = tuned(lab, "init_weights=auto", "condition=classes", *STILL)
    there, here = load_file(source / "ema_0.999.safetensors"), load_file(model.weights("raw"))
    assert all(torch.equal(here[name], there[name]) for name in there)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["freeze=[encodr]"], "freeze: the network has no part encodr; did you mean encoder"),
        (["freeze=[encoder,up,upsamples,output,output_norm]"], "leaves nothing of the network to train"),
        (["lora.alpha=4"], "lora.alpha has no effect without lora.rank"),
        (["lora.rank=2", "lora.target_modules=[to_q]"], "lora.target_modules: the network has no layer to_q"),
        (["lora.rank=0"], "lora.rank=0"),
        (["network.base_channels=16"], "time.0.bias is (32,) in the file and (64,)"),
        (["variance=fixed_small", "objective=simple", *STRIDED], "network.output.bias is"),
        (["data=two_moons"], "network: this one takes images"),
    ],
)
def test_what_cannot_be_tuned_is_one_sentence(lab, source, options, said):
    lab.refused("train", "init_from=source", *BRIEF, *options, said=said)


def test_lora_without_a_source_is_refused(lab):
    lab.refused("train", *TINY, *STRIDED, "lora.rank=2", said=("lora.rank=2", "init_from=FOLDER"))


@pytest.mark.parametrize("how", ["lora", pytest.param("freeze", marks=pytest.mark.thorough)])
def test_a_killed_tuning_is_resumed_to_the_bit(tmp_path, zygote, how):
    first = Training(zygote.start, tmp_path / "first", *EVERYTHING, "condition=classes", "trainer.max_steps=2")
    first.finish()
    more = ["lora.rank=2", "lora.target_modules=[qkv,conv_1]"] if how == "lora" else ["freeze=[encoder]"]
    kept = [option for option in EVERYTHING if not option.startswith(("network.", "schedule", "variance", "objective"))]
    options = [f"init_from={first.directory.path}", "condition=none", *kept, *more, "trainer.max_steps=20"]
    assert_survives(zygote.start, tmp_path, *options, kills=2, steps=20)


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize("options", [["condition=classes"], []], ids=["other classes", "none"])
def test_an_imported_model_is_tuned_and_written_back(lab, options):
    """LoRA on a model of diffusers with three classes, whose folder diffusers then reads as before."""
    diffusers = pytest.importorskip("diffusers")
    diffusers_folder(lab.folder / "theirs", unet={"num_class_embeds": 3, "in_channels": 1, "out_channels": 1})
    lab.done("import", "checkpoint=theirs")
    newest_model(lab.folder / "outputs").path.rename(lab.folder / "source")
    dropout = ["model.condition_dropout=0.1", "network.null_class=true"] if options else []
    _, training, _, model = tuned(
        lab, *options, *dropout, "lora.rank=2", "lora.target_modules=[to_q,to_v]", "features=pixels"
    )
    changed = [*training["start"]["anew"], *training["start"]["fitted"]]
    assert (
        changed == ["network.unet.class_embedding.weight", "network.unet.time_embedding.linear_2.bias"][not options :]
    )
    lab.done("export", "weights=raw", "to=tuned", "sampler=ddim", "sampler.spacing.num_steps=4")
    unet = diffusers.UNet2DModel.from_pretrained("tuned", subfolder="unet").eval()
    assert_same_outputs(unet, load(model.path).module.network.eval(), classes=bool(options))


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_lora_of_our_networks_is_read_by_diffusers(lab, kind):
    diffusers = pytest.importorskip("diffusers")
    wide = [f"network.{o}" for o in ("base_channels=32", "channel_multipliers=[1,1]", "attention_resolutions=[4]")]
    network = (
        [*TRANSFORMERS["dit"], "network.max_period=10000"] if kind == "dit" else [*wide, "network.head_channels=32"]
    )
    lab.done("train", *network, "condition=classes", *BRIEF)
    newest_model(lab.folder / "outputs").path.rename(lab.folder / "source")
    *_, model = tuned(lab, "condition=classes", "lora.rank=2", "optimizer.adamw_lr=0.5")
    assert not torch.equal(*(load_file(f / "raw.safetensors")[qkv(kind)] for f in (lab.folder / "source", model.path)))
    lab.done("export", "weights=raw", "to=tuned", "sampler=ddim", "sampler.spacing.num_steps=4")
    pipeline = diffusers.DiffusionPipeline.from_pretrained("tuned", trust_remote_code=True)
    assert_same_outputs(pipeline.network, load(model.path).module.network.eval(), classes=True)


def qkv(kind):
    return "network.trunk.blocks.0.attention.qkv.weight" if kind == "dit" else "network.encoder.middle.1.qkv.weight"


def assert_same_outputs(theirs, ours, classes):
    x_t, t, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 3, 7]), torch.tensor([0, 4, 9]) if classes else None
    with torch.no_grad():
        torch.testing.assert_close(theirs(x_t, t, class_labels=y).sample, ours(x_t, t, y), rtol=1e-4, atol=1e-5)
