"""train: one command is a whole experiment, on any data, and the same again does nothing."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
import torch.multiprocessing
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from diffusion_lab.conf_dir import CONF
from diffusion_lab.data.image_folder import ImageFolder
from diffusion_lab.store import ModelDirectory, newest_model
from diffusion_lab.training import devices, sample_grid
from diffusion_lab.versions import versions
from tests.data.small_sets import SMALL as SMALL_SETS
from tests.data.small_sets import write_images

from .cluster import assert_same_weights
from .conftest import NARROW, STRIDED, TINY, files, scored
from .test_families import SMALL, tiny


def model_of(lab):
    return newest_model(lab.folder / "outputs")


def test_one_command_trains_samples_scores_and_says_where(lab):
    out = lab.done("train", *TINY, *STRIDED)
    directory = model_of(lab)
    (run,) = (lab.folder / "outputs" / "runs").iterdir()
    for words in ("fd_pixels", "bits/dim", *(str(path.relative_to(lab.folder)) for path in (directory.path, run))):
        assert words in out
    assert "schedule=cosine prediction=velocity timesteps=stratified objective=hybrid variance=learned" in out
    assert set(directory.weight_names) == {"raw", "ema_0.999", "ema_0.9999", "at_0.1", "at_0.2", "at_0.4"}
    assert directory.config.is_file()
    assert directory.read_training()["versions"] == versions()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["protocol"]["versions"] == versions()
    assert metrics["values"]["nfe"] == 3
    assert metrics["values"]["training_images"] == 16
    assert metrics["protocol"]["weights"] == "ema_0.999"
    assert metrics["protocol"]["data"]["identity"]
    assert metrics["protocol"]["samples"]["num_levels"] == 17
    assert len(metrics["curves"]["bits_per_dim"]["t"]) == 12
    assert (run / "samples.png").is_file()

    with directory.metrics_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    for column in ("loss", "mse", "vlb", "grad_norm", "lr", "images_per_second", "loss_quarter_1", "loss_quarter_4"):
        assert float(rows[-1][f"train/{column}"]) >= 0


def test_the_same_command_trains_once(lab):
    lab.given("train", *TINY, *STRIDED)
    before = {name: (lab.folder / name).read_bytes() for name in files(lab.folder)}
    os.utime(newest_model(lab.folder / "outputs").training, (0, 0))
    out = lab.done("train", *TINY, *STRIDED)
    assert newest_model(lab.folder / "outputs").training.stat().st_mtime > 0  # found last: now the newest
    assert "this model is already trained" in out
    assert "already scored" in out
    assert "fd_pixels" in out
    assert {name: (lab.folder / name).read_bytes() for name in files(lab.folder)} == before


def test_a_training_goes_on_under_another_variance(lab):
    """A training begun with one fixed variance goes on under the other. Unscored, its last line names its folder."""
    lab.given("train", *TINY, *STRIDED, "variance=fixed_small", "score=false")
    model_of(lab).training.unlink()  # as if it had been killed
    out = lab.done("train", *TINY, *STRIDED, "variance=fixed_large", "score=false")
    assert f"model  {model_of(lab).path.relative_to(lab.folder)}" in out.splitlines()[-1]
    assert len(list((lab.folder / "outputs" / "models").iterdir())) == 1


def test_early_pictures_come_ever_less_often(lab, monkeypatch):
    """After 1, 3, 9 minutes and then every N steps; the weights are those of a training without pictures."""
    monkeypatch.setattr(sample_grid, "seconds_trained", lambda trainer: 60.0 * trainer.global_step)
    options = [o for o in TINY if "sample_grid" not in o and "max_steps" not in o]
    options += [*STRIDED, "trainer.max_steps=13", "score=false", "callbacks.sample_grid.num_images=2"]
    lab.done("train", *options, "callbacks.sample_grid.every_n_steps=12")
    lab.done("train", *options, "callbacks.sample_grid.every_n_steps=0", "outputs=without")
    pictures, none = model_of(lab), newest_model(lab.folder / "without")
    assert [grid.name for grid in pictures.grids] == [f"step_{step:07}.png" for step in (1, 3, 9, 12)]
    assert none.grids == []
    assert_same_weights(pictures, none)


def test_a_folder_of_images_needs_nothing_but_its_root(lab):
    """At any size, with the network that the data set brings; only the budget is small."""
    for i in range(12):
        Image.effect_noise((30, 24), 60 + i).save(lab.folder / f"{i}.png")
    small = [o for o in TINY if not o.startswith(("network", "features"))]
    options = ["data=image_folder", "data.root=.", "data.image_size=20", "data.num_workers=0"]
    options += ["data.test_fraction=0.4"]
    options += ["trainer.peak_flops=1e9"]  # as if of a GPU
    out = lab.done("train", *options, *small, *STRIDED, "network.base_channels=8", "network.head_channels=8")
    assert "fd_pixels" in out
    (log,) = lab.folder.glob("outputs/models/*/metrics.csv")
    assert "train/mfu" in log.read_text()


# ---- trainer.precision=auto follows the machine ----


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_is_what_the_device_computes_in_hardware(monkeypatch, bf16):
    import torch

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    for on_gpu in (False, True):
        assert devices.auto_precision(on_gpu) == ("bf16-mixed" if bf16 else "32-true")


# ---- training keeps the weights of a few earlier moments, and they can be sampled and scored ----


SIX = [*TINY, *STRIDED, "trainer.max_steps=6"]


def moments(directory: ModelDirectory) -> dict[str, int]:
    """name -> step."""
    found = {}
    for name in directory.weight_names:
        if name.startswith("at_"):
            with safe_open(directory.weights(name), "pt") as file:
                found[name] = int(file.metadata()["step"])
    return found


def test_a_training_keeps_three_moments_which_are_scored_and_sampled(lab):
    lab.given("train", *SIX)
    directory = model_of(lab)
    assert moments(directory) == {"at_0.1": 1, "at_0.2": 2, "at_0.4": 3}
    lab.done("evaluate", "evaluation.weights=at_0.2")
    by_weights = {run["protocol"]["weights"]: run["values"]["bits_per_dim"] for run in scored(lab.folder)}
    assert by_weights.keys() == {"ema_0.999", "at_0.2"}
    assert by_weights["ema_0.999"] != by_weights["at_0.2"]
    assert "(at_0.1)" in lab.done("sample", "num_images=2", "weights=at_0.1", *STRIDED)


def test_which_moments_are_kept_is_no_part_of_the_training(lab):
    lab.given("train", *SIX)
    directory, before = model_of(lab), files(lab.folder)
    final = load_file(directory.weights("raw"))
    assert "this model is already trained" in lab.done("train", *SIX, "snapshots.at=[0.5]")
    assert files(lab.folder) == before
    (directory.path / "at_home.safetensors").write_bytes(b"mine")
    lab.done("train", *SIX, "snapshots.at=[0.5]", "retrain=true")
    assert moments(directory) == {"at_0.5": 3}, "those of the old training are gone"
    (mine,) = (lab.folder / "outputs" / "trash").rglob("at_home.safetensors")  # with the old model
    assert mine.read_bytes() == b"mine"
    again = load_file(directory.weights("raw"))
    assert all(torch.equal(final[key], again[key]) for key in final)


def test_a_moment_that_is_not_kept_is_named_with_the_fix(lab):
    lab.refused("train", *SIX, "evaluation.weights=at_0.3", said=("will have no weights at_0.3", "snapshots.at"))
    lab.given("train", *SIX)
    lab.refused("sample", "weights=at_0.3", said=("has no weights at_0.3", "at_0.2", "snapshots.at"))


# ---- init_from: training starts from the weights of another model, which are known by their content ----


STILL = ["optimizer=adamw", "optimizer.lr=1e-300", "trainer.max_steps=1", "val.every_n_steps=0", "score=false"]


def models(lab) -> set:
    return {path.name for path in (lab.folder / "outputs" / "models").iterdir()}


@pytest.mark.parametrize(
    "family",
    ["gan", *(pytest.param(family, marks=pytest.mark.thorough) for family in ("diffusion", "flow"))],
)
def test_the_weights_are_those_of_the_other_model(lab, family):
    lab.given("train", *tiny(family, "score=false"))
    source = newest_model(lab.folder / "outputs")
    out = lab.done("train", *tiny(family), *STILL, f"init_from={source.path}")
    assert f"starting from the weights raw of {source.path}" in out
    new = newest_model(lab.folder / "outputs")
    assert new.path != source.path
    there, here = load_file(source.weights("raw")), load_file(new.weights("raw"))
    assert there.keys() == here.keys()
    for key, weights in there.items():
        torch.testing.assert_close(here[key], weights, rtol=0, atol=0)
    assert set(new.weight_names) == set(source.weight_names)


def test_they_count_by_their_content_and_may_be_an_average(lab):
    lab.given("train", *tiny("diffusion", "score=false"))
    source = newest_model(lab.folder / "outputs")
    plain = models(lab)
    assert lab("train", *tiny("diffusion"), *STILL)[0] == 0
    assert lab("train", *tiny("diffusion"), *STILL, f"init_from={source.path}")[0] == 0
    assert len(models(lab) - plain) == 2
    lab.done("train", *tiny("diffusion"), *STILL, f"init_from={source.path}", "init_weights=ema_0.999")
    new, average = newest_model(lab.folder / "outputs"), load_file(source.weights("ema_0.999"))
    assert len(models(lab) - plain) == 3
    for key, weights in average.items():
        assert torch.equal(load_file(new.weights("raw"))[key], weights)

    shutil.move(source.path, lab.folder / "elsewhere")
    before = models(lab)
    assert "this model is already trained" in lab.done("train", *tiny("diffusion"), *STILL, "init_from=elsewhere")
    assert models(lab) == before


def test_a_model_of_another_network_is_one_sentence(lab):
    lab.given("train", *tiny("diffusion", "score=false"))
    source = newest_model(lab.folder / "outputs")
    for options, said in (
        (
            [*tiny("diffusion", "score=false"), "network.base_channels=16"],
            "(32,) in the file and (64,) in this model; the options of its network are in",
        ),
        (tiny("vae", "score=false"), "is missing in the file and "),
        ([*tiny("diffusion", "score=false"), "init_weights=ema_0.5"], "init_weights=ema_0.5"),
        ([*tiny("diffusion", "score=false"), "init_from=nowhere"], "init_from=nowhere does not exist"),
    ):
        lab.refused("train", f"init_from={source.path}", *options, said=said)


# ---- a file that breaks while a model trains on it ends the run: one sentence, a code, and no process left behind ----


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_breaks_while_training_is_named(lab, monkeypatch, num_workers):
    root = write_images(lab.folder / "own")
    load = ImageFolder._load

    def load_then_break(self):
        load(self)
        for path in root.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:60])

    monkeypatch.setattr(ImageFolder, "_load", load_then_break)
    own = ["data=image_folder", f"data.root={root}", "data.image_size=8", f"data.num_workers={num_workers}"]
    code, _, err = lab("train", *TINY, *STRIDED, *own, "trainer.max_steps=1000")
    assert code == 1
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("diffusion-lab train: ")
    assert ".png is not an image that can be read" in err
    assert torch.multiprocessing.active_children() == []


# ---- images of any channels, height, width and number of levels, through the commands: trained, drawn, scored, looked at ----


ARRAYS = ["data=arrays", "data.train=train.npz", "condition=classes"]


@pytest.mark.thorough
def test_sixteen_bit_images_of_two_channels(lab):
    """Oblong ones, trained, drawn and scored."""
    images, labels = np.random.default_rng(0).integers(2**14, size=(40, 8, 10, 2)), np.arange(40) % 2
    images += 2**15 * labels[:, None, None, None]
    np.savez(lab.folder / "train.npz", images=images.astype(np.uint16), labels=labels)
    lab.done("train", *ARRAYS, *TINY, *STRIDED)
    (run,) = (lab.folder / "outputs" / "runs").iterdir()
    content = json.loads((run / "metrics.json").read_text())
    assert content["protocol"]["data"]["shape"] == [2, 8, 10]
    assert content["protocol"]["samples"]["num_levels"] == 65536
    assert {"fd_pixels", "bits_per_dim", "sliced_wasserstein"} <= content["values"].keys()
    assert content["values"]["bits_per_dim"] > 8  # an 8-bit image would need less

    lab.done("sample", "num_images=5", "format=npz")
    with np.load(lab.folder / "samples" / "samples.npz") as drawn:
        assert (drawn["arr_0"].dtype, drawn["arr_0"].shape) == (np.uint16, (5, 8, 10, 2))
    lab.done("evaluate", "samples=samples/samples.npz", *ARRAYS[:2], "features=pixels", "metrics=[frechet_distance]")

    lab.refused("sample", "num_images=2", "format=png", said="the samples have 2 channels of 65536 levels")
    lab.refused(
        "sample", "inpaint.image=train.png", "inpaint.mask=mask.png", said="draws no images that a file can hold"
    )
    lab.done("sample", "num_images=2", "interpolate.images=[0,1]", "trajectory=false")


def test_sixteen_bit_grey_files_stay_so(lab):
    random = np.random.default_rng(0)
    (lab.folder / "own").mkdir()
    for i in range(12):
        Image.fromarray(random.integers(65536, size=(8, 12), dtype=np.uint16)).save(lab.folder / "own" / f"{i}.png")
    own = ["data=image_folder", "data.root=own", "data.image_size=[8,12]", "data.channels=1", "data.num_levels=65536"]
    lab.done("train", *own, *TINY, *STRIDED, "data.num_workers=0", "score=false")
    lab.done("sample", "num_images=2", "format=png")
    with Image.open(lab.folder / "samples" / "000000.png") as picture:
        assert (picture.mode, picture.size) == ("I;16", (12, 8))


# ---- debug=…: each says something, and its models are never found as real ones ----


SAYS = {"default": "Params", "fdr": "1 step", "overfit": ": 16 training", "limit": ": 72 training images"}
SAYS |= {"profiler": "run_training_batch"}


@pytest.mark.parametrize(
    "choice", ["fdr", *(pytest.param(choice, marks=pytest.mark.thorough) for choice in SAYS if choice != "fdr")]
)
def test_debug_is_short_and_apart(lab, choice):
    steps = [] if choice in ("default", "fdr") else ["trainer.max_steps=2"]  # those train their own few
    out = lab.done("train", "model=gan", f"debug={choice}", *SMALL["gan"], *steps, "data.batch_size=8")
    assert SAYS[choice] in out
    assert newest_model(lab.folder / "outputs" / "debug").read_choices()["debug"] == choice
    assert [path.name for path in (lab.folder / "outputs").iterdir()] == ["debug"]
    assert lab("evaluate")[0] == 1


# ---- every experiment composes, is built and trains two steps, on data in their true format that are small enough ----


EXPERIMENTS = [
    pytest.param(path.stem, marks=pytest.mark.thorough) for path in sorted((CONF / "experiment").glob("*.yaml"))
]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_two_steps(lab, monkeypatch, name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = compose("train", overrides=[f"experiment={name}"], return_hydra_config=True).hydra.runtime.choices
    options = [*TINY, "schedule.num_timesteps=24", "score=false", "compile=false"]
    if chosen.network in ("diffusion/dit", "diffusion/jit"):
        options = [*NARROW, *(option for option in options if not option.startswith("network."))]
    if write := SMALL_SETS.get(chosen.data):
        options.append(f"data.root={write(lab.folder / 'data', monkeypatch)}")
    if chosen.sampler != "ddpm":
        options.append("sampler.spacing.num_steps=3")
    if chosen.data in ("gaussian_field", "series", "volume"):  # drawn, not read
        options += ["data.num_train=60", "data.num_test=20"]
    if "clusters" in str(chosen.condition):
        options.append(f"condition.{chosen.condition}.num_clusters=3")
    lab.done("train", f"experiment={name}", *options)
    (model,) = (lab.folder / "outputs" / "models").iterdir()
    assert model.name.startswith(f"{chosen.data}-diffusion-")
    assert json.loads((model / "training.json").read_text())["steps"] == 2


def test_another_choice_than_the_experiments_leaves(lab):
    """It leaves the experiment's options for its own choice behind."""
    options = [*TINY, "score=false", "experiment=edm_digits"]
    out = lab.done("train", *options, "sampler/spacing=all")
    assert "ignoring sampler.spacing.num_steps: experiment=edm_digits sets it for a different choice" in out
    lab.refused(
        "train",
        *options,
        "sampler/spacing=all",
        "sampler.spacing.num_steps=3",
        said="it is one of sampler/spacing=even",
    )
    sweep = ["sampler/spacing=all,karras", "hydra.sweeper.dry_run=true"]
    assert "3 cells" in " ".join(lab.done("train", "-m", *options, *sweep, "sampler.spacing.num_steps=3,4").split())
