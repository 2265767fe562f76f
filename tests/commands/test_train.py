import csv
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusion_lab.store import newest_model
from diffusion_lab.versions import versions

from .conftest import STRIDED, TINY, files


def model_of(lab):
    return newest_model(lab.folder / "outputs")


def only_run(lab):
    (run,) = (lab.folder / "outputs" / "runs").iterdir()
    return run


def test_one_command_trains_samples_scores_and_says_where(lab):
    out = lab.done("train", *TINY, *STRIDED)
    directory, run = model_of(lab), only_run(lab)
    for words in ("fd_pixels", "real images", "bits/dim", "per 1000 samples", "2 steps, 16 images"):
        assert words in out
    assert "NFE" not in out
    assert str(directory.path.relative_to(lab.folder)) in out
    assert str(run.relative_to(lab.folder)) in out

    assert set(directory.weight_names) == {"raw", "ema_0.999", "ema_0.9999", "at_0.1", "at_0.2", "at_0.4"}
    assert directory.config.is_file()
    assert directory.read_training()["versions"] == versions()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["protocol"]["versions"] == versions()
    assert metrics["values"]["nfe"] == 3
    assert metrics["values"]["training_images"] == 16
    assert metrics["protocol"]["weights"] == "ema_0.999"
    assert "are the same weights" not in out  # nobody chose between them
    assert metrics["protocol"]["data"]["identity"]
    assert metrics["protocol"]["samples"]["num_levels"] == 17
    assert "LogSNRSpacing(num_steps=3, " in metrics["protocol"]["model"]["sampler"]
    assert metrics["protocol"]["bound"]["kind"].startswith("bound of 24 ancestral steps even in log SNR")
    assert len(metrics["curves"]["bits_per_dim"]["t"]) == 24
    with Image.open(run / "samples.png") as image:
        assert image.size[0] > 64

    with directory.metrics_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    for column in ("loss", "mse", "vlb", "grad_norm", "lr", "images_per_second", "loss_quarter_1", "loss_quarter_4"):
        assert float(rows[-1][f"train/{column}"]) >= 0


def test_the_same_command_trains_once(lab):
    """The same command trains and scores once and says so."""
    lab.given("train", *TINY, *STRIDED)
    before = {name: (lab.folder / name).read_bytes() for name in files(lab.folder)}
    out = lab.done("train", *TINY, *STRIDED)
    assert "this model is already trained" in out
    assert "already scored" in out
    assert "fd_pixels" in out
    assert {name: (lab.folder / name).read_bytes() for name in files(lab.folder)} == before


def test_retrain_trains_anew_and_gives_the_same_weights(lab):
    lab.given("train", *TINY, *STRIDED)
    directory = model_of(lab)
    weights, stamp = load_file(directory.weights("raw")), directory.training.stat().st_mtime_ns
    assert "already" not in lab.done("train", *TINY, *STRIDED, "retrain=true")
    assert directory.training.stat().st_mtime_ns > stamp
    again = load_file(directory.weights("raw"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_an_option_that_shapes_training_makes_another(lab):
    """An option that shapes training makes another model and one that does not makes another score."""
    lab.given("train", *TINY, *STRIDED)
    lab("train", *TINY, "sampler.spacing.num_steps=4")
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 1
    assert len(list((lab.folder / "outputs" / "runs").iterdir())) == 2
    lab("train", *TINY, *STRIDED, "seed=2")
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 2


def test_a_training_goes_on_under_another_variance(lab):
    """A training begun with one fixed variance goes on under the other."""
    lab.given("train", *TINY, *STRIDED, "variance=fixed_small", "score=false")
    model_of(lab).training.unlink()  # as if it had been killed
    lab.done("train", *TINY, *STRIDED, "variance=fixed_large", "score=false")
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 1


def test_an_interrupted_training_goes_on(lab):
    """An interrupted training goes on and ends with the same weights.

    Stopped between the checkpoint and the end: the weights are those of an undisturbed training.
    """
    options = [*TINY, *STRIDED, "trainer.max_steps=6", "callbacks.checkpoint.every_n_steps=2", "score=false"]
    lab.given("train", *options)
    directory = model_of(lab)
    whole = {name: load_file(directory.weights(name)) for name in directory.weight_names}
    rows = directory.metrics_csv.read_text()
    shutil.rmtree(directory.path)

    class StopError(Exception):
        pass

    from diffusion_lab.models.diffusion import DiffusionModel

    step = DiffusionModel.training_step

    def stopping(self, batch, batch_idx):
        if self.batches_trained == 5:
            raise StopError
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionModel, "training_step", stopping)
        with pytest.raises(StopError):
            lab("train", *options)
    assert not directory.finished
    assert "resuming from" in lab.done("train", *options)
    for name, tensors in whole.items():
        resumed = load_file(directory.weights(name))
        assert all(torch.equal(tensors[key], resumed[key]) for key in tensors), name
    timeless = lambda text: [row.rsplit(",", 1)[0] for row in text.splitlines()]  # noqa: E731 - img/s differs
    assert timeless(directory.metrics_csv.read_text()) == timeless(rows)


def test_pictures_while_training_start_from_the_same_noise(lab):
    options = [o for o in TINY if "sample_grid" not in o]
    lab.given(
        "train", *options, *STRIDED, "callbacks.sample_grid.every_n_steps=1", "callbacks.sample_grid.num_images=4"
    )
    assert [p.name for p in sorted(model_of(lab).samples.glob("[!.]*"))] == ["step_0000001.png", "step_0000002.png"]


def test_one_command_a_process(process):
    done = process("train", *TINY, *STRIDED)
    assert done.returncode == 0, done.stderr
    assert "fd_pixels" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Tip" not in done.stdout + done.stderr


@pytest.mark.parametrize("image_size", [8, 20])
def test_a_folder_of_images_needs_nothing_but_its_root(lab, image_size):
    """At any size, with the network that the data set brings; only the budget is small."""
    for i in range(12):
        Image.effect_noise((30, 24), 60 + i).save(lab.folder / f"{i}.png")
    small = [o for o in TINY if not o.startswith(("network", "features"))]
    options = [
        "data=image_folder",
        "data.root=.",
        f"data.image_size={image_size}",
        "data.num_workers=0",
        "data.test_fraction=0.4",
    ]
    out = lab.done("train", *options, *small, *STRIDED, "network.base_channels=8", "network.head_channels=8")
    assert "fd_pixels" in out
