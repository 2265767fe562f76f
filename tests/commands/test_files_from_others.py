"""A folder from somebody else that is broken or means harm: refused in one sentence, and nothing of it runs.

The tables below list every door that was tried. `pytest -s tests/commands/test_files_from_others.py` prints what was said at each.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from diffusion_lab.config import strangers
from diffusion_lab.config.trained import load_config, settled
from diffusion_lab.store import ModelDirectory, newest_model
from diffusion_lab.store.lease import FILE
from diffusion_lab.store.records import RunError, printable

from ..report.synthetic import write_sweep
from .conftest import STRIDED, TINY, files

HARM = "open('harm', 'w').close()\n"


class Harm:
    """A pickle that makes a file where it is read."""

    def __reduce__(self):
        return (subprocess.call, (["touch", "harm"],))


@pytest.fixture
def stranger(lab, trained_model):
    """A trained model to be tampered with; what it must not touch lies beside it."""
    folder = lab.folder / "stranger"
    shutil.copytree(trained_model("diffusion_conditional"), folder)
    shutil.copytree(trained_model("noisy_classifier"), lab.folder / "classifier")
    (lab.folder / "harmful.py").write_text(HARM)
    (lab.folder / "secret").mkdir()
    for file in (folder / "config.yaml", folder / "choices.json", folder / "training.json", folder / "raw.safetensors"):
        shutil.copy(file, lab.folder / "secret")
    (lab.folder / "secret/sampler.yaml").write_text("_target_: os.mkdir\npath: harm\n")
    for index in range(4):
        Image.new("L", (8, 8), 60 * index).save(lab.folder / f"secret/{index}.png")
    return folder


def edit(folder: Path, key: str, value: object) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, key, value, force_add=True, merge=False)
    OmegaConf.save(config, folder / "config.yaml")


def yaml_line(folder: Path, below: str, line: str) -> None:
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace(f"\n{below}\n", f"\n{below}\n{line}\n", 1))


def config(key: str, value: object):
    return lambda folder: edit(folder, key, value)


def features(node: dict):
    return config("features", {"mine": node})


def measured_with(**options: object):
    return config("evaluation", {"_target_": "diffusion_lab.metrics.settings.Evaluation", **options})


def measured_on_no_image(folder: Path):
    edit(folder, "measured_variance", {"_target_": "diffusion_lab.analysis.Analytic", "_partial_": True})
    edit(folder, "evaluation.statistics_images", 0)


def target(name: str, **arguments: object):
    return config("sampler", {"_target_": name, **arguments})


def written(text: str):
    """Lines that take the place of a group."""

    def write(folder: Path) -> None:
        file = folder / "config.yaml"
        group = text.partition(":")[0]
        kept = OmegaConf.to_container(OmegaConf.load(file))
        kept.pop(group, None)
        file.write_text(f"{OmegaConf.to_yaml(OmegaConf.create(kept))}{text}\n")

    return write


def choice(option: object, group: str = "sampler"):
    def write(folder: Path) -> None:
        file = folder / "choices.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {group: option}))

    return write


def training(**changes: object):
    def write(folder: Path) -> None:
        file = folder / "training.json"
        file.write_text(json.dumps({k: v for k, v in (json.loads(file.read_text()) | changes).items() if v != "gone"}))

    return write


def file(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def weights(content: bytes):
    return file("ema_0.9.safetensors", content)


def link(name: str, to: str):
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return make


def pipe(name: str):
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


def all_weights(number: float, kind: torch.dtype | None = None):
    def write(folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            tensors = load_file(path).items()
            save_file({name: torch.full_like(tensor, number, dtype=kind) for name, tensor in tensors}, path)

    return write


def truncated(folder: Path) -> None:
    weights = folder / "ema_0.9.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def foreign(folder: Path) -> None:
    save_file({"something.else": torch.zeros(3)}, folder / "raw.safetensors")


def guided(tamper=lambda folder: None, classifier: str = "classifier"):
    """A config that names a classifier, whose folder is tampered with."""

    def write(folder: Path) -> None:
        saved = OmegaConf.load(folder / "config.yaml")
        of_model = {"schedule": OmegaConf.to_container(saved.schedule), "identity": saved.facts.identity}
        edit(folder, "guidance", {"_target_": GUIDANCE, "scale": 1.0, "classifier": classifier, **of_model})
        tamper(folder.parent / "classifier")

    return write


GUIDANCE = "diffusion_lab.config.guiding_models.classifier_guidance"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nmodel: {b: [*b,*b,*b]}\ndata: 1\nfacts: 1"
RESOLVED, ELSEWHERE = "only `model` may refer", "is a link to a file"
NO_OPTION, NOT_BUILT, NO_WEIGHTS = "is not an option that a file may set", "is not built", "does not hold the weights"
NO_CHOICE, NO_VALUE, NO_SHAPE = (
    "is not an object of groups and options",
    "is not a string, a finite number",
    "is not that of data",
)
IMAGES = {"_target_": "diffusion_lab.data.image_folder.ImageFolder", "root": "secret", "image_size": 8, "channels": 1}
IMAGES |= {"batch_size": 8, "seed": 1}
POINTS = {"_target_": "diffusion_lab.data.densities.GaussianDensity", "batch_size": 8, "seed": 1, "num_train": 50_000}
CLUSTERS = {"_target_": "diffusion_lab.conditions.Clusters", "num_components": 2, "num_images": 9}
WANDB = {"_target_": "diffusion_lab.training.trackers.WeightsAndBiases", "project": "p", "entity": "e"}
INCEPTION = "diffusion_lab.metrics.features.inception.InceptionFeatures"
CLASSIFIER = {"_target_": "diffusion_lab.metrics.features.classifiers.ClassifierFeatures", "name": "digits_cnn"}


def at(key: str, name: object, **options: object):
    """An object of this class at this place."""
    return config(key, {"_target_": name, **options})


# door -> (how it is opened, what is said): what a config may not hold
CONFIG = {
    # ---- a target that is no part of a model
    "a function of the system": (target("os.system", command="touch harm"), "sampler._target_=os.system is not built"),
    "what our package leads to": (target("diffusion_lab.store.files.os.mkdir", path="harm"), NOT_BUILT),
    "a function of ours": (target("diffusion_lab.store.files.write_whole", path="harm", content="x"), NOT_BUILT),
    "a module in the working folder": (target("harmful.Sampler"), "DIFFUSION_LAB_TARGETS=harmful in the environment"),
    "a target that is not a text": (target(["os.system"]), NOT_BUILT),
    "a target that only a choice of the user reads": (at("theirs", "os.mkdir", path="harm"), NOT_BUILT),
    # ---- a class of a known package in a place that is not its own
    "a Trainer as the sampler": (at("sampler", "lightning.pytorch.Trainer"), "a Sampler belongs here"),
    "features as the network": (at("network", INCEPTION, _partial_=True), "a Module with _partial_ belongs here"),
    "others' features": (
        config("features.mine._target_", "torchmetrics.image.fid.FrechetInceptionDistance"),
        NOT_BUILT,
    ),
    "a metric without a class": (config("metrics", {"mine": {"num_images": 4}}), "metrics.mine is not a Metric"),
    "an option called 1": (lambda f: yaml_line(f, "sampler:", "  1: {a: 2}"), "is not an option that a file may set"),
    "another model that guides": (
        at("model.guidance", "diffusion_lab.config.guiding_models.autoguidance", scale=1.0, model="secret"),
        "model.guidance.model=secret is a path, which a file may not choose",
    ),
    "a function that reads another model": (at("model", "diffusion_lab.config.guiding_models.unguided"), NOT_BUILT),
    "no model": (config("model", {"a": 1}), "model is not a TrainableModel"),
    # ---- what Hydra does beside calling a target
    "_partial_ of an object": (config("sampler._partial_", True), NOT_BUILT),
    "a network without _partial_": (config("network._partial_", False), NOT_BUILT),
    **{key: (config(f"sampler.{key}", "x"), NO_OPTION) for key in ("_args_", "_convert_", "_recursive_")},
    # ---- interpolations
    "oc.create": (config("model.sampler", "${oc.create:{_target_:os.mkdir,path:harm}}"), RESOLVED),
    "an escaped interpolation": (config("model.sampler", "\\${oc.create:{_target_:os.mkdir,path:harm}}"), RESOLVED),
    "the environment": (config("sampler.eta", "${oc.env:HOME}"), RESOLVED),
    "references in a circle": (config("model", {"a": "${model.b}", "b": "${model.a}"}), RESOLVED),
    "a reference to nothing": (config("model.sampler", "${nothing}"), "is not a config"),
    "references that unfold": (
        lambda f: [edit(f, "many", [1] * 2000), edit(f, "model.extra", ["${many}"] * 20)],
        "its references expand to more than 20,000 values",
    ),
    # ---- keys and values that become options
    "a key that is a path of keys": (config("sampler", {"spacing._target_": "os.system"}), NO_OPTION),
    # ---- what is no config
    "a YAML tag that calls": (file("config.yaml", b"model: !!python/object/apply:os.system ['x']"), "is not a config"),
    "aliases that unfold to more than memory": (file("config.yaml", BOMB.encode()), "it has YAML aliases"),
    "a config without end": (lambda f: os.truncate(f / "config.yaml", 2**40), "config.yaml is larger than 0.25 MiB"),
    "a config nested without end": (file("config.yaml", b"[" * 9999), "is not a config"),
    "a config of noise": (file("config.yaml", bytes(range(255))), "config.yaml is not a config"),
    "a config that is a pipe": (pipe("config.yaml"), "is not a model directory"),
    "a number that is not finite": (config("sampler.eta", float("nan")), NO_VALUE),
    "a number that cannot be written": (written(f"more: 0x{'f' * 20_000}"), NO_VALUE),
    # ---- sizes
    "layers without end": (config("network.num_res_blocks", 2**26), "num_res_blocks=67108864 is too large"),
    "steps of a process without end": (config("schedule.num_timesteps", 10**9), "num_timesteps=1000000000 is too"),
    "samples without end": (config("evaluation.num_samples", 10**12), "num_samples=1000000000000 is too large"),
    "samples for weeks": (config("evaluation.num_samples", 9 * 10**7), "evaluation.num_samples=90000000 is too large"),
    "clusters without end": (
        config("condition", {"clusters": CLUSTERS | {"num_clusters": 10**9}}),
        "condition.clusters.num_clusters=1000000000 is",
    ),
    "a condition that is none": (
        config("condition", {"mine": {"_target_": "diffusion_lab.sampling.EvenSpacing", "num_steps": 3}}),
        NOT_BUILT,
    ),
    "workers without end": (config("data", IMAGES | {"num_workers": 400}), "data.num_workers=400 is too large"),
    "images of 10^11 pixels": (config("data", IMAGES | {"image_size": 316228}), "data.image_size=316228 is too large"),
    "dimensions without end": (config("data", POINTS | {"dim": 10**6}), "data.dim=1000000 is too large"),
    "a shape of more than memory": (config("facts.shape", [1, 2**20, 2**20]), NO_SHAPE),
    "negative levels": (config("facts.num_levels", -5), "facts.num_levels=-5 is not a number from 2 to 65,536"),
}
# the same with the command `sample`: the ways that a config takes to the user, and the other files
SAMPLE = {
    **{door: CONFIG[door] for door in ("a function of the system", "samples without end", "a config of noise")},
    "a value with quotes": (config("sampler.spacing.num_steps", "3\" '\\' hydra.run.dir=harm \\"), "num_steps"),
    "statistics of no image": (measured_on_no_image, "evaluation.statistics_images=0 must be at least 1"),
    "a network of more than memory": (config("network.base_channels", 2**12), "many more parameters than stranger/raw"),
    # ---- links that lead out of the folder
    "a link as the config": (link("config.yaml", "../secret/config.yaml"), ELSEWHERE),
    "a link as the weights": (link("raw.safetensors", "../secret/raw.safetensors"), ELSEWHERE),
    # ---- weights
    "weights that are a pickle": (weights(pickle.dumps(Harm())), NO_WEIGHTS),
    "truncated weights": (truncated, NO_WEIGHTS),
    "weights of another model": (foreign, NO_WEIGHTS),
    "weights that are no numbers": (all_weights(float("nan")), "are not finite"),
    "weights of whole numbers": (all_weights(1, torch.int32), "torch.int32"),
    "weights that are a pipe": (pipe("raw.safetensors"), "raw.safetensors is missing"),
    "no weights": (lambda f: [w.unlink() for w in f.glob("*.safetensors")], "holds no weights"),
    # ---- training.json
    "training.json with a word for a number": (training(steps="many"), "steps='many' is not a whole number"),
    "training.json with a share below zero": (
        training(conditions={"clusters": {"shares": [1.5, -0.5]}}),
        "is not a list of shares that sum to 1",
    ),
    "training.json with a scale of zero": (
        training(conditions={"vector": {"shift": [0.0], "scale": [0.0]}}),
        "is not an object whose shift and scale",
    ),
    "training.json with a shift without scale": (
        training(conditions={"vector": {"shift": [0.0]}}),
        "is not an object whose shift and scale",
    ),
    "training.json with a list of conditions": (training(conditions=[]), "conditions=[] is not an object"),
    "training.json that is nested without end": (
        file("training.json", b'{"a":' * 5000 + b"1" + b"}" * 5000),
        "training.json is ",
    ),
    # ---- the folder of the classifier that guides
    "a classifier whose config runs": (
        guided(config("schedule", {"_target_": "os.mkdir", "path": "harm"})),
        "schedule._target_=os.mkdir is not built",
    ),
    "a model that guides itself": (guided(classifier="stranger"), "not a noisy classifier"),
}
CHOICES = {
    "a choice outside conf": (choice("../../secret/sampler"), NO_CHOICE),
    "a choice that is a list": (choice(["ddpm", "ddim"]), NO_CHOICE),
    "choices that are no object": (file("choices.json", b"[]"), "does not hold a JSON object"),
    "a link as the choices": (link("choices.json", "../secret/choices.json"), ELSEWHERE),
}
# the same with `evaluate`, which reads the data
EVALUATE = {
    "another class that measures a variance": (
        at("measured_variance", "diffusion_lab.sampling.EvenSpacing", _partial_=True),
        NOT_BUILT,
    ),
    "our data set that downloads": (
        at("data", "diffusion_lab.data.mnist.MNIST", root="harm", download=True, batch_size=8, seed=1),
        "data.download=true",
    ),
    "images of the user": (config("data", IMAGES), "data.root=secret: the model was trained on different data"),
    "features with a path for a name": (features(CLASSIFIER | {"name": "../../secret/x"}), "features '../../secret/x'"),
    "a value that steers the terminal": (measured_with(seed="1\n\x1b]0;x\x07"), "seed=1 \ufffd]0;x\ufffd: this option"),
    "weights with a path for a name": (config("evaluation.weights", "../secret/raw"), "../secret/raw: choose one of"),
}


@pytest.mark.parametrize("door", CONFIG, ids=lambda text: text.replace(" ", "-"))
def test_a_config_is_refused_in_one_sentence(stranger, monkeypatch, door):
    """When it is read, or when something of it is about to be built."""
    monkeypatch.setattr(strangers, "_memory_here", lambda: 2**34)
    tamper, expected = CONFIG[door]
    tamper(stranger)
    before = files(stranger.parent)
    directory = ModelDirectory(Path("stranger"))
    with pytest.raises(RunError) as refused:
        settled(load_config(directory), directory)
    print(f"{door:48} -> {refused.value}")
    assert expected in str(refused.value)
    assert "stranger" in str(refused.value)
    assert printable(str(refused.value)) == str(refused.value)
    assert files(stranger.parent) == before


@pytest.mark.parametrize(
    ("command", "door"),
    [*(("sample", door) for door in SAMPLE), *(("evaluate", door) for door in EVALUATE)],
    ids=lambda text: text.replace(" ", "-"),
)
def test_a_model_directory_is_refused_in_one_sentence(lab, stranger, monkeypatch, command, door):
    monkeypatch.setattr(strangers, "_memory_here", lambda: 2**34)
    tamper, expected = {"sample": SAMPLE, "evaluate": EVALUATE}[command][door]
    tamper(stranger)
    lab.refused(command, "model_dir=stranger", said=expected)  # and nothing is written: no harm


@pytest.mark.parametrize("door", CHOICES, ids=lambda text: text.replace(" ", "-"))
def test_choices_are_refused_in_one_sentence(stranger, door):
    tamper, expected = CHOICES[door]
    tamper(stranger)
    with pytest.raises(RunError, match=expected):
        ModelDirectory(Path("stranger")).read_choices()


def test_a_file_composes_nothing(lab, stranger):
    """A list of defaults in it, which would be one of Hydra's, is left out."""
    edit(stranger, "sampler.defaults", ["/optimizer@harm: adamw", "/harm"])
    assert "harm" not in lab.done("sample", "model_dir=stranger", "num_images=2", "--cfg", "job")


