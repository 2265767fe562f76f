"""Callbacks of the user's own beside ours, the held-out loss, what ends a training, and options of Lightning's Trainer."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.store import ModelDirectory, newest_model
from diffusion_lab.training.checkpoints import load_state

from .cluster import STOP, assert_same_training, assert_same_weights, rows
from .conftest import STRIDED, TINY
from .test_resume import EVERYTHING, assert_survives, same

TRAIN = [*TINY, *STRIDED, "score=false"]
VALIDATED = ["val.every_n_steps=2", "val.num_images=16"]
EARLY = [  # no improvement is as large as min_delta, so it ends after `patience` more validations
    "callbacks=[default,early_stopping]",
    "callbacks.early_stopping.min_delta=100",
    "callbacks.early_stopping.patience=2",
]


def log_of(directory: ModelDirectory) -> dict[str, dict[str, str]]:
    """step -> what was logged."""
    with directory.metrics_csv.open() as file:
        return {row["step"]: {name: value for name, value in row.items() if value} for row in csv.DictReader(file)}


def model_of(lab, outputs="outputs") -> ModelDirectory:
    return newest_model(lab.folder / outputs)


def test_early_stopping_looks_at_the_held_out_loss_and_ends_training(lab):
    out = lab.done("train", *TRAIN, *VALIDATED, *EARLY, "trainer.max_steps=20")
    assert "training ended by callbacks.early_stopping after 6 steps" in out
    training = model_of(lab).read_training()
    assert (training["steps"], training["ended_by"]) == (6, "callbacks.early_stopping")
    log = log_of(model_of(lab))
    assert list(log) == ["1", "2", "3", "4", "5", "6"]
    assert [step for step, row in log.items() if "val/loss" in row] == ["2", "4", "6"]
    assert all("train/loss" in row and "epoch" not in row for row in log.values())


def test_several_callbacks_at_once_by_yaml_and_override_with_ours_in_their_order(lab):
    """The user's own class lies in the working directory. Two of Lightning's write what they are for."""
    (lab.folder / "watching.py").write_text(
        "import lightning\n"
        "class Watch(lightning.Callback):\n"
        "    def __init__(self, file):\n"
        "        self.file = file\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        with open(self.file, 'a') as file:\n"
        "            print(*[type(part).__name__ for part in trainer.callbacks], file=file)\n"
        "        assert 'train/loss' in trainer.callback_metrics\n"
    )
    (lab.folder / "mine" / "callbacks").mkdir(parents=True)
    (lab.folder / "mine" / "callbacks" / "watch.yaml").write_text(
        "watch:\n  _target_: watching.Watch\n  file: seen.txt\n"
    )
    own = ["--config-dir", "mine", "callbacks=[default,watch]"]
    added = [
        "+callbacks.rate._target_=lightning.pytorch.callbacks.LearningRateMonitor",
        "+callbacks.best._target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "+callbacks.best.monitor=val/loss",
    ]
    lab.done("train", *own, *TRAIN, *VALIDATED, *added)
    order = (lab.folder / "seen.txt").read_text().split("\n")[0].split()
    assert order[-5:] == ["SampleGrid", "Watch", "LearningRateMonitor", "ModelCheckpoint", "Saving"]
    log = log_of(model_of(lab))
    assert {"lr-Muon/pg1", "lr-Muon/pg2"} <= set(log["1"])
    assert {"train/loss", "val/loss"} <= set(log["2"])
    (best,) = (model_of(lab).path / "checkpoints").glob("*.ckpt")
    assert load_state(best)["global_step"] == 2


def test_validating_changes_no_bit_of_training(lab):
    """With everything random in training; the loss of each validation is that of the averages, the same images and noise."""
    options = [*EVERYTHING, "trainer.max_steps=6", "val.num_images=16"]
    for every in (0, 1):
        lab.done("train", *options, f"outputs=every{every}", f"val.every_n_steps={every}")
    without, watched = model_of(lab, "every0"), model_of(lab, "every1")
    assert without.path.name == watched.path.name
    assert_same_weights(without, watched)
    a, b = log_of(without), log_of(watched)
    for step, row in a.items():
        assert {k: v for k, v in b[step].items() if k in row and "second" not in k} == {
            k: v for k, v in row.items() if "second" not in k
        }
    assert [sorted(set(b[step]) - set(a[step])) for step in a] == [["val/loss", "val/mse", "val/vlb"]] * 6


def test_a_family_of_its_own_optimizers_has_a_held_out_loss(lab):
    """Which terms each family holds out is tested beside the families."""
    options = ["network.base_channels=8", "discriminator.base_channels=8", "data.batch_size=8"]
    options += ["trainer.log_every_n_steps=1", "trainer.max_steps=2"]
    lab.done("train", "model=gan", *options, *VALIDATED, "score=false")
    (directory,) = (lab.folder / "outputs" / "models").glob("[!.]*/")
    row = log_of(ModelDirectory(directory))["2"]
    assert float(row["val/loss"]) == pytest.approx(float(row["val/loss"]))
    trained = {name.removeprefix("train/") for name in row if name.startswith("train/")}
    assert {name.removeprefix("val/") for name in row if name.startswith("val/")} <= trained


@pytest.mark.thorough
def test_a_run_with_early_stopping_that_is_killed_is_the_run(tmp_path, zygote):
    early = [*EARLY[:-1], "callbacks.early_stopping.patience=7", *VALIDATED]
    options = [*EVERYTHING, *early, "trainer.max_steps=60"]  # ends at step 16
    assert_survives(zygote.start, tmp_path, *options, kills=4, steps=15)
    whole, torn = (newest_model(tmp_path / name / "outputs") for name in ("whole", "torn"))
    for model in (whole, torn):
        training = model.read_training()
        assert (training["steps"], training["ended_by"]) == (16, "callbacks.early_stopping")
    a, b = (load_state(model.resume)["callbacks"] for model in (whole, torn))
    (key,) = [key for key in a if key.startswith("EarlyStopping")]
    assert same(a[key], b[key])


# ---- what ends a training ----

FREE = [option for option in TRAIN if not option.startswith("trainer.max_steps")] + ["default_steps=3"]


@pytest.mark.parametrize(
    ("budget", "ended_by", "more"),
    [
        pytest.param([], "trainer.max_steps=3", False, marks=pytest.mark.thorough),
        pytest.param(
            ["trainer.max_time=00:00:00:01"], "trainer.max_time=00:00:00:01", True, marks=pytest.mark.thorough
        ),
        (["trainer.max_time=00:01:00:00", "trainer.max_steps=2"], "trainer.max_steps=2", False),
    ],
)
def test_a_budget_that_the_user_gives_takes_the_place_of_the_default(lab, budget, ended_by, more):
    out = lab.done("train", *FREE, *budget)
    training = model_of(lab).read_training()
    assert training["ended_by"] == ended_by.partition("=")[0]
    assert f"training ended by {ended_by} after {training['steps']} steps" in " ".join(out.split())
    assert (training["steps"] > 3) == more


# ---- options of Lightning's Trainer: those that are refused, and that the others do what they are for, also after a kill ----


UNVALIDATED = [*TINY, *STRIDED, "score=false", "val.every_n_steps=0"]
SIX = [*UNVALIDATED, "trainer.max_steps=6"]


HARMLESS = [
    *("+trainer.num_sanity_val_steps=1", "+trainer.enable_progress_bar=false", "+trainer.inference_mode=false"),
    *("+trainer.enable_model_summary=true", "trainer.profiler=simple", "+trainer.detect_anomaly=true"),
    *("+trainer.limit_val_batches=1", "val.every_n_steps=1", "val.num_images=16", "val.batch_size=8"),
    *("trainer.deterministic=true", "+trainer.benchmark=false", "trainer.peak_flops=1e12"),
]


@pytest.mark.thorough
def test_options_that_only_watch_are_the_same_model(lab):
    """Bit for bit; they do what they are for."""
    assert lab("train", *SIX)[0] == 0
    plain = newest_model(lab.folder / "outputs")
    code, out, err = lab("train", *SIX, *HARMLESS, "outputs=watched")
    assert code == 0, err
    watched = newest_model(lab.folder / "watched")
    assert watched.path.name == plain.path.name
    assert_same_weights(plain, watched)
    assert "training  50 %" not in out
    assert "Total params" in out + err
    assert "run_training_batch" in out
    assert [float(row["val/loss"]) for row in log_of(watched).values()]


def test_a_training_goes_on_in_other_parts(lab):
    """Stopped after step 3 with batches in four parts, resumed with whole ones; t learns from the losses of a whole batch."""
    (lab.folder / "stops.py").write_text(STOP)
    run = ["train", *SIX, "trainer.precision=32-true", "optimizer=adamw", "network.dropout=0.1", "timesteps=loss_aware"]
    run += ["objective=vlb", "timesteps.history_per_timestep=1", "+callbacks.stop._target_=stops.StopOnce"]
    assert lab(*run)[0] == 0
    (lab.folder / ".stop").write_text("3")
    assert lab(*run, "outputs=torn", "trainer.accumulate_grad_batches=4")[0] == 143
    assert "resuming from" in lab.done(*run, "outputs=torn")
    whole, torn = newest_model(lab.folder / "outputs"), newest_model(lab.folder / "torn")
    assert whole.path.name == torn.path.name
    a, b = load_file(whole.weights("raw")), load_file(torn.weights("raw"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5)
    assert list(log_of(whole)) == list(log_of(torn)), "no step is missing, none is there twice"


SHAPING = {
    "epochs and accumulation": ["+trainer.limit_train_batches=2", "trainer.accumulate_grad_batches=2", *VALIDATED],
    "the same batches": ["+trainer.overfit_batches=2"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("options", SHAPING.values(), ids=SHAPING)
def test_options_that_shape_training_resume_to_the_bit(lab, options):
    """Stopped after steps 3 and 4: in the middle and at the end of an epoch."""
    (lab.folder / "stops.py").write_text(STOP)
    run = ["train", *SIX, "network.dropout=0.1", *options, "+callbacks.stop._target_=stops.StopOnce"]
    assert lab(*run)[0] == 0
    for step in ("3", "4"):
        (lab.folder / ".stop").write_text(step)
        assert lab(*run, "outputs=torn")[0] == 143
    assert "resuming from" in lab.done(*run, "outputs=torn")
    whole, torn = newest_model(lab.folder / "outputs"), newest_model(lab.folder / "torn")
    assert_same_training(whole, torn)
    assert [row["step"] for row in rows(whole)] == list("123456")
    lab("train", *SIX, "network.dropout=0.1", "+callbacks.stop._target_=stops.StopOnce")
    assert len(list((lab.folder / "outputs" / "models").glob("[!.]*/"))) == 2, "it is another model"


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
    lab.done("train", *SIX, "+trainer.overfit_batches=2", "+callbacks.show._target_=shows.Show")
    sums = seen.read_text().split()
    assert sums[:2] * 3 == sums
    assert sums[0] != sums[1]


@pytest.mark.thorough
def test_min_steps_holds_back_early_stopping_and_no_signal(lab):
    (lab.folder / "stops.py").write_text(STOP)
    (lab.folder / ".stop").write_text("3")
    run = ["train", *UNVALIDATED, *VALIDATED, *EARLY, "trainer.max_steps=20", "+trainer.min_steps=10"]
    run += ["+callbacks.stop._target_=stops.StopOnce"]
    code, _, err = lab(*run)
    assert (code, "SIGTERM at step 3" in err) == (143, True)
    assert "training ended by callbacks.early_stopping after 10 steps" in lab.done(*run)


@pytest.mark.thorough
def test_a_callback_acts_at_the_end_of_epochs_that_have_one(lab):
    early = [*EARLY, "+callbacks.early_stopping.check_on_train_epoch_end=true", "val.every_n_steps=1"]
    epochs = ["val.num_images=16", "trainer.max_steps=20", "+trainer.limit_train_batches=3"]
    out = lab.done("train", *UNVALIDATED, *early, *epochs)
    assert "training ended by callbacks.early_stopping after 9 steps" in out
