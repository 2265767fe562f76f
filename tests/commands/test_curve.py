"""evaluation.at: one training, scored at several of its moments."""

import json

import pytest

from diffusion_lab.store import newest_model

from .conftest import STRIDED, TINY, files, scored

SIX = [*TINY, *STRIDED, "trainer.max_steps=6", "metrics=quick"]
AT = "evaluation.at=[2steps,32images,end]"


def runs_of(lab) -> dict[str, dict]:
    found = scored(lab.folder)
    return {run["protocol"]["weights"]: run for run in found}


def one_sentence(err: str) -> str:
    assert len(err.strip().splitlines()) == 1, err
    return err


def test_a_training_keeps_and_scores_the_moments(lab):
    """A training keeps and scores the moments that are asked for."""
    lab.given("train", *SIX, AT)
    runs = runs_of(lab)
    assert runs.keys() == {"at_2steps", "at_32images", "ema_0.999"}
    taken = {name: (run["values"]["training_steps"], run["values"]["training_images"]) for name, run in runs.items()}
    assert taken == {"at_2steps": (2, 16), "at_32images": (4, 32), "ema_0.999": (6, 48)}
    seconds = [runs[name]["values"]["training_seconds"] for name in ("at_2steps", "at_32images", "ema_0.999")]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert runs["at_2steps"]["protocol"]["moment"] == "the training as it was at step 2 of 6"
    assert "moment" not in runs["ema_0.999"]["protocol"]
    before = files(lab.folder)
    for command in (["train", *SIX], ["evaluate", "evaluation.at=[2steps,end]"]):
        code, out, err = lab(*command)  # the same scores as those of the moments one by one
        assert code == 0, err
        assert "already scored" in out
    assert files(lab.folder) == before


@pytest.mark.thorough
def test_a_moment_that_was_not_kept_is_named_with_the_fix(lab):
    lab.given("train", *SIX, AT)
    for command in (["evaluate"], ["train", *SIX], ["train", "-m", *SIX]):
        lab.refused(
            *command,
            "evaluation.at=[2steps,3steps]",
            said=("has no weights at_3steps", "snapshots.at (set retrain=true to train again)"),
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["evaluation.at=[7steps]"], "evaluation.at: training ends before 7steps (trainer.max_steps=6)"),
        (["evaluation.at=[2minutes]"], "evaluation.at=['2minutes']: 2minutes is not a moment of a training; write 0.1"),
        (["evaluation.at=[60s,1m]"], "remove the repeated moment"),
        ([AT, "evaluation.weights=raw"], "evaluation.weights=raw: evaluation.at already chooses the weights"),
    ],
)
def test_what_makes_no_sense_is_said_first(lab, options, said):
    """What makes no sense is said before anything is written."""
    lab.refused("train", *SIX, *options, said=said)


@pytest.mark.thorough
def test_each_moment_is_a_cell_of_a_sweep(lab):
    axes = ["model=vae", "evaluation.at=[2steps,end]"]
    small = [option for option in SIX if not option.startswith(("network.", "schedule", "sampler"))]
    code, out, err = lab("train", "-m", *axes, *small)
    assert code == 0, err + out
    (sweep,) = lab.folder.glob("outputs/sweeps/*/sweep.json")
    content = json.loads(sweep.read_text())
    assert content["axes"] == {"evaluation.weights": ["at_2steps", "end"]}
    assert len({cell["run"] for cell in content["cells"]}) == 2
    assert len(list((lab.folder / "outputs/models").iterdir())) == 1
    assert (sweep.parent / "report/figures/training_cost_fd_pixels.png").is_file()
    for wrong, said in (
        (["evaluation.at=[1steps],[2steps]"], "evaluation.at: give one list of moments"),
        (["evaluation.at=[1steps]", "evaluation.weights=raw,auto"], "remove one of the two"),
    ):
        lab.refused("train", "-m", *small, *wrong, said=said)


def test_a_snapshot_that_does_not_say_its_moment_is_refused(lab):
    from safetensors.torch import load_file, save_file

    lab.given("train", *SIX, AT)
    file = newest_model(lab.folder / "outputs").weights("at_2steps")
    save_file(load_file(file), file, {"step": "nan"})
    lab.refused(
        "evaluate", "evaluation.weights=at_2steps", "rescore=true", said="does not say when in training it was written"
    )
