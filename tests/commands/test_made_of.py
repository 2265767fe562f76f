"""What a run is made of, seen from its commands: all that ran counts, the user's own code too."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import lightning
import pytest
from omegaconf import OmegaConf

import diffusion_lab
from diffusion_lab.definitions import Code, Node, _Walk
from diffusion_lab.fingerprints import _TRAINING, TRAINING_ROOTS, named_in, training_part
from diffusion_lab.from_config import build
from diffusion_lab.runs import newest_model

from ..models.test_families import FAMILIES
from .cluster import models
from .conftest import STRIDED, TINY
from .test_families import tiny

PACKAGE = Path(diffusion_lab.__file__).parent
THEORY = ("diffusion", "baselines", "networks", "data", "models")


def what_ran(frames):
    """(module, qualified name) of what ran in the packages that training is made of."""
    for filename, qualname in frames:
        path = Path(filename)
        if path.is_relative_to(PACKAGE) and path.relative_to(PACKAGE).parts[0] in THEORY:
            name = ".".join([PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts])
            yield name.removesuffix(".__init__"), qualname.partition(".<")[0]


@pytest.mark.parametrize("family", [*FAMILIES, "noisy_classifier", "variance_head"])
def test_all_that_runs_while_training_counts(lab, monkeypatch, family):
    options = tiny(family, "conditional=true") if family in FAMILIES else [*TINY, f"model={family}"]
    if family == "variance_head":
        lab.given("train", *TINY, *STRIDED)
        options = [option for option in options if not option.startswith("schedule.")]
        options.append(f"init_from={newest_model(lab.folder / 'outputs').path}")
    frames = set()
    fit = lightning.Trainer.fit

    def watched(*arguments, **options):
        sys.setprofile(lambda frame, event, _: frames.add((frame.f_code.co_filename, frame.f_code.co_qualname)))
        try:
            return fit(*arguments, **options)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(lightning.Trainer, "fit", watched)
    code, _, err = lab("train", *options, "score=false")
    assert code == 0, err
    (model,) = (model for model in models(lab.folder) if f"-{family}-" in model.path.name)
    config = training_part(OmegaConf.to_container(OmegaConf.load(model.config)))
    reached = build.CODE.reached((*TRAINING_ROOTS, *named_in(config)), _TRAINING)
    walk = _Walk(build.CODE, _TRAINING)
    ran = set(what_ran(frames))
    assert len(ran) > 30
    for module, name in ran:
        top, _, rest = name.partition(".")
        if top != "<module>":
            assert reached.get(Node(module, top)), f"{module}.{name} ran, and an edit of it would go unnoticed"
        for statement in build.CODE.module(module).definitions.get(top, []):
            if isinstance(statement, ast.ClassDef):
                hidden, _ = walk._hidden(build.CODE.module(module), statement)
                assert rest.partition(".")[0] not in hidden, f"{module}.{name} ran while training"


SCHEDULE = """\
from dataclasses import dataclass

from diffusion_lab.diffusion import CosineSchedule

from steepness import steeper


@dataclass(frozen=True)
class MySchedule(CosineSchedule):
    def alpha_bar(self):
        return steeper(super().alpha_bar())


class MySampler:
    pass
"""
STEEPNESS = "def steeper(alpha_bar):\n    return alpha_bar**POWER\n\n\ndef unused():\n    return 1\n\n\nPOWER = 1.5\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "retrains"),
    [
        ("mine.py", "class MySampler:", "# a comment\nclass MySampler:\n    x = 1\n", False),
        ("steepness.py", "return 1", "return 2", False),
        ("steepness.py", "POWER = 1.5", "POWER = 1.4", True),
        ("mine.py", "steeper(super().alpha_bar())", "super().alpha_bar()", True),
    ],
)
def test_the_users_own_code_counts(lab, monkeypatch, file, old, new, retrains):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (lab.folder / "mine.py").write_text(SCHEDULE)
    (lab.folder / "steepness.py").write_text(STEEPNESS)

    def planned():
        monkeypatch.setattr(build, "CODE", Code())  # that of a new process
        options = ["schedule._target_=mine.MySchedule", "hydra.sweeper.dry_run=true", "hydra.sweeper.name=x"]
        code, out, err = lab("train", "-m", *TINY, *STRIDED, *options)
        assert code == 0, err
        (model,) = re.findall("^train  (.*)$", out, re.MULTILINE)
        return model

    before = planned()
    source = (lab.folder / file).read_text()
    assert old in source
    (lab.folder / file).write_text(source.replace(old, new))
    assert (planned() != before) == retrains


def test_the_guiding_classifier_counts_by_what_it_is(tmp_path, trained_model):
    cfg = OmegaConf.load(trained_model("diffusion_conditional") / "config.yaml")
    classifier = trained_model("noisy_classifier")

    def names(classifier):
        cfg.guidance = {
            "_target_": "diffusion_lab.from_config.classifier.TrainedClassifierGuidance",
            "classifier": str(classifier),
        }
        return build.scoring_fingerprint("f" * 64, cfg), build.sampling_identity("f" * 64, cfg, {"variance"}, "pixels")

    before = names(classifier)
    moved = Path(shutil.copytree(classifier, tmp_path / "elsewhere"))
    assert names(moved) == before, "the same classifier wherever it lies"
    training = json.loads((moved / "training.json").read_text())
    (moved / "training.json").write_text(json.dumps(training | {"fingerprint": "f" * 64}))
    retrained = names(moved)
    (average,) = moved.glob("ema_*.safetensors")
    shutil.copy(moved / "raw.safetensors", average)
    assert len({*before, *retrained, *names(moved)}) == 6, "another training and other weights are another classifier"
