"""What is a user's own: conf/local/ of the working directory, the variables of .env, tags."""

import json
import os
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusion_lab.store import newest_model

from ..test_contributing import section
from .conftest import STRIDED, TINY, files

PASSWORD = "s3cret-of-dotenv"


@pytest.fixture
def local(lab):
    """local("trainer: {log_every_n_steps: 3}") is what the working directory's conf/local/default.yaml says."""
    file = lab.folder / "conf" / "local" / "default.yaml"
    file.parent.mkdir(parents=True)
    return file.write_text


def test_local_settings_hold_for_every_command(lab, local):
    """An experiment and the command line win."""
    local("outputs: mine\nseed: 7\nschedule:\n  log_snr_max: 3.0\n")
    lab.done("train", *TINY, *STRIDED, "score=false")
    for command in ("evaluate", "status", "report"):
        assert OmegaConf.create(lab.done(command, "--cfg", "job")).outputs == "mine"
    cfg = OmegaConf.create(lab.done("train", "experiment=ddpm_digits", "--cfg", "job"))
    assert (cfg.outputs, cfg.seed, cfg.schedule.log_snr_max) == ("mine", 7, None)
    assert OmegaConf.create(lab.done("train", "seed=8", "--cfg", "job")).seed == 8


def test_local_settings_may_choose_groups_of_the_lab(lab, local):
    local("defaults:\n  - override /optimizer: adamw\noptimizer: {lr: 1e-7}\n")
    out = lab.done("train", "--cfg", "job")
    assert OmegaConf.create(out).optimizer.lr == 1e-7
    assert "adamw" in OmegaConf.create(out).optimizer._target_.lower()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("defaults:\n  - override /optimizer: muon\n", "local/default.yaml overrides the group optimizer, which "),
        ("outputs: [a\n", "conf/local/default.yaml is not a config"),
        ("defaults: 5\n", "this holds 5"),
        ("outputs: 7\n", "outputs=7: this option must be a string"),
        ("conditional: true\n", "conditional was replaced: use condition=classes"),
    ],
)
def test_what_is_wrong_with_local_settings_is_one_sentence(lab, local, settings, said):
    local(settings)
    lab.refused("status", said=said)


@pytest.mark.parametrize("content", ["labels: clusters\n", "defaults:\n  - override /labels: clusters\n"])
def test_an_option_that_was_replaced_is_named(lab, content):
    file = lab.folder / "conf" / "experiment" / "old.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\n{content}")
    lab.refused("train", "experiment=old", said="labels was replaced: use condition=clusters")


def test_choices_here_and_on_the_users_searchpath_are_found(lab):
    for folder, name in (("conf", "mine"), ("shared", "ours")):
        file = lab.folder / folder / "optimizer" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("# Slow.\ndefaults: [adamw]\nlr: 1e-7\n")
    for name in ("mine", "ours"):
        out = lab.done("train", f"hydra.searchpath=[file://{lab.folder}/shared]", f"optimizer={name}", "--cfg", "job")
        assert OmegaConf.create(out).optimizer.lr == 1e-7
    assert OmegaConf.create(lab.done("train", "optimizer=mine", "--cfg", "job")).optimizer.lr == 1e-7


def test_a_password_of_dotenv_reaches_its_logger(lab, monkeypatch):
    """It is in no file."""
    for name in ("LAB_PASSWORD", "LAB_SET"):
        monkeypatch.setenv(name, "before")
    monkeypatch.delenv("LAB_PASSWORD")
    (lab.folder / ".env").write_text(f"LAB_PASSWORD={PASSWORD}\nLAB_SET=after\n")
    (lab.folder / "mine.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Locked(CSVLogger):\n"
        "    def __init__(self, save_dir, address, copy):\n"
        f"        assert address == copy == 'https://me:{PASSWORD}@host'\n"
        "        super().__init__(save_dir, 'locked')\n"
    )
    options = ["+logger.own._target_=mine.Locked", "+logger.own.address='https://me:${oc.env:LAB_PASSWORD}@host'"]
    options += ["+logger.own.copy='${logger.own.address}'", "logger=[csv,tensorboard]"]
    code, out, err = lab("train", *TINY, *STRIDED, *options)
    assert code == 0, err
    assert os.environ["LAB_SET"] == "before"
    model = newest_model(lab.folder / "outputs")
    assert OmegaConf.load(model.config).logger.own.address == "https://me:{oc.env:LAB_PASSWORD}@host"
    assert PASSWORD not in out + err
    for name in files(lab.folder / "outputs"):
        assert PASSWORD.encode() not in (lab.folder / "outputs" / name).read_bytes(), name


def test_tags_are_recorded_and_change_nothing(lab):
    lab.given("train", *TINY, *STRIDED, "logger=csv", "tags=[baseline,for the paper]")
    model = newest_model(lab.folder / "outputs")
    (run,) = (lab.folder / "outputs" / "runs").glob("[!.]*/")
    for file in (model.config, run / "config.yaml"):
        assert OmegaConf.load(file).tags == ["baseline", "for the paper"]
    assert "baseline" in next(model.logs.rglob("hparams.yaml")).read_text()
    assert "already scored" in lab.done("train", *TINY, *STRIDED, "tags=[other]")


@pytest.mark.thorough
def test_the_page_on_your_own_parts_works_as_written(lab, monkeypatch):
    monkeypatch.setenv("LAB_GROUP", "x")
    monkeypatch.delenv("LAB_GROUP")
    page = Path(__file__).parents[2] / "docs" / "own.md"
    own = section(page.read_text())
    own.write(lab.folder)
    for line in own.commands:
        program, command, *options = shlex.split(line)
        assert program == "diffusion-lab"
        lab.done(command, *options)
    (first,) = lab.folder.glob("outputs/debug/runs/*/metrics.json")
    assert -1 < json.loads(first.read_text())["values"]["brightness"] < 1
    assert OmegaConf.load(newest_model(lab.folder / "results").config).tags == ["vision"]
    model = f"model_dir={newest_model(lab.folder / 'outputs' / 'debug').path}"
    assert "DIFFUSION_LAB_TARGETS=mine" in lab("sample", model, "num_images=1")[2]
    monkeypatch.setenv("DIFFUSION_LAB_TARGETS", "mine")
    lab.done("sample", model, "num_images=1", "sampler.spacing.num_steps=2")
