"""What a run is made of, seen from its commands: all that ran counts, the user's own code too."""

import json
import shutil
import sys
from pathlib import Path

import lightning
import pytest
from omegaconf import OmegaConf

import diffusion_lab
from diffusion_lab.config import identity
from diffusion_lab.store.fingerprints import TRAINING, named_in, training_part

from ..families.test_families import FAMILIES
from .cluster import models
from .conftest import STRIDED, TINY, forget_users_code
from .test_families import tiny

PACKAGE = Path(diffusion_lab.__file__).parent


@pytest.mark.parametrize("family", [*FAMILIES, "noisy_classifier"])
def test_every_module_that_runs_while_training_counts(lab, monkeypatch, family):
    options = tiny(family, "condition=classes") if family in FAMILIES else [*TINY, f"model={family}"]
    files = set()
    fit = lightning.Trainer.fit

    def watched(*arguments, **options):
        sys.setprofile(lambda frame, *_: frame.f_code.co_name != "<module>" and files.add(frame.f_code.co_filename))
        try:
            return fit(*arguments, **options)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(lightning.Trainer, "fit", watched)
    lab.done("train", *options, "score=false")
    (model,) = (model for model in models(lab.folder) if f"-{family}-" in model.path.name)
    names = named_in(training_part(OmegaConf.to_container(OmegaConf.load(model.config))))
    counted = {module.path for module in identity.CODE.reached(names, TRAINING).values()}
    ran = {path for path in map(Path, files) for place in TRAINING.places if path.is_relative_to(PACKAGE / place)}
    assert len(ran) > 10
    assert ran - counted == set()


MINE = """\
from diffusion_lab.diffusion import CosineSchedule

from steepness import steeper


class MySchedule(CosineSchedule):
    def alpha_bar(self):
        return steeper(super().alpha_bar())
"""
STEEPNESS = """\
from pathlib import Path


def steeper(alpha_bar):
    return alpha_bar ** float(Path(__file__).with_name("power.txt").read_text())
"""
METRIC = """\
from diffusion_lab.metrics.metric import Metric


class Mine(Metric):
    def measures(self, namings):
        return []

    def score(self, subject, scores):
        pass
"""


def edit(file, old, new):
    source = file.read_text()
    assert old in source
    file.write_text(source.replace(old, new))
    forget_users_code()  # the next command is another process


def test_edits_of_ones_own_code_retrain_rescore_and_prune(lab):
    for name, content in (("mine.py", MINE), ("steepness.py", STEEPNESS), ("metric.py", METRIC)):
        (lab.folder / name).write_text(content)
    (lab.folder / "power.txt").write_text("1.5")
    outputs = lab.folder / "outputs"

    def train():
        mine = ["schedule._target_=mine.MySchedule", "+metrics.mine._target_=metric.Mine"]
        lab.done("train", *TINY, *STRIDED, *mine)
        return tuple({path.name for path in (outputs / kind).iterdir()} for kind in ("models", "runs"))

    def pruned():
        out = lab.done("prune", "what=[models]")
        return {name for name in models_before if name in out}

    models_before, runs = train()
    edit(lab.folder / "mine.py", "class MySchedule", "# a comment\nclass MySchedule")
    assert train() == (models_before, runs)
    edit(lab.folder / "metric.py", "return []", "return ()")
    models_now, rescored = train()
    assert (models_now, len(rescored)) == (models_before, 2)
    assert pruned() == set()
    edit(lab.folder / "steepness.py", "return alpha_bar", "return 1.0 * alpha_bar")
    assert len(train()[0]) == 2
    edit(lab.folder / "power.txt", "1.5", "1.4")
    assert len(train()[0]) == 3
    assert pruned() == models_before


@pytest.mark.thorough
def test_the_guiding_classifier_counts_by_what_it_is(tmp_path, trained_model):
    cfg = OmegaConf.load(trained_model("diffusion_conditional") / "config.yaml")
    classifier = trained_model("noisy_classifier")

    def names(classifier):
        target = "diffusion_lab.config.guiding_models.classifier_guidance"
        cfg.guidance = {"_target_": target, "classifier": str(classifier)}
        scoring = identity.scoring_fingerprint("f" * 64, cfg)
        return scoring, identity.sampling_identity("f" * 64, cfg, {"variance"}, "pixels")

    before = names(classifier)
    moved = Path(shutil.copytree(classifier, tmp_path / "elsewhere"))
    assert names(moved) == before, "the same classifier wherever it lies"
    training = json.loads((moved / "training.json").read_text())
    (moved / "training.json").write_text(json.dumps(training | {"fingerprint": "f" * 64}))
    retrained = names(moved)
    (average,) = moved.glob("ema_*.safetensors")
    shutil.copy(moved / "raw.safetensors", average)
    assert len({*before, *retrained, *names(moved)}) == 6, "another training and other weights are another classifier"
