"""What is a user's own: choices in several folders, passwords in the environment, tags."""

import json
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusion_lab.store import newest_model

from ..test_contributing import section
from .conftest import STRIDED, TINY, files

PASSWORD = "s3cret"


def test_choices_here_and_on_the_users_searchpath_are_found(lab):
    for folder, name in (("conf", "mine"), ("shared", "ours")):
        file = lab.folder / folder / "optimizer" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("# Slow.\ndefaults: [adamw]\nlr: 1e-7\n")
    for name in ("mine", "ours"):
        out = lab.done("train", f"hydra.searchpath=[file://{lab.folder}/shared]", f"optimizer={name}", "--cfg", "job")
        assert OmegaConf.create(out).optimizer.lr == 1e-7
    assert OmegaConf.create(lab.done("train", "optimizer=mine", "--cfg", "job")).optimizer.lr == 1e-7


def test_tags_are_recorded_and_no_password_is(lab, monkeypatch):
    """Other tags are the same model and the same score."""
    monkeypatch.setenv("LAB_PASSWORD", PASSWORD)
    (lab.folder / "mine.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Locked(CSVLogger):\n"
        "    def __init__(self, save_dir, address, copy):\n"
        f"        assert address == copy == 'https://me:{PASSWORD}@host'\n"
        "        super().__init__(save_dir, 'locked')\n"
    )
    options = ["+logger.own._target_=mine.Locked", "+logger.own.address='https://me:${oc.env:LAB_PASSWORD}@host'"]
    options += ["+logger.own.copy='${logger.own.address}'", "logger=[csv,tensorboard]"]
    code, out, err = lab("train", *TINY, *STRIDED, *options, "tags=[baseline,for the paper]")
    assert code == 0, err
    model = newest_model(lab.folder / "outputs")
    assert OmegaConf.load(model.config).logger.own.address == "https://me:{oc.env:LAB_PASSWORD}@host"
    assert PASSWORD not in out + err
    for name in files(lab.folder / "outputs"):
        assert PASSWORD.encode() not in (lab.folder / "outputs" / name).read_bytes(), name

    (run,) = (lab.folder / "outputs" / "runs").glob("[!.]*/")
    for file in (model.config, run / "config.yaml"):
        assert OmegaConf.load(file).tags == ["baseline", "for the paper"]
    assert any("baseline" in file.read_text() for file in model.logs.rglob("hparams.yaml"))
    assert "already scored" in lab.done("train", *TINY, *STRIDED, "tags=[other]")


@pytest.mark.thorough
def test_the_page_on_your_own_parts_works_as_written(lab, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "own.md"
    own = section(page.read_text())
    own.write(lab.folder)
    for line in own.commands:
        program, command, *options = shlex.split(line)
        assert program == "diffusion-lab"
        lab.done(command, *options)
    runs = [json.loads(file.read_text())["values"] for file in lab.folder.glob("outputs/debug/runs/*/metrics.json")]
    assert -1 < next(values["brightness"] for values in runs if "brightness" in values) < 1
    assert next(values["my_kid"] for values in runs if "my_kid" in values) > 0
    model = f"model_dir={newest_model(lab.folder / 'outputs' / 'debug').path}"
    assert "DIFFUSION_LAB_TARGETS=mine" in lab("sample", model, "num_images=1")[2]
    monkeypatch.setenv("DIFFUSION_LAB_TARGETS", "mine")
    lab.done("sample", model, "num_images=1", "sampler.spacing.num_steps=2")