def test_addresses_are_refused(lab):
    lab.refused("evaluate", "model_dir=https://somewhere.org/model", said="is not a model directory")


def test_the_environment_allows_more(lab, stranger, monkeypatch):
    (lab.folder / "mine.py").write_text(
        "from diffusion_lab.sampling import AncestralSampler\nclass Mine(AncestralSampler): ...\n"
        "def make(spacing): return Mine(spacing)\n"
    )
    monkeypatch.syspath_prepend(lab.folder)
    monkeypatch.setenv("DIFFUSION_LAB_TARGETS", "other, mine")
    for name in ("mine.Mine", "mine.make"):
        edit(stranger, "sampler._target_", name)
        lab.done("sample", "model_dir=stranger", "num_images=2")
    edit(stranger, "sampler.spacing", {"_target_": "os.mkdir", "path": "harm"})
    assert "sampler.spacing._target_=os.mkdir is not built" in lab("sample", "model_dir=stranger")[2]
    edit(stranger, "sampler", {"_target_": "mine.shutil.rmtree", "path": "secret"})
    assert "sampler._target_=mine.shutil.rmtree is not built" in lab("sample", "model_dir=stranger")[2]


def test_the_command_line_may_name_what_the_file_may_not(lab, stranger, monkeypatch):
    (lab.folder / "given.py").write_text(
        "from diffusion_lab.sampling import AncestralSampler\nclass Theirs(AncestralSampler): ...\n"
    )
    monkeypatch.syspath_prepend(lab.folder)
    monkeypatch.setenv("STEPS", "3")
    steps = "sampler.spacing.num_steps='${oc.decode:${oc.env:STEPS}}'"
    lab.done("sample", "model_dir=stranger", "sampler._target_=given.Theirs", steps, "num_images=2")


