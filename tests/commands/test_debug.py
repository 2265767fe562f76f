"""debug=…: each works with every family, says something, and its models are never found as real ones."""

import pytest

from diffusion_lab.store import newest_model

from ..models.test_families import FAMILIES
from .test_families import SMALL

CHOICES = ("default", "fdr", "overfit", "limit", "profiler")
PAIRS = [(choice, family) for choice in CHOICES for family in (*FAMILIES, "noisy_classifier")]
SAYS = {
    "default": "Params",
    "profiler": "run_training_batch",
    "limit": ": 72 training images",
    "overfit": ": 16 training",
}
LONG = ("overfit", "limit", "profiler")  # the others train their own few steps


def some(pairs):
    """Every choice and every family once; the other pairs take too long for every day."""
    every_day = {(choice, family) for (choice, family) in zip(CHOICES, (*FAMILIES, "noisy_classifier"), strict=True)}
    return [pytest.param(*pair, marks=[] if pair in every_day else pytest.mark.thorough) for pair in pairs]


@pytest.mark.parametrize(("choice", "family"), some(PAIRS))
def test_debug_is_short_and_apart(lab, choice, family):
    small = SMALL["diffusion"] if family == "noisy_classifier" else SMALL[family]
    small = [option for option in small if family != "noisy_classifier" or not option.startswith("sampler")]
    steps = ["trainer.max_steps=2"] if choice in LONG else []
    code, out, err = lab("train", f"model={family}", f"debug={choice}", *small, *steps, "data.batch_size=8")
    assert code == 0, err
    assert SAYS.get(choice, "1 step") in out
    directory = newest_model(lab.folder / "outputs" / "debug")
    assert directory.read_choices()["debug"] == choice
    assert choice in LONG or len(directory.metrics_csv.read_text().splitlines()) > 1
    runs = list((lab.folder / "outputs" / "debug" / "runs").glob("*/metrics.json"))
    assert len(runs) == (choice in ("default", "fdr", "limit") and family != "noisy_classifier")
    assert [path.name for path in (lab.folder / "outputs").iterdir()] == ["debug"]
    assert lab("evaluate")[0] == 1
