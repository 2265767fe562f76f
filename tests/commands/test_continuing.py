"""A training that goes on from the last checkpoint of another one: the same bits as one training, or another model, or refused."""

import shutil
import signal
import time

import pytest
import torch
from omegaconf import OmegaConf

from diffusion_lab.store import ModelDirectory
from diffusion_lab.training.checkpoints import load_state

from .cluster import models
from .conftest import SMALL_MODELS, STRIDED, TINY
from .test_ranks import trained
from .test_resume import EVERYTHING, Training, same

CONSTANT = ["lr_scheduler=constant", "lr_scheduler.warmup_steps=3"]
SHORT = [*[option for option in TINY if not option.startswith("evaluation")], *STRIDED, *CONSTANT, "score=false"]


def steps(number):
    return f"trainer.max_steps={number}"


def finished(outputs, number):
    """The model trained for so many steps."""
    (model,) = [each for each in models(outputs) if each.finished and each.read_training()["steps"] == number]
    return model


def assert_same_end(one, other):
    averages = {name for name in one.weight_names if name.startswith("ema_")}
    assert averages == {name for name in other.weight_names if name.startswith("ema_")}
    for name in ("raw", *averages, "power_1.0"):
        assert one.weights(name).read_bytes() == other.weights(name).read_bytes(), name
    states = [load_state(model.resume) for model in (one, other)]
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "averages"):
        assert same(states[0][part], states[1][part]), part


def going_on(folder, model, number):
    return [f"continue_from={model.path.relative_to(folder)}", steps(number), "score=false"]


@pytest.mark.parametrize(
    "options", [[], ["trainer.accumulate_grad_batches=2"], ["optimizer=adamw", "ema.decays=[0.9]"]], ids=str
)
def test_two_stages_are_one_training(lab, options):
    """With a constant rate, to the bit; weights kept at the same steps are kept again, and the record has both stages."""
    outputs = lab.folder / "outputs"
    lab.done("train", *SHORT, *options, steps(8))
    whole = ModelDirectory(shutil.move(finished(lab.folder, 8).path, lab.folder / "whole"))
    lab.done("train", *SHORT, *options, steps(4), "snapshots.at=[0.5]", "snapshots.averages=4")
    first = finished(lab.folder, 4)
    out = lab.done(
        "train", *going_on(lab.folder, first, 8), "snapshots.at=[0.1,0.25]", "snapshots.averages=4", *options[:1]
    )
    assert f"going on from step 4 of outputs/models/{first.path.name}; there are no weights at_0.1," in out
    second = finished(lab.folder, 8)
    assert_same_end(whole, second)
    kept = {file.name for file in second.path.glob("*.safetensors")}
    assert {"at_0.25.safetensors", *(f"power_{share}.safetensors" for share in (0.25, 0.5, 0.75, 1.0))} <= kept
    stages = second.read_training()["stages"]
    assert [(stage["model"], stage["steps"]) for stage in stages] == [(first.path.name, 4), (second.path.name, 8)]
    assert second.read_choices() | {"optimizer": None} == first.read_choices() | {"optimizer": None}
    assert "already trained" in lab.done("train", *going_on(lab.folder, first, 8))
    assert (outputs / "models" / second.path.name / "metrics.csv").read_text().count("\n") == 9


@pytest.mark.parametrize("kind", ["gan", "vae", "flow", "diffusion_points"])
def test_every_family_goes_on(lab, kind):
    command = ["train", *SMALL_MODELS[kind], *CONSTANT, "trainer=cpu", "data.batch_size=8", "val.every_n_steps=0"]
    lab.done(*command, steps(4), "score=false")
    whole = ModelDirectory(shutil.move(finished(lab.folder, 4).path, lab.folder / "whole"))
    lab.done(*command, steps(2), "score=false")
    lab.done("train", *going_on(lab.folder, finished(lab.folder, 2), 4))
    assert_same_end(whole, finished(lab.folder, 4))


@pytest.mark.thorough
@pytest.mark.parametrize("killed", ["first", "second"])
def test_killed_in_a_stage(tmp_path, zygote, killed):
    """Everything random at once; kill -9 in either stage changes no bit."""
    options = [*EVERYTHING, *CONSTANT]
    whole = Training(zygote.start, tmp_path / "whole", *options, steps(16))
    whole.finish()
    first = Training(zygote.start, tmp_path / "two", *options, steps(8))
    if killed == "first":
        assert first.kill_at(4)
    first.finish()
    command = ["train", *going_on(first.folder, first.directory, 16)]
    if killed == "second":
        process = zygote.start(first.folder, *command)
        while len(models(first.folder)) == 1 or not models_in_progress(first.folder):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = zygote.start(first.folder, *command)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_same_end(whole.directory, finished(first.folder, 16))


def models_in_progress(folder):
    return [model for model in models(folder) if not model.finished and model.resume.is_file()]


