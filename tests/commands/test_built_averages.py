"""evaluation.weights=ema_rel_0.07: an average that is built after training, by the commands."""

import pytest

from diffusion_lab.store import newest_model

from .conftest import STRIDED, TINY, scored

SIX = [*TINY, *STRIDED, "trainer.max_steps=6", "metrics=quick"]


@pytest.mark.thorough
def test_any_length_is_scored(lab):
    """Any length is scored and sampled without training again."""
    lab.given("train", *SIX)
    code, out, err = lab("train", "-m", *SIX, "evaluation.weights=ema_rel_0.05,ema_rel_0.1")
    assert code == 0, err + out
    assert "1 model: 0 to train, 1 reused" in out
    runs = scored(lab.folder)
    said = {run["protocol"]["weights"]: run["protocol"].get("average", "") for run in runs}
    assert said.keys() == {"ema_0.999", "ema_rel_0.05", "ema_rel_0.1"}
    assert said["ema_rel_0.05"] == "built from averages of 6 moments, with an error of 0.0% of its profile"
    assert "(ema_rel_0.07)" in lab.done("sample", "num_images=2", "weights=ema_rel_0.07", *STRIDED)
    model = newest_model(lab.folder / "outputs")
    assert len(model.kept_averages) == 6
