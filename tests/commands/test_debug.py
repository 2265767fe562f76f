"""debug=…: each says something, and its models are never found as real ones."""

import pytest

from diffusion_lab.store import newest_model

from ..families.test_families import FAMILIES
from .test_families import SMALL

CHOICES = ("default", "fdr", "overfit", "limit", "profiler")
SAYS = {
    "default": "Params",
    "profiler": "run_training_batch",
    "limit": ": 72 training images",
    "overfit": ": 16 training",
}
LONG = ("overfit", "limit", "profiler")  # the others train their own few steps


@pytest.mark.parametrize(
    ("choice", "family"),
    [
        pytest.param(choice, family, marks=[] if choice == "fdr" else pytest.mark.thorough)
        for choice, family in zip(CHOICES, (*FAMILIES, "noisy_classifier"), strict=True)
    ],
)
def test_debug_is_short_and_apart(lab, choice, family):
    small = SMALL["diffusion"] if family == "noisy_classifier" else SMALL[family]
    small = [option for option in small if family != "noisy_classifier" or not option.startswith("sampler")]
    steps = ["trainer.max_steps=2"] if choice in LONG else []
    out = lab.done("train", f"model={family}", f"debug={choice}", *small, *steps, "data.batch_size=8")
    assert SAYS.get(choice, "1 step") in out
    directory = newest_model(lab.folder / "outputs" / "debug")
    assert directory.read_choices()["debug"] == choice
    assert choice in LONG or len(directory.metrics_csv.read_text().splitlines()) > 1
    runs = list((lab.folder / "outputs" / "debug" / "runs").glob("*/metrics.json"))
    assert len(runs) == (choice in ("default", "fdr", "limit") and family != "noisy_classifier")
    assert [path.name for path in (lab.folder / "outputs").iterdir()] == ["debug"]
    assert lab("evaluate")[0] == 1
