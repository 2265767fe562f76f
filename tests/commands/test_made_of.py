"""What a run is made of, seen from its commands: all that ran counts, the user's own code too."""

import sys
from pathlib import Path

import lightning
import pytest

import diffusion_lab
from diffusion_lab.commands.build import CODE
from diffusion_lab.definitions import Code, Node
from diffusion_lab.fingerprints import named_in, training_code, training_part

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
    config = training_part(model.read_config())
