"""Folders that earlier versions wrote stay readable through 0.x; docs/extend/maintaining.md says how a version's are made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from diffusion_lab import load

from .cluster import STOP
from .conftest import SMALL_MODELS

RELEASED = Path(__file__).parents[1] / "released"
SCORED = [
    "features=pixels",
    "evaluation.num_samples=16",
    "sampler=strided",
    "sampler.spacing.num_steps=3",
    "rescore=true",
]
# The command of docs/extend/maintaining.md.
TRAINED = [
    *("trainer=cpu", "trainer.max_steps=20", "network.base_channels=8", "network.channel_multipliers=[1]"),
    *("network.attention_resolutions=[]", "network.head_channels=8", "schedule.num_timesteps=24"),
    *("sampler=strided", "sampler.spacing.num_steps=3", "objective=hybrid", "score=false"),
]
METRICS = ["metrics=[frechet_distance,bits_per_dim]", "metrics.bits_per_dim.num_images=4"]


VERSIONS = sorted(path.name for path in RELEASED.iterdir())


@pytest.mark.parametrize("version", VERSIONS)
def test_names_of_the_api_stay(version):
    for name in (RELEASED / version / "names.txt").read_text().split():
        assert get_object(name) is not None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_released_folder_is_read(lab, version):
    """A model is drawn from, loaded and scored, with the numbers that its version found; a sweep is reported."""
    outputs = lab.folder / "outputs"
    shutil.copytree(RELEASED / version, outputs)
    then = [json.loads(path.read_text())["values"] for path in outputs.glob("runs/*/metrics.json")]
    lab.done("report", "sweep=first")
    cells = (outputs / "sweeps" / "first" / "report" / "cells.csv").read_text().splitlines()
    assert len(cells) == 1 + len(then) == 3

    lab.done("sample", "num_images=3", "format=npz")
    with np.load(lab.folder / "samples" / "samples.npz") as archive:
        assert archive["arr_0"].shape == (3, 8, 8, 1)
    assert load(outputs=outputs).sample(3).shape == (3, 1, 8, 8)

    assert "metrics.csv" not in lab.done("evaluate", *SCORED, *METRICS)  # the folder has none
    newest = max(outputs.glob("runs/*/metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    now = json.loads(newest.read_text())["values"]
    (same,) = [values for values in then if values["bits_per_dim"] == pytest.approx(now["bits_per_dim"], 1e-3)]
    assert now["fd_pixels"] == pytest.approx(same["fd_pixels"], 1e-2)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_released_model_is_found_by_its_command(lab, version):
    outputs = lab.folder / "outputs"
    shutil.copytree(RELEASED / version, outputs)
    (trained,) = (outputs / "models").iterdir()
    assert "already trained" in lab.done("train", *TRAINED)
    assert "already trained" not in lab.done("train", *TRAINED, "seed=2")
    assert trained in (outputs / "models").iterdir()
    assert len([*(outputs / "models").glob("[!.]*")]) == 2


def test_an_unfinished_training_of_a_release_is_continued(lab):
    """0.1.0 named folders in another way, and its monitor kept its sums in another form."""
    (lab.folder / "stops.py").write_text(STOP)
    (lab.folder / ".stop").write_text("2")
    command = ["train", *TRAINED, "trainer.max_steps=4", "trainer.precision=auto"]
    assert lab(*command, "+callbacks.stop._target_=stops.StopOnce")[0] != 0
    (begun,) = (lab.folder / "outputs" / "models").glob("[!.]*")
    config = OmegaConf.load(begun / "config.yaml")
    del config.variant, config.callbacks.stop
    config.branch_from, config.trainer.precision = None, "32-true"
    OmegaConf.save(config, begun / "config.yaml")
    state = torch.load(begun / "resume.ckpt", weights_only=True)
    (monitor,) = [name for name in state["callbacks"] if name.startswith("Monitor")]
    state["callbacks"][monitor] = {"seconds": 1.0, "sums": {}, "last": state["callbacks"][monitor]["last"]}
    torch.save(state, begun / "resume.ckpt")
    old = begun.rename(begun.with_name("digits-diffusion-0123456789ab"))
    assert f"resuming from outputs/models/{old.name}/resume.ckpt at step 2" in " ".join(lab.done(*command).split())
    assert [path.name for path in old.parent.glob("[!.]*")] == [old.name]


def test_an_earlier_default_is_named(lab):
    """The precision of GANs was auto in 0.1. With the option of the sentence, the model is found, whatever its folder's name."""
    command = [
        "train",
        *SMALL_MODELS["gan"],
        "trainer=cpu",
        "trainer.max_steps=2",
        "val.every_n_steps=0",
        "score=false",
    ]
    lab.done(*command, "trainer.precision=auto")
    (model,) = (lab.folder / "outputs" / "models").glob("[!.]*")
    old = model.rename(model.with_name("digits-gan-0123456789ab"))
    assert old.name not in lab.done(*command, "trainer.precision=32-true"), "typed"
    shutil.rmtree(next(path for path in old.parent.glob("[!.]*") if path != old))
    out = " ".join(lab.done(*command).split())
    assert f"outputs/models/{old.name} differs from it in earlier defaults only" in out
    assert 'type trainer.precision="auto"' in out
    assert "already trained: outputs/models/digits-gan-0123456789ab" in lab.done(*command, "trainer.precision=auto")