def test_the_users_own_numbers_are_not_bounded(lab, stranger):
    """What a file asks for is refused, and the option that the user sets instead is taken."""
    edit(stranger, "sampler.spacing.num_steps", 10**8)
    lab.done("sample", "model_dir=stranger", "sampler.spacing.num_steps=3", "num_images=2")
    many = "sampler.spacing.num_steps=200000000"
    lab.refused("sample", "model_dir=stranger", many, "num_images=2", said="must lie in 1 … 24")


def test_a_file_decides_neither_where_a_score_is_sent_nor_what_is_fetched(lab, stranger, monkeypatch):
    """It may name a tracker, a folder and a download: the score is made, and nothing of that happens."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    edit(stranger, "logger", WANDB)
    edit(stranger, "trainer", {"_target_": "os.mkdir", "path": "harm"})  # trains nothing, so it is never built
    edit(stranger, "outputs", "harm")
    lab.done("evaluate", "model_dir=stranger")
    assert not list(lab.folder.rglob("wandb*"))
    assert not (lab.folder / "harm").exists()


def test_a_file_does_not_choose_the_weights_of_inception(lab, stranger, tmp_path):
    """The path is left out, so what is asked for is the published file in its own place; the user may name another."""
    wanted = {"_target_": INCEPTION, "path": "secret/raw.safetensors", "download": True}
    edit(stranger, "features", {"inception": wanted})
    err = lab.refused("evaluate", "model_dir=stranger", said="features=inception needs the file")
    assert "secret" not in err
    assert (
        "secret/config.yaml is not"
        in lab("evaluate", "model_dir=stranger", "features.inception.path=secret/config.yaml")[2]
    )


def test_a_score_that_is_not_finite_is_one_sentence(lab, stranger):
    all_weights(3e38)(stranger)
    code, _, err = lab("evaluate", "model_dir=stranger")
    assert (code, err.count("\n")) == (1, 1), err
    assert "stranger cannot be scored, because" in err
    assert not list(lab.folder.rglob("samples.png"))


def test_what_the_environment_said_in_training_is_said_in_the_file(lab, monkeypatch):
    """The user's own interpolations are resolved when a model is trained: it loads in another environment, and in no other way."""
    monkeypatch.setenv("EMBEDDED", "0.125")
    lab.given("train", *TINY, *STRIDED, "score=false", "model.condition_dropout='${oc.decode:${oc.env:EMBEDDED}}'")
    monkeypatch.delenv("EMBEDDED")
    config = OmegaConf.to_container(OmegaConf.load(newest_model(lab.folder / "outputs").config), resolve=False)
    assert config["model"]["condition_dropout"] == 0.125
    assert config["model"]["network"] == "${network}"
    lab.done("sample", "num_images=2")


