"""Callbacks of the user's own beside ours, the held-out loss that they may look at, and what ends a training."""

import csv
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.store import ModelDirectory, newest_model, read_json
from diffusion_lab.training.saving import load_state

from .conftest import STRIDED, TINY, files
from .test_resume import EVERYTHING, Training, assert_same_bits, interrupted, same

TRAIN = [*TINY, *STRIDED, "score=false"]
VALIDATED = ["val.every_n_steps=2", "val.num_images=16"]
EARLY = [  # no improvement is as large as min_delta, so it ends after `patience` more validations
    "+callbacks.early_stopping._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+callbacks.early_stopping.monitor=val/loss",
    "+callbacks.early_stopping.min_delta=100",
    "+callbacks.early_stopping.patience=2",
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
    always = ["Precision", "EMA", "PowerAverages", "Snapshots", "Announce"]
    assert order == [
        *always,
        *(
            "SkipNotFinite",
            "Monitor",
            "ProgressBar",
            "SampleGrid",
            "Watch",
            "LearningRateMonitor",
            "ModelCheckpoint",
            "Saving",
        ),
    ]
    log = log_of(model_of(lab))
    assert {"lr-Muon/pg1", "lr-Muon/pg2"} <= set(log["1"])
    assert {"train/loss", "val/loss"} <= set(log["2"])
    (best,) = (model_of(lab).path / "checkpoints").glob("*.ckpt")
    assert load_state(best)["global_step"] == 2


def test_a_callback_that_the_user_adds_is_another_training_and_ours_are_not(lab):
    lab("train", *TRAIN)
    ours = ["callbacks.progress=null", "callbacks.sample_grid.num_images=9", "val.every_n_steps=1"]
    assert "this model is already trained" in lab.done("train", *TRAIN, *ours)
    for patience in (3, 4):
        added = [*EARLY[:-1], f"+callbacks.early_stopping.patience={patience}", *VALIDATED]
        assert lab("train", *TRAIN, *added)[0] == 0
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 3


def test_validating_changes_no_bit_of_training(lab):
    """With everything random in training; the loss of each validation is that of the averages, the same images and noise."""
    options = [*EVERYTHING, "trainer.max_steps=6", "val.num_images=16"]
    for every in (0, 1):
        lab.done("train", *options, f"outputs=every{every}", f"val.every_n_steps={every}")
    without, watched = model_of(lab, "every0"), model_of(lab, "every1")
    assert without.path.name == watched.path.name
    for name in without.weight_names:
        a, b = load_file(without.weights(name)), load_file(watched.weights(name))
        assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = log_of(without), log_of(watched)
    for step, row in a.items():
        assert {k: v for k, v in b[step].items() if k in row and "second" not in k} == {
            k: v for k, v in row.items() if "second" not in k
        }
    assert [sorted(set(b[step]) - set(a[step])) for step in a] == [["val/loss", "val/mse", "val/vlb"]] * 6


@pytest.mark.parametrize("family", ["gan", "vae", "flow", "noisy_classifier"])
def test_every_family_has_a_held_out_loss(lab, family):
    small = {
        "gan": ["network.base_channels=8", "discriminator.base_channels=8"],
        "noisy_classifier": [option for option in TINY if option.startswith("network.")],
    }
    options = [*small.get(family, []), "data.batch_size=8", "trainer.log_every_n_steps=1", "trainer.max_steps=2"]
    lab.done("train", f"model={family}", *options, *VALIDATED, "score=false")
    (directory,) = (lab.folder / "outputs" / "models").iterdir()
    row = log_of(ModelDirectory(directory))["2"]
    assert float(row["val/loss"]) == pytest.approx(float(row["val/loss"]))
    trained = {name.removeprefix("train/") for name in row if name.startswith("train/")}
    assert {name.removeprefix("val/") for name in row if name.startswith("val/")} <= trained


@pytest.mark.thorough
def test_a_run_with_early_stopping_that_is_killed_is_the_run(tmp_path, zygote):
    early = [*EARLY[:-1], "+callbacks.early_stopping.patience=7", *VALIDATED]
    options = [*EVERYTHING, *early, "trainer.max_steps=60"]  # ends at step 16
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    assert interrupted(torn, 4, 15) >= 3
    assert_same_bits(whole, torn)
    for training in (whole, torn):
        assert read_json(training.directory.training)["ended_by"] == "callbacks.early_stopping"
        assert read_json(training.directory.training)["steps"] == 16
    a, b = (load_state(training.directory.resume)["callbacks"] for training in (whole, torn))
    (key,) = [key for key in a if key.startswith("EarlyStopping")]
    assert same(a[key], b[key])


@pytest.mark.thorough
def test_a_run_that_signals_interrupt_is_the_run(tmp_path, zygote):
    """At a step with a validation and at one without: the log too is that of the undisturbed run."""
    options = [*EVERYTHING, *VALIDATED, "trainer.max_steps=12", "callbacks.checkpoint.every_n_steps=0"]
    whole, torn = (Training(zygote.start, tmp_path / name, *options) for name in ("whole", "torn"))
    whole.finish()
    for at in (3, 6):
        process = torn.start()
        while torn.step() < at and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert process.returncode == 128 + signal.SIGTERM
    torn.finish()
    assert whole.log() == torn.log()
    for name in whole.directory.weight_names:
        a, b = (load_file(training.directory.weights(name)) for training in (whole, torn))
        assert all(torch.equal(a[key], b[key]) for key in a)


STOPPING = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: %s}"
NEVER = {
    "of a metric that nobody logs": (
        [f"+callbacks.a={STOPPING % 'val_loss'}"],
        ["val_loss is never logged", "val/loss, "],
    ),
    "without validations": (
        [f"+callbacks.a={STOPPING % 'train/loss'}", "val.every_n_steps=0"],
        ["val.every_n_steps=0"],
    ),
    "at the end of an epoch": (
        [f"+callbacks.a={STOPPING % 'val/loss, check_on_train_epoch_end: true'}", "val.every_n_steps=1"],
        ["one endless epoch"],
    ),
    "no callback": (["+callbacks.a._target_=torch.nn.Identity"], ["callbacks.a is not a Lightning callback"]),
    "none of ours": (["callbacks.monitor=null"], ["training needs monitor", "callbacks=[default,mine]"]),
    "nothing of a group": (["callbacks=null"], ["callbacks=null", "~callbacks"]),
    "no images": (["val.num_images=0"], ["val.num_images=0"]),
    "no time": (["trainer.max_time=10"], ["trainer.max_time=10", "00:00:10:00"]),
}


