"""Options of Lightning's Trainer: those that are refused, and that the others do what they are for, also after a kill."""

import re

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.store import newest_model
from diffusion_lab.training.trainer import NOT_SUPPORTED

from .conftest import STRIDED, TINY, files
from .test_callbacks import EARLY, VALIDATED, log_of

TRAIN = [*TINY, *STRIDED, "score=false", "val.every_n_steps=0"]
SIX = [*TRAIN, "trainer.max_steps=6"]
STOP = """
import os, signal
from pathlib import Path
from lightning import Callback

class StopOnce(Callback):
    '''SIGTERM after a step, if the file `stop` holds its number.'''

    def on_train_batch_end(self, trainer, *_):
        stop = Path("stop")
        if stop.is_file() and trainer.global_step == int(stop.read_text()):
            stop.unlink()
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("command", [["train"], ["train", "-m"]], ids=["train", "sweep"])
def test_a_refused_option_says_why_before_anything_runs(lab, command):
    code, _, err = lab(*command, *TRAIN, "+trainer.barebones=true")
    assert code == 1
    assert err == f"diffusion-lab train: trainer.barebones=True is not supported: {NOT_SUPPORTED['barebones']}\n"
    assert files(lab.folder) == []


@pytest.mark.parametrize("option", ["trainer.precision=nonsense", "+trainer.strategy=nonsense", "+trainer.min_steps=x"])
def test_a_sweep_is_not_planned_with_a_wrong_value(lab, option):
    code, _, err = lab("train", "-m", *TRAIN, "seed=1,2", option)
    assert (code, err.count("\n")) == (1, 1), err
    assert option.lstrip("+") in err
    assert files(lab.folder) == []


HARMLESS = [
    *("+trainer.num_sanity_val_steps=1", "+trainer.enable_progress_bar=false", "+trainer.inference_mode=false"),
    *("+trainer.enable_model_summary=true", "trainer.profiler=simple", "+trainer.detect_anomaly=true"),
    *("+trainer.limit_val_batches=1", "val.every_n_steps=1", "val.num_images=16", "val.batch_size=8"),
    *("+trainer.deterministic=true", "+trainer.benchmark=false"),
]


def test_options_that_only_watch_are_the_same_model(lab):
    """Bit for bit; they do what they are for."""
    assert lab("train", *SIX)[0] == 0
    plain = newest_model(lab.folder / "outputs")
    code, out, err = lab("train", *SIX, *HARMLESS, "outputs=watched")
    assert code == 0, err
    watched = newest_model(lab.folder / "watched")
    assert watched.path.name == plain.path.name
    a, b = load_file(plain.weights("raw")), load_file(watched.weights("raw"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert "training  50 %" not in out
    assert "Total params" in out + err
    assert "run_training_batch" in out
    assert [float(row["val/loss"]) for row in log_of(watched).values()]


SHAPING = {
    "clipping": ["+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_val=0.01"],
    "accumulation": ["trainer.accumulate_grad_batches=2"],
    "epochs": ["+trainer.limit_train_batches=2", *VALIDATED],
    "epochs and accumulation": ["+trainer.limit_train_batches=4", "trainer.accumulate_grad_batches=2"],
    "the same batches": ["+trainer.overfit_batches=2"],
}


@pytest.mark.parametrize("options", SHAPING.values(), ids=SHAPING)
def test_options_that_shape_training_resume_to_the_bit(lab, options):
    """Stopped after steps 3 and 4: in the middle and at the end of an epoch."""
    (lab.folder / "stops.py").write_text(STOP)
    run = ["train", *SIX, "network.dropout=0.1", *options, "+callbacks.stop._target_=stops.StopOnce"]
    assert lab(*run)[0] == 0
    for step in ("3", "4"):
        (lab.folder / "stop").write_text(step)
        code, _, err = lab(*run, "outputs=torn")
        assert code == 143, err
    code, out, err = lab(*run, "outputs=torn")
    assert code == 0, err
    assert "resuming from" in out
    whole, torn = newest_model(lab.folder / "outputs"), newest_model(lab.folder / "torn")
    assert whole.path.name == torn.path.name
    for name in whole.weight_names:
        a, b = load_file(whole.weights(name)), load_file(torn.weights(name))
        assert all(torch.equal(a[key], b[key]) for key in a), name
    rows = [
        {step: re.sub("second.*", "", str(sorted(row.items()))) for step, row in log_of(m).items()}
        for m in (whole, torn)
    ]
    assert [*rows[0]] == [*rows[1]] == list("123456")
    lab("train", *SIX, "network.dropout=0.1", "+callbacks.stop._target_=stops.StopOnce")
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 2, "it is another model"


def test_the_same_batches_are_learned_by_heart(lab):
    """Each epoch shows the same images: with the same noise its loss could only fall; with other images it would not."""
    seen = lab.folder / "seen.txt"
    (lab.folder / "shows.py").write_text(
        "from lightning import Callback\n"
        "class Show(Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, k):\n"
        f"        with open({str(seen)!r}, 'a') as file:\n"
        "            print(batch[0].sum().item(), file=file)\n"
    )
    code, _, err = lab("train", *SIX, "+trainer.overfit_batches=2", "+callbacks.show._target_=shows.Show")
    assert code == 0, err
    sums = seen.read_text().split()
    assert sums[:2] * 3 == sums
    assert sums[0] != sums[1]


def test_min_steps_holds_back_early_stopping_and_no_signal(lab):
    early = [*TRAIN, *VALIDATED, *EARLY, "trainer.max_steps=20", "+trainer.min_steps=10"]
    code, out, err = lab("train", *early)
    assert code == 0, err
    assert "training ended by callbacks.early_stopping after 10 steps" in out
    (lab.folder / "stops.py").write_text(STOP)
    (lab.folder / "stop").write_text("3")
    code, _, err = lab("train", *early, "+callbacks.stop._target_=stops.StopOnce")
    assert (code, "SIGTERM at step 3" in err) == (143, True)


def test_a_callback_acts_at_the_end_of_epochs_that_have_one(lab):
    early = [
        *EARLY,
        "+callbacks.early_stopping.check_on_train_epoch_end=true",
        "val.every_n_steps=1",
        "val.num_images=16",
    ]
    code, out, err = lab("train", *TRAIN, *early, "trainer.max_steps=20", "+trainer.limit_train_batches=3")
    assert code == 0, err
    assert "training ended by callbacks.early_stopping after 9 steps" in out