# ---- runs and sweeps: report, status

RUN, MODEL = "digits-diffusion-cosinelearned1-learned", "digits-diffusion-cosinelearned1"


@pytest.fixture
def theirs(lab):
    """The outputs of somebody else: a sweep of two cells. What they must not touch lies beside them."""
    folder = lab.folder / "theirs"
    write_sweep(folder, axes={"schedule": ["linear", "cosine"], "variance": ["learned"]})
    (lab.folder / "secret").mkdir()
    for part in ("metrics.json", "samples.png", "config.yaml"):
        shutil.copy(folder / "runs" / RUN / part, lab.folder / "secret")
    return folder


def changed(name: str, *keys: object, to: object):
    """One value of a JSON file; `to` is given what was there when it is a function."""

    def write(folder: Path) -> None:
        (path,) = folder.rglob(name)
        content = node = json.loads(path.read_text())
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to
        path.write_text(json.dumps(content))

    return write


def sweep_json(*keys: object, to: object):
    return changed("sweep.json", *keys, to=to)


def metrics(*keys: object, to: object):
    return changed(f"runs/{RUN}/metrics.json", *keys, to=to)


NOT_A_FOLDER, NOT_A_SWEEP = "is not the name of a folder", "is not what a sweep writes"
SWEEP = {
    "a run by a path": (sweep_json("cells", 0, "run", to="../../secret"), NOT_A_FOLDER),
    "axes that are none": (sweep_json("axes", to=[1]), NOT_A_SWEEP),
    "a choice of no axis": (sweep_json("cells", 0, "choices", to={"schedule": "linear"}), NOT_A_SWEEP),
    "a choice that is not on its axis": (sweep_json("cells", 0, "choices", "schedule", to="x"), NOT_A_SWEEP),
    "cells that are none": (sweep_json("cells", to={"a": 1}), NOT_A_SWEEP),
    "sweep.json as a link": (
        lambda f: [f.joinpath("sweeps/test/sweep.json").rename(f / "x"), link("sweeps/test/sweep.json", "../../x")(f)],
        ELSEWHERE,
    ),
}
SCORE = {
    "a word for a number": (metrics("values", "nfe", to="many"), "values.nfe='many' is not a number"),
    "a value whose name is a path": (metrics("values", "fd_/../../../harm", to=1.0), "1,000 values by their names"),
    "a part of the protocol that is text": (metrics("protocol", "data", to="x"), "protocol.data='x' is not an object"),
    "a shape of nothing": (
        metrics("protocol", "data", "shape", to=[1, 0, 0]),
        "protocol.data.shape=[1, 0, 0] is not that of data",
    ),
    "the model of a run by a path": (metrics("protocol", "model_directory", to="../../secret"), NOT_A_FOLDER),
    "a curve of several lengths": (metrics("curves", "bits_per_dim", "t", to=[1.0]), "lists of several lengths"),
    "a run as a link": (lambda f: [shutil.rmtree(f / "runs" / RUN), link(f"runs/{RUN}", "../../secret")(f)], ELSEWHERE),
}