@pytest.mark.thorough
def test_two_processes_go_on(zygote, tmp_path):
    options = [*EVERYTHING, *CONSTANT]
    first, _ = trained(zygote, tmp_path / "two", *options, steps(6), ranks=2)
    command = [f"continue_from={first.path}", steps(12), "score=false"]  # each process has a folder of its own
    trained(zygote, tmp_path / "two", *command, ranks=2)
    whole, _ = trained(zygote, tmp_path / "whole", *options, steps(12), ranks=2)
    assert_same_end(whole, finished(tmp_path / "two", 12))


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A folder with a model of four steps, trained once."""
    return tmp_path_factory.mktemp("parent")


@pytest.fixture
def begun(lab, parent):
    """A finished model here."""
    if not (parent / "outputs").is_dir():
        lab.done("train", *SHORT, steps(4))
        shutil.copytree(lab.folder / "outputs", parent / "outputs")
    else:
        shutil.copytree(parent / "outputs", lab.folder / "outputs")
    return finished(lab.folder, 4)


MAY_CHANGE = [
    ["lr_scheduler=cosine"],
    ["optimizer.lr=0.001"],
    ["data.batch_size=4"],
    ["ema.decays=[0.5,0.999]"],
    ["data.flip=true"],
    ["train_images=100"],
    ["variant=mine"],
    ["trainer.max_steps=null", "trainer.max_time=00:00:00:02"],
]
MUST_NOT = {
    "network.base_channels=16": "network.base_channels",
    "schedule=linear": "schedule._target_",
    "seed=7": "seed",
    "optimizer=adamw": "optimizer._target_",
    "condition=classes": "condition",
    "data=two_moons": "network",
    "init_from=outputs": "init_from",
    "lora.rank=2": "lora",
}


@pytest.mark.parametrize("options", MAY_CHANGE, ids=str)
def test_another_option_is_another_model(lab, begun, options):
    lab.done("train", *going_on(lab.folder, begun, 6), *options)
    (other,) = [model for model in models(lab.folder) if model.path.name != begun.path.name]
    plain = lab.done("train", *going_on(lab.folder, begun, 6))
    assert "already trained" not in plain
    assert len(models(lab.folder)) == 3
    assert other.read_training()["stages"][0]["model"] == begun.path.name


@pytest.mark.parametrize("option", MUST_NOT)
def test_what_must_not_change_is_refused(lab, begun, option):
    before = sorted(path.name for path in begun.path.parent.iterdir())
    lab.refused("train", *going_on(lab.folder, begun, 6), option, said=MUST_NOT[option])
    assert sorted(path.name for path in begun.path.parent.iterdir()) == before


@pytest.mark.parametrize("group", ["trainer", "ema", "callbacks", "optimizer"])
def test_no_code_of_a_strangers_config_runs(lab, begun, group):
    (lab.folder / "theirs.py").write_text("open('ran', 'w').close()\nclass It:\n    def __init__(self, **_): pass\n")
    config = OmegaConf.load(begun.config)
    if group == "callbacks":
        config.callbacks.theirs = {"_target_": "theirs.It"}
    else:
        config[group]["_target_"] = "theirs.It"
    OmegaConf.save(config, begun.config)
    code, _, err = lab("train", *going_on(lab.folder, begun, 6))
    assert (code, err.count("\n")) == (1, 1)
    assert group in err
    assert not (lab.folder / "ran").exists()
    assert len(models(lab.folder)) == 1


def test_no_path_or_download_of_a_strangers_config_is_used(lab, begun):
    config = OmegaConf.load(begun.config)
    inception = {"_target_": "diffusion_lab.metrics.features.inception.InceptionFeatures"}
    config.features = {"inception": {**inception, "path": "theirs.pth", "download": True}}
    OmegaConf.save(config, begun.config)
    composed = OmegaConf.create(lab.done("train", *going_on(lab.folder, begun, 6), "--cfg", "job"))
    assert composed.features.inception == {**inception, "path": None, "download": False}
    assert composed.network == config.network


def test_a_longer_training_names_the_shorter_one(lab, begun):
    """It is trained from its start, whatever is in outputs."""
    out = " ".join(lab.done("train", *SHORT, steps(5)).split())
    assert f"type continue_from=outputs/models/{begun.path.name} trainer.max_steps=5" in out
    assert "going on" not in out
    assert "continue_from" not in lab.done("train", *SHORT, steps(3))


def test_trained_again_it_goes_on_again(lab, begun):
    """Also where the first stage was made by other code."""
    record = begun.read_training()
    state = torch.load(begun.resume, weights_only=True)
    state["made_by"] = {"code": {**record["code"], "models/diffusion.py": "other"}}
    torch.save(state, begun.resume)
    command = ["train", *going_on(lab.folder, begun, 6)]
    lab.done(*command)
    first = finished(lab.folder, 6).weights("raw").read_bytes()
    assert "going on from step 4" in lab.done(*command, "retrain=true")
    assert finished(lab.folder, 6).weights("raw").read_bytes() == first


def test_budgets_are_totals(lab, begun):
    lab.refused("train", f"continue_from={begun.path}", said="trainer.max_steps=4")
    lab.refused("train", *going_on(lab.folder, begun, 3), said="trainer.max_steps=3")
    lab.refused("train", f"continue_from={begun.path}", "trainer.max_time=00:00:00:00", said="trainer.max_time")


def test_a_missing_or_damaged_checkpoint_is_named(lab, begun):
    command = ["train", *going_on(lab.folder, begun, 6)]
    lab.done("prune")
    assert begun.resume.is_file(), "prune keeps what a continuation needs"
    content = begun.resume.read_bytes()
    begun.resume.write_bytes(content[: len(content) // 2])
    lab.refused(*command, said="resume.ckpt")
    begun.resume.write_bytes(content)
    lab.done("prune", "what=resume")
    lab.refused(*command, said="resume.ckpt is missing")
    assert len(models(lab.folder)) == 1


def test_other_groups_of_parameters_are_refused(lab, begun):
    """As of a version that divides parameters differently among the groups of an optimizer."""
    code, _, err = lab("train", *going_on(lab.folder, begun, 6), "optimizer.adamw_modules=[]")
    assert (code, err.count("\n")) == (1, 1)
    assert "groups of parameters" in err
    assert not any(model.finished for model in models(lab.folder) if model.path.name != begun.path.name)
