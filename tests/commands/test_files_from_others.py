"""A model directory that is broken or means harm: refused in one sentence, and nothing of it runs.

`pytest -s tests/commands/test_files_from_others.py` prints what was tried and what was said.
"""

import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from diffusion_lab.runs import newest_model

from .conftest import STRIDED, TINY


class Harm:
    """A pickle that makes a file where it is read."""

    def __reduce__(self):
        return (subprocess.call, (["touch", "harm"],))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished model, trained once for all tests of this file."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from diffusion_lab.commands import app

        assert app.run("train", [*TINY, *STRIDED, "score=false"]) == 0
    return newest_model(folder / "outputs").path


@pytest.fixture
def stranger(lab, trained):
    """A copy of it, to be tampered with."""
    copy = lab.folder / "stranger"
    shutil.copytree(trained, copy)
    return copy


def edit(folder: Path, key: str, value: object) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, folder / "config.yaml")


def target(name: str, **arguments: object):
    return lambda folder: edit(folder, "sampler", {"_target_": name, **arguments})


def weights(content: bytes):
    return lambda folder: (folder / "ema_0.999.safetensors").write_bytes(content)


def truncated(folder: Path) -> None:
    file = folder / "ema_0.999.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def foreign(folder: Path) -> None:
    save_file({"something.else": torch.zeros(3)}, folder / "raw.safetensors")


def misshapen(folder: Path) -> None:
    tensors = load_file(folder / "raw.safetensors")
    save_file({name: tensor[..., :1].contiguous() for name, tensor in tensors.items()}, folder / "raw.safetensors")


CASES = {
    "a target of the system": (target("os.system", command="touch harm"), "sampler._target_=os.system is not built"),
    "a target that a package leads to": (
        target("lightning.pytorch.trainer.trainer.os.system", command="touch harm"),
        "sampler._target_=lightning.pytorch.trainer.trainer.os.system is not built",
    ),
    "a target that unpickles": (target("torch.load", f="x"), "sampler._target_=torch.load is not built"),
    "a target of the hub": (target("torch.nn.functional.torch.hub.load"), "is not built"),
    "a function of ours": (target("diffusion_lab.files.write_whole"), "is not built"),
    "a target made by interpolation": (target("${oc.env:HOME}"), "is not built"),
    "a module in the working folder": (target("harmful.Sampler"), "DIFFUSION_LAB_TARGETS=harmful in the environment"),
    "a target below a list": (
        lambda folder: edit(folder, "data.extra", [{"_target_": "os.system", "command": "touch harm"}]),
        "data.extra.0._target_=os.system is not built",
    ),
    "a YAML tag that calls": (
        lambda folder: (folder / "config.yaml").write_text(
            "model: !!python/object/apply:os.system ['touch harm']\ndata: 1"
        ),
        "config.yaml is not a config",
    ),
    "a config of zero bytes": (lambda f: (f / "config.yaml").write_bytes(b""), "is not the config of a model"),
    "a config of noise": (lambda f: (f / "config.yaml").write_bytes(bytes(range(255))), "config.yaml is not a config"),
    "a config of something else": (lambda f: (f / "config.yaml").write_text("a: 1"), "is not the config of a model"),
    "weights that are a pickle": (weights(pickle.dumps(Harm())), "does not hold the weights of this model"),
    "weights of zero bytes": (weights(b""), "does not hold the weights of this model"),
    "weights of noise": (weights(bytes(range(256)) * 9), "does not hold the weights of this model"),
    "truncated weights": (truncated, "does not hold the weights of this model"),
    "weights of another model": (foreign, "does not hold the weights of this model"),
    "weights of other shapes": (misshapen, "does not hold the weights of this model"),
    "no weights": (lambda f: [w.unlink() for w in f.glob("*.safetensors")], "holds no weights"),
    "training.json of noise": (lambda f: (f / "training.json").write_bytes(b"\xff{"), "training.json is not JSON"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_refused_in_one_sentence(lab, stranger, case, command):
    tamper, expected = CASES[case]
    (lab.folder / "harmful.py").write_text("open('harm', 'w').close()\n")
    tamper(stranger)
    code, out, err = lab(command, "model_dir=stranger")
    print(f"{case:36} {command:9} -> {err.strip()}")
    assert code == 1
    assert expected in err
    assert len(err.strip().splitlines()) == 1
    assert not (lab.folder / "harm").exists()
    assert out == ""
    assert not (lab.folder / "samples").exists()


def test_addresses_are_refused(lab):
    code, _, err = lab("evaluate", "model_dir=https://somewhere.org/model")
    assert code == 1
    assert "models are not loaded from addresses" in err


def test_the_environment_allows_more(lab, stranger, monkeypatch):
    (lab.folder / "mine.py").write_text(
        "from diffusion_lab.diffusion import AncestralSampler\nclass Mine(AncestralSampler): ...\n"
    )
    monkeypatch.syspath_prepend(lab.folder)
    edit(stranger, "sampler._target_", "mine.Mine")
    monkeypatch.setenv("DIFFUSION_LAB_TARGETS", "other, mine")
    code, _, err = lab("sample", "model_dir=stranger", "num_images=2")
    assert code == 0, err


@pytest.mark.parametrize("harm", ["pickle", "truncated", "zero bytes", "of another training"])
def test_a_bad_checkpoint_is_named_and_training_begins_anew(lab, harm):
    """It is refused and nothing runs; there is no older one here to fall back to."""
    options = [*TINY, *STRIDED, "score=false", "callbacks.checkpoint.every_n_steps=1"]
    lab("train", *options)
    directory = newest_model(lab.folder / "outputs")
    before = load_file(directory.weights("raw"))
    directory.training.unlink()  # as if it had been killed
    content = directory.resume.read_bytes()
    match harm:
        case "pickle":
            torch.save({"fingerprint": Harm()}, directory.resume)
        case "truncated":
            directory.resume.write_bytes(content[:-200])
        case "zero bytes":
            directory.resume.write_bytes(b"")
        case _:
            torch.save({"fingerprint": "another"}, directory.resume)
    code, out, err = lab("train", *options)
    print(f"resume.ckpt: {harm:20} -> {next((line for line in out.splitlines() if 'passed over' in line), '')}")
    assert code == 0, err
    assert "resume.ckpt" in out
    assert "it is passed over" in out
    assert not (lab.folder / "harm").exists()
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(directory.weights("raw")).items())


def test_a_config_that_was_changed_under_a_training_is_refused_with_the_keys(lab):
    options = [*TINY, *STRIDED, "score=false"]
    lab("train", *options)
    directory = newest_model(lab.folder / "outputs")
    directory.training.unlink()
    edit(directory.path, "optimizer.lr", 0.5)
    code, _, err = lab("train", *options)
    assert code == 1
    assert "was changed since this training began (optimizer.lr); retrain=true trains anew" in err