@pytest.mark.parametrize(
    ("options", "door"),
    [
        *((("report", "theirs/sweeps/test"), door) for door in SWEEP),
        *((("status", "theirs/sweeps/test"), door) for door in list(SWEEP)[:1]),
        *((("report", f"runs=theirs/runs/{RUN}"), door) for door in SCORE),
    ],
    ids=lambda part: part.replace(" ", "-") if isinstance(part, str) else part[0],
)
def test_a_run_or_a_sweep_is_refused_in_one_sentence(lab, theirs, options, door):
    tamper, expected = (SWEEP | SCORE)[door] if "runs=" not in options[1] else SCORE[door]
    tamper(theirs)
    lab.refused(*options, said=expected)


MARKUP = "</script><img src=x onerror=alert(1)>"
STEERING = "\x1b]0;x\x07\nnext\u202e\ud800"


def test_what_a_report_is_made_of_is_shown_and_does_nothing(lab, theirs, monkeypatch):
    """Markup, control characters, a picture that is a program, links, names of columns that are paths, a status of nonsense."""
    sweep_json("name", to=MARKUP + STEERING)(theirs)
    sweep_json("cells", 0, "choices", "schedule", to=MARKUP + STEERING)(theirs)
    sweep_json("axes", "schedule", to=[MARKUP + STEERING, "cosine"])(theirs)
    metrics("protocol", "data", "name", to="x\n\\input{|touch harm}" + STEERING)(theirs)
    (first,) = (path for path in (theirs / "runs").iterdir() if path.name != RUN)
    monkeypatch.setenv("PATH", str(lab.folder), prepend=os.pathsep)
    (lab.folder / "gs").write_text("#!/bin/sh\ntouch harm\n")  # what Pillow starts for PostScript
    (lab.folder / "gs").chmod(0o755)
    (first / "samples.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    link("samples.png", "../../../secret/samples.png")(theirs / "runs" / RUN)
    sweep_json("cells", 1, "choices", "schedule", to="=1+$\\frac{x$")(theirs)
    sweep_json("axes", "schedule", to=[MARKUP + STEERING, "=1+$\\frac{x$"])(theirs)
    log = theirs / "models" / MODEL / "metrics.csv"
    log.write_text("step,train/../../../harm,train/mse\n1,1.0,1.0\n2,1.0,inf\n3,1.0,0.5\n")
    out = lab.done("report", "theirs/sweeps/test", "to=page")
    page, tex = ((lab.folder / "page" / name).read_text() for name in ("report.html", "table.tex"))
    assert "<img src=x" not in page
    assert '"src":"data:image' not in page  # neither picture
    assert all(line.startswith("%") for line in tex.splitlines() if "input" in line)
    assert not {"\x1b", "\x07", "\u202e"} & set(out + page + tex)
    formulas = [text for file in (lab.folder / "page").glob("*.csv") for text in re.split("[,\n]", file.read_text())]
    assert any("=1+" in text for text in formulas)
    assert not any(text.strip('"').startswith("=") for text in formulas)
    assert not list(lab.folder.rglob("*harm*"))

    run = theirs / "runs" / RUN
    (run / "metrics.json").unlink()
    for status in ({"state": "running", "step": "x", "steps": [], "started": "y"}, {"state": STEERING}, [1]):
        (run / "status.json").write_text(json.dumps(status))
        assert "\x1b" not in lab.done("status", "theirs/sweeps/test", "watch=false")


def test_a_report_waits_for_no_pipe(lab, theirs):
    for path in (theirs / "runs" / RUN / "samples.png", theirs / "models" / MODEL / "metrics.csv"):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    os.mkfifo(theirs / "models" / MODEL / FILE)
    assert lab("report", "theirs/sweeps/test", "to=page")[0] == 0
    assert lab("status", "theirs/sweeps/test", "watch=false")[0] == 0


def test_a_config_of_a_run_is_read_as_text(lab, theirs):
    """It only says which options differ: aliases, tags and links make its choices unknown."""
    other = next(path for path in (theirs / "runs").iterdir() if path.name != RUN)
    for content in (BOMB, "a: !!python/object/apply:os.system ['touch harm']"):
        (theirs / "runs" / RUN / "config.yaml").write_text(content)
        link("config.yaml", "../../../secret/config.yaml")(other)
        out = lab.done("report", "runs=theirs/runs/*", "to=page")
        assert out.count("so the run's choices are unknown") == 2
        assert not (lab.folder / "harm").exists()


@pytest.mark.parametrize("written", ["../../x", "a\nb", "", "x" * 65, "a b"])
def test_the_id_of_a_run_at_wandb_is_an_id(tmp_path, written):
    from diffusion_lab.training.trackers import read_id

    (tmp_path / "wandb_id").write_text(written)
    with pytest.raises(ValueError, match="does not contain a run id"):
        read_id(tmp_path / "wandb_id")


# ---- a training that goes on


@pytest.mark.parametrize("harm", ["pickle", "another training"])
def test_a_bad_checkpoint_is_named_and_training_begins_anew(lab, harm):
    """It is refused and nothing runs; there is no older one here to fall back to."""
    options = [*TINY, *STRIDED, "score=false", "callbacks.checkpoint.every_n_steps=1"]
    lab.given("train", *options)
    directory = newest_model(lab.folder / "outputs")
    before = load_file(directory.weights("raw"))
    directory.training.unlink()  # as if it had been killed
    torch.save({"fingerprint": Harm() if harm == "pickle" else "another"}, directory.resume)
    out = lab.done("train", *options)
    assert "resume.ckpt" in out
    assert "skipping it" in out
    assert not (lab.folder / "harm").exists()
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(directory.weights("raw")).items())


def test_a_config_changed_under_a_training_is_written_again(lab):
    options = [*TINY, *STRIDED, "score=false"]
    lab.given("train", *options)
    directory = newest_model(lab.folder / "outputs")
    directory.training.unlink()
    before = directory.config.read_text()
    edit(directory.path, "optimizer.lr", 0.5)
    edited = directory.config.read_text()
    lab.done("train", *options)
    assert directory.config.read_text() == before
    assert edited in [file.read_text() for file in directory.path.glob("yours*")], "what the user changed is kept"
