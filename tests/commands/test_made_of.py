"""What a run is made of, seen from its commands: all that ran counts, the user's own code too."""

import ast
import json
import shutil
import sys
from pathlib import Path

import lightning
import pytest
from omegaconf import OmegaConf

import diffusion_lab
from diffusion_lab.commands.build import CODE
from diffusion_lab.definitions import Node, _Walk
from diffusion_lab.fingerprints import _TRAINING, TRAINING_ROOTS, named_in, training_part

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


@pytest.mark.parametrize("family", [*FAMILIES, "noisy_classifier"])
def test_all_that_runs_while_training_counts(lab, monkeypatch, family):
    frames = set()
    fit = lightning.Trainer.fit

    def watched(*arguments, **options):
        sys.setprofile(lambda frame, event, _: frames.add((frame.f_code.co_filename, frame.f_code.co_qualname)))
        try:
            return fit(*arguments, **options)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(lightning.Trainer, "fit", watched)
    options = tiny(family, "conditional=true") if family in FAMILIES else [*TINY, "model=noisy_classifier"]
    code, _, err = lab("train", *options, "score=false")
    assert code == 0, err
    (model,) = models(lab.folder)
    config = training_part(OmegaConf.to_container(OmegaConf.load(model.config)))
    reached = CODE.reached((*TRAINING_ROOTS, *named_in(config)), _TRAINING)
    walk = _Walk(CODE, _TRAINING)
    ran = set(what_ran(frames))
    assert len(ran) > 30
    for module, name in ran:
        top, _, rest = name.partition(".")
        if top != "<module>":
            assert reached.get(Node(module, top)), f"{module}.{name} ran, and an edit of it would go unnoticed"
        for statement in CODE.module(module).definitions.get(top, []):
            if isinstance(statement, ast.ClassDef):
                hidden, _ = walk._hidden(CODE.module(module), statement)
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


def planned(zygote, folder, *options):
    """What a sweep of one model would train and score, said by a process of its own."""
    sweep = zygote.start(folder, "train", "-m", *TINY, *STRIDED, "schedule._target_=mine.MySchedule", *options)
    out, err = sweep.communicate()
    assert sweep.returncode == 0, err
    return out


def test_the_users_own_code_counts(tmp_path, zygote):
    (tmp_path / "mine.py").write_text(SCHEDULE)
    (tmp_path / "steepness.py").write_text(STEEPNESS)
    assert "1 to train" in planned(zygote, tmp_path)
    for file, old, new, to_do in [
        ("mine.py", "class MySampler:", "# nobody's\nclass MySampler:\n    x = 1\n", "0 to train"),
        ("steepness.py", "return 1", "return 2", "0 to train"),
        ("steepness.py", "POWER = 1.5", "POWER = 1.4", "1 to train"),
        ("mine.py", "steeper(super().alpha_bar())", "super().alpha_bar()", "1 to train"),
    ]:
        before = (tmp_path / file).read_text()
        (tmp_path / file).write_text(before.replace(old, new))
        assert to_do in planned(zygote, tmp_path, "hydra.sweeper.dry_run=true"), new
        (tmp_path / file).write_text(before)


def test_the_guiding_classifier_counts_by_what_it_is(lab):
    small = [*TINY, *STRIDED, "conditional=true"]
    assert lab("train", *TINY, "model=noisy_classifier")[0] == 0
    (classifier,) = models(lab.folder)
    assert lab("train", *small)[0] == 0
    (model,) = [found for found in models(lab.folder) if found.path != classifier.path]
    guided = ["guidance=classifier", f"model_dir={model.path}"]

    def evaluated(folder):
        code, out, err = lab("evaluate", *guided, f"guidance.classifier={folder}")
        assert code == 0, err
        return "this score is there already" in out

    assert not evaluated(classifier.path)
    moved = shutil.copytree(classifier.path, lab.folder / "elsewhere")
    assert evaluated(moved), "it is the same classifier wherever it lies"
    training = json.loads((moved / "training.json").read_text())
    (moved / "training.json").write_text(json.dumps(training | {"fingerprint": "f" * 64}))
    assert not evaluated(moved)
    for file in classifier.path.glob("ema_*.safetensors"):
        shutil.copy(classifier.weights("raw"), file)
    assert not evaluated(classifier.path), "others weights are another classifier"