@pytest.mark.parametrize(("options", "said"), NEVER.values(), ids=NEVER)
def test_what_cannot_be_honoured_is_refused_before_training(lab, options, said):
    code, _, err = lab("train", *TRAIN, *options)
    assert code == 1, err
    assert len(err.strip().splitlines()) == 1, err
    for words in said:
        assert words in err
    assert files(lab.folder) == []


# ---- what ends a training ----

FREE = [option for option in TRAIN if not option.startswith("trainer.max_steps")] + ["default_steps=3"]


@pytest.mark.parametrize(
    ("budget", "ended_by", "more"),
    [
        ([], "trainer.max_steps=3", False),
        (["trainer.max_time=00:00:00:01"], "trainer.max_time=00:00:00:01", True),
        (["trainer.max_time=00:01:00:00", "trainer.max_steps=2"], "trainer.max_steps=2", False),
    ],
)
def test_a_budget_that_the_user_gives_takes_the_place_of_the_default(lab, budget, ended_by, more):
    out = lab.done("train", *FREE, *budget)
    training = model_of(lab).read_training()
    assert training["ended_by"] == ended_by.partition("=")[0]
    assert f"training ended by {ended_by} after {training['steps']} steps" in " ".join(out.split())
    assert (training["steps"] > 3) == more


@pytest.mark.thorough
def test_in_a_sweep_too_and_the_job_is_the_one_that_was_planned(lab):
    """The second time everything is there already."""
    options = ["-m", *FREE, "trainer.max_time=00:00:00:01", "seed=1,2"]
    lab.done("train", *options)
    models = [ModelDirectory(path) for path in (lab.folder / "outputs" / "models").iterdir()]
    assert [model.read_training()["ended_by"] for model in models] == ["trainer.max_time"] * 2
    assert "train  " not in lab.done("train", *options, "hydra.sweeper.dry_run=true")
