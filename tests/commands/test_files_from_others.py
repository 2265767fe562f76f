"""A folder from somebody else that is broken or means harm: refused in one sentence, and nothing of it runs.

`pytest -s tests/commands/test_files_from_others.py` prints what was said at each of the doors below.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from diffusion_lab.config.untrusted import leave_out, load_config, settled
from diffusion_lab.store import ModelDirectory, newest_model
from diffusion_lab.store.records import RunError, printable

from ..report.synthetic import write_sweep
from ..report.test_read import changed
from .cluster import assert_same_weights
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
    for name in ("config.yaml", "choices.json", "raw.safetensors"):
        shutil.copy(folder / name, lab.folder / "secret")
    (lab.folder / "secret/sampler.yaml").write_text("_target_: os.mkdir\npath: harm\n")
    for index in range(4):
        Image.new("L", (8, 8), 60 * index).save(lab.folder / f"secret/{index}.png")
    return folder


def edit(folder: Path, key: str, value: object) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, key, value, force_add=True, merge=False)
    OmegaConf.save(config, folder / "config.yaml")


def config(key: str, value: object):
    return lambda folder: edit(folder, key, value)


def file(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def link(name: str, to: str):
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return make


def foreign(folder: Path) -> None:
    save_file({"something.else": torch.zeros(3)}, folder / "raw.safetensors")


def guided(folder: Path) -> None:
    """By a classifier whose config runs."""
    saved = OmegaConf.load(folder / "config.yaml")
    of_model = {"schedule": OmegaConf.to_container(saved.schedule), "identity": saved.facts.identity}
    edit(folder, "guidance", {"_target_": GUIDANCE, "scale": 1.0, "classifier": "classifier", **of_model})
    edit(folder.parent / "classifier", "schedule", {"_target_": "os.mkdir", "path": "harm"})


GUIDANCE = "diffusion_lab.config.guiding_models.classifier_guidance"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nmodel: {b: [*b,*b,*b]}\ndata: 1\nfacts: 1"
RESOLVED, ELSEWHERE = "only `model` may refer", "is a link to a file"
NO_OPTION, NOT_BUILT = "is not an option that a file may set", "is not built"
IMAGES = {"_target_": "diffusion_lab.data.image_folder.ImageFolder", "root": "secret", "image_size": 8, "channels": 1}
IMAGES |= {"batch_size": 8, "seed": 1}
WANDB = {"_target_": "diffusion_lab.training.trackers.WeightsAndBiases", "project": "p", "entity": "e"}
FEATURES = "diffusion_lab.metrics.features"
INCEPTION = f"{FEATURES}.inception.InceptionFeatures"


def at(key: str, target: object, **options: object):
    """An object of this class at this place."""
    return config(key, {"_target_": target, **options})


# door -> (how it is opened, what is said): what a config may not hold
CONFIG = {
    # ---- a target that is no part of a model
    "a function of the system": (at("sampler", "os.system", command="touch harm"), "the lab's choices do not name it"),
    "a module in the working folder": (at("sampler", "harmful.Sampler"), "DIFFUSION_LAB_TARGETS=harmful in the"),
    "a target that is not a text": (at("sampler", ["os.system"]), NOT_BUILT),
    "what a module of ours imports": (
        at("sampler", "diffusion_lab.store.files.os.system", command="touch harm"),
        "sampler._target_=diffusion_lab.store.files.os.system is not built",
    ),
    "a tracker as a sampler": (at("sampler", WANDB["_target_"], project="p", entity="e"), NOT_BUILT),
    # ---- what Hydra does beside calling a target
    "an option of Hydra's": (config("sampler._args_", "x"), NO_OPTION),
    # ---- interpolations
    "the environment": (config("sampler.eta", "${oc.env:HOME}"), RESOLVED),
    "references in a circle": (config("model", {"a": "${model.b}", "b": "${model.a}"}), RESOLVED),
    # ---- keys and values that become options
    "a key that is a path of keys": (config("sampler", {"spacing._target_": "os.system"}), NO_OPTION),
    # ---- what is no config
    "a YAML tag that calls": (file("config.yaml", b"model: !!python/object/apply:os.system ['x']"), "is not a config"),
    "aliases that unfold to more than memory": (file("config.yaml", BOMB.encode()), "it has YAML aliases"),
    "a config without end": (lambda f: os.truncate(f / "config.yaml", 2**40), "config.yaml is larger than 0.25 MiB"),
    "a number that is not finite": (config("sampler.eta", float("nan")), "is not a string, a finite number"),
    "a shape of more than memory": (config("facts.shape", [1, 2**20, 2**20]), "it has more than 16,777,216 numbers"),
}
# the same with the command `sample`: the ways that a config takes to the user, and the other files
SAMPLE = {
    "a function of the system": CONFIG["a function of the system"],
    "a network of more than memory": (config("network.base_channels", 2**12), "many more parameters than stranger/raw"),
    "a network of more than any memory": (
        config("network.base_channels", 2**24),
        "stranger: its config.yaml describes",
    ),
    "a schedule of more than any memory": (
        config("schedule.num_timesteps", 10**15),
        "stranger: its config.yaml describes",
    ),
    # ---- links that lead out of the folder
    "a link as the config": (link("config.yaml", "../secret/config.yaml"), ELSEWHERE),
    "a link as the weights": (link("raw.safetensors", "../secret/raw.safetensors"), ELSEWHERE),
    # ---- weights
    "weights that are a pickle": (file("ema_0.9.safetensors", pickle.dumps(Harm())), "does not hold the weights"),
    "weights longer than their tensors": (
        lambda f: os.truncate(f / "raw.safetensors", 2**30),
        "raw.safetensors is not a file of weights",
    ),
    "weights of another model": (foreign, "does not hold the weights"),
    "no weights": (lambda f: [w.unlink() for w in f.glob("*.safetensors")], "holds no weights"),
    # ---- training.json
    "training.json with a word for a number": (
        file("training.json", b'{"steps": "many", "seconds": 1, "images": 1}'),
        "steps='many': ",
    ),
    # ---- the folder of the classifier that guides
    "a classifier whose config runs": (guided, "schedule._target_=os.mkdir is not built"),
}
# the same with `evaluate`, which reads the data
EVALUATE = {
    "our data set that downloads": (
        at("data", "diffusion_lab.data.mnist.MNIST", root="harm", download=True, batch_size=8, seed=1),
        "data.download=true",
    ),
    "images of the user": (config("data", IMAGES), "data.root=secret: the model was trained on different data"),
    "features with a path for a name": (
        at("features.mine", f"{FEATURES}.classifiers.ClassifierFeatures", name="../../secret/x"),
        "features '../../secret/x'",
    ),
    "weights with a path for a name": (config("evaluation.weights", "../secret/raw"), "../secret/raw: choose one of"),
}


@pytest.mark.thorough
def test_a_stranger_takes_little_memory(stranger):
    """A network of 4,096 channels is compared with its weights before it takes memory."""
    edit(stranger, "network.base_channels", 2**12)
    code = (
        "import resource, sys; from diffusion_lab.commands.app import run; import torch, lightning\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "code = run('sample', ['model_dir=stranger'])\n"
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=stranger.parent, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["1", "True"], done.stderr
    assert "many more parameters than" in done.stderr


def test_paths_and_downloads_in_a_file_are_left_out():
    guides = {"_target_": GUIDANCE.replace("classifier_guidance", "autoguidance"), "scale": 1.0, "model": "secret"}
    features = {"_target_": INCEPTION, "path": "secret", "download": True}
    data = IMAGES | {"download": True}
    taught = {"_target_": GUIDANCE.replace("classifier_guidance", "flow_map"), "teacher": "secret"}
    saved = {"model": {"guidance": guides}, "objective": taught, "features": {"mine": features}, "data": data}
    leave_out(saved)
    assert taught["teacher"] is None
    assert saved["model"]["guidance"]["model"] == "???"
    assert features == {"_target_": INCEPTION, "path": None, "download": False}
    assert data["download"] is False


@pytest.mark.parametrize("door", CONFIG, ids=lambda text: text.replace(" ", "-"))
def test_a_config_is_refused_in_one_sentence(stranger, door):
    """When it is read, or when something of it is about to be built."""
    tamper, expected = CONFIG[door]
    tamper(stranger)
    before = files(stranger.parent)
    directory = ModelDirectory(Path("stranger"))
    with pytest.raises(RunError) as refused:
        settled(load_config(directory), directory)
    print(f"{door:48} -> {refused.value}")
    assert expected in str(refused.value)
    assert "stranger" in str(refused.value)
    assert "DIFFUSION_LAB_TARGETS=os" not in str(refused.value)
    assert printable(str(refused.value)) == str(refused.value)
    assert files(stranger.parent) == before


@pytest.mark.parametrize(
    ("command", "door"),
    [*(("sample", door) for door in SAMPLE), *(("evaluate", door) for door in EVALUATE)],
    ids=lambda text: text.replace(" ", "-"),
)
def test_a_model_directory_is_refused_in_one_sentence(lab, stranger, command, door):
    tamper, expected = {"sample": SAMPLE, "evaluate": EVALUATE}[command][door]
    tamper(stranger)
    lab.refused(command, "model_dir=stranger", said=expected)  # and nothing is written: no harm


def test_choices_are_names_in_a_file_of_the_folder(stranger):
    file = stranger / "choices.json"
    file.write_text('{"sampler": "../../secret/sampler"}')
    with pytest.raises(RunError, match=r"sampler='\.\./\.\./secret/sampler'"):
        ModelDirectory(stranger).read_choices()
    link("choices.json", "../secret/choices.json")(stranger)
    with pytest.raises(RunError, match=ELSEWHERE):
        ModelDirectory(stranger).read_choices()


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
    edit(stranger, "sampler.spacing", {"_target_": "diffusion_lab.sampling.EvenSpacing", "num_steps": 3})
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


def test_a_file_decides_neither_where_a_score_is_sent_nor_what_is_fetched(lab, stranger, monkeypatch):
    """It may name a tracker, a folder and a download: the score is made, and nothing of that happens."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    edit(stranger, "logger", WANDB)
    edit(stranger, "trainer", {"_target_": "os.mkdir", "path": "harm"})  # trains nothing, so it is never built
    edit(stranger, "outputs", "harm")
    lab.done("evaluate", "model_dir=stranger")
    assert not list(lab.folder.rglob("wandb*"))
    assert not (lab.folder / "harm").exists()


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


def sweep_json(*keys: object, to: object):
    return lambda folder: changed(folder / "sweeps" / "test" / "sweep.json", *keys, to=to)


def metrics(*keys: object, to: object):
    return lambda folder: changed(folder / "runs" / RUN / "metrics.json", *keys, to=to)


NOT_A_FOLDER = "it is not the name of a folder"
SWEEP = {
    "a run by a path": (sweep_json("cells", 0, "run", to="../../secret"), NOT_A_FOLDER),
    "sweep.json as a link": (
        lambda f: [f.joinpath("sweeps/test/sweep.json").rename(f / "x"), link("sweeps/test/sweep.json", "../../x")(f)],
        ELSEWHERE,
    ),
}
SCORE = {
    "a value whose name is a path": (metrics("values", "fd_/../../../harm", to=1.0), "values.fd_/../../../harm"),
    "the model of a run by a path": (metrics("protocol", "model_directory", to="../../secret"), NOT_A_FOLDER),
    "a curve of several lengths": (metrics("curves", "bits_per_dim", "t", to=[1.0]), "lists of several lengths"),
    "a run as a link": (lambda f: [shutil.rmtree(f / "runs" / RUN), link(f"runs/{RUN}", "../../secret")(f)], ELSEWHERE),
}


@pytest.mark.parametrize(
    ("options", "door"),
    [
        *((("report", "theirs/sweeps/test"), door) for door in SWEEP),
        (("status", "theirs/sweeps/test"), "a run by a path"),
        *((("report", f"runs=theirs/runs/{RUN}"), door) for door in SCORE),
    ],
    ids=lambda part: part.replace(" ", "-") if isinstance(part, str) else part[0],
)
def test_a_run_or_a_sweep_is_refused_in_one_sentence(lab, theirs, options, door):
    tamper, expected = (SWEEP | SCORE)[door]
    tamper(theirs)
    lab.refused(*options, said=expected)


def test_a_sweep_of_many_cells_prints_few_lines(lab, theirs):
    """Totals, the first lines, and how many more there are; the page is as short, and cells.csv has all."""
    content = json.loads((theirs / "sweeps/test/sweep.json").read_text())
    seeds = [str(seed) for seed in range(1000)]
    cells = [{"choices": {"seed": seed}, "overrides": [], "model": f"m{seed}", "run": f"r{seed}"} for seed in seeds]
    (theirs / "sweeps/test/sweep.json").write_text(json.dumps(content | {"axes": {"seed": seeds}, "cells": cells}))
    out = lab.done("status", "theirs/sweeps/test")
    assert "models: 1000 queued; cells: 1000 queued" in out
    assert "… and 1,800 more" in out
    assert len(out.splitlines()) < 300
    out = lab.done("report", "theirs/sweeps/test", "to=page")
    assert "… and 800 more" in out
    assert len(out.splitlines()) < 300
    page, table = ((lab.folder / "page" / name).read_text() for name in ("report.html", "cells.csv"))
    assert page.count('<span class="state">') == 200
    assert "… and 800 more" in page
    assert len(table.splitlines()) == 1001


MARKUP = "</script><img src=x onerror=alert(1)>"
STEERING = "\x1b]0;x\x07\nnext\u202e\ud800"


def test_what_a_report_is_made_of_is_shown_and_does_nothing(lab, theirs, monkeypatch):
    """Markup, control characters, a picture that is a program, links, names that are paths, a status of nonsense."""
    sweep_json("name", to=MARKUP + STEERING)(theirs)
    sweep_json("cells", 0, "choices", "schedule", to=MARKUP + STEERING)(theirs)
    sweep_json("axes", "schedule", to=[MARKUP + STEERING, "cosine"])(theirs)
    metrics("protocol", "data", "name", to=MARKUP + STEERING)(theirs)
    (first,) = (path for path in (theirs / "runs").iterdir() if path.name != RUN)
    monkeypatch.setenv("PATH", str(lab.folder), prepend=os.pathsep)
    (lab.folder / "gs").write_text("#!/bin/sh\ntouch harm\n")  # what Pillow starts for PostScript
    (lab.folder / "gs").chmod(0o755)
    (first / "samples.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    link("samples.png", "../../../secret/samples.png")(theirs / "runs" / RUN)
    log = theirs / "models" / MODEL / "metrics.csv"
    log.write_text("step,train/../../../harm,train/mse\n1,1.0,1.0\n2,1.0,inf\n3,1.0,0.5\n")
    out = lab.done("report", "theirs/sweeps/test", "to=page")
    page = (lab.folder / "page" / "report.html").read_text()
    assert "<img src=x" not in page
    assert '"src":"data:image' not in page  # neither picture
    assert not {"\x1b", "\x07", "\u202e"} & set(out + page)
    assert not list(lab.folder.rglob("*harm*"))

    run = theirs / "runs" / RUN
    (run / "metrics.json").unlink()
    for status in ({"state": "running", "step": "x", "steps": [], "started": "y"}, {"state": STEERING}, [1]):
        (run / "status.json").write_text(json.dumps(status))
        assert "\x1b" not in lab.done("status", "theirs/sweeps/test", "watch=false")


def test_a_config_of_a_run_is_read_as_text(lab, theirs):
    """It only says which options differ: aliases, tags and links make its choices unknown."""
    other = next(path for path in (theirs / "runs").iterdir() if path.name != RUN)
    for content in (BOMB, "a: !!python/object/apply:os.system ['touch harm']"):
        (theirs / "runs" / RUN / "config.yaml").write_text(content)
        link("config.yaml", "../../../secret/config.yaml")(other)
        out = lab.done("report", "runs=theirs/runs/*", "to=page")
        assert out.count("so the run's choices are unknown") == 2
        assert not (lab.folder / "harm").exists()


# ---- arrays

ONE_BYTE = np.dtype("u1")


def virtual(file, path: str) -> None:
    import h5py

    with h5py.File(Path(path).with_name("private.h5"), "w") as other:
        other["x"] = np.arange(128, dtype=ONE_BYTE).reshape(2, 8, 8)
    layout = h5py.VirtualLayout((2, 8, 8), ONE_BYTE)
    layout[:] = h5py.VirtualSource("private.h5", "x", (2, 8, 8))
    file.create_virtual_dataset("x", layout)


def linked(kind: str, *to: str):
    def write(file, path: str) -> None:
        import h5py

        virtual(file, path)
        del file["x"]
        file["x"] = getattr(h5py, kind)(*to)

    return write


STORED = {
    "external storage": lambda file, path: file.create_dataset("x", (2, 8, 8), ONE_BYTE, external=[(path, 0, 128)]),
    "virtual storage": virtual,
    "an external link": linked("ExternalLink", "private.h5", "x"),
    "a soft link": linked("SoftLink", "/elsewhere"),
}


@pytest.mark.needs("h5py")
@pytest.mark.parametrize("door", STORED)
@pytest.mark.parametrize("named", ["", ":x"])
def test_hdf5_shows_no_other_file(lab, door, named):
    """Each of these reads a file by its path, such as /etc/passwd, as pixels."""
    h5py = pytest.importorskip("h5py")
    (lab.folder / "private").write_bytes(bytes(range(128)))
    with h5py.File(lab.folder / "a.h5", "w") as file:
        STORED[door](file, str(lab.folder / "private"))
    said = "a.h5: x is a link, or external or virtual storage: copy its values into the file itself"
    lab.refused("train", "data=arrays", f"data.train=a.h5{named}", "data.layout=nhw", *TINY, said=said)


# ---- a training that goes on


def test_a_bad_checkpoint_is_named_and_training_begins_anew(lab):
    """It is refused and nothing runs; there is no older one here to fall back to."""
    options = [*TINY, *STRIDED, "score=false", "callbacks.checkpoint.every_n_steps=1"]
    lab.given("train", *options)
    directory = newest_model(lab.folder / "outputs")
    before = ModelDirectory(shutil.copytree(directory.path, lab.folder / "before"))
    directory.training.unlink()  # as if it had been killed
    torch.save({"made_by": Harm()}, directory.resume)
    out = lab.done("train", *options)
    assert "resume.ckpt" in out
    assert "skipping it" in out
    assert not (lab.folder / "harm").exists()
    assert_same_weights(directory, before)


def test_a_config_changed_under_a_training_is_written_again(lab):
    options = [*TINY, *STRIDED, "score=false"]
    lab.given("train", *options)
    directory = newest_model(lab.folder / "outputs")
    directory.training.unlink()
    before = directory.config.read_text()
    edit(directory.path, "optimizer.lr", 0.5)
    lab.done("train", *options)
    assert directory.config.read_text() == before
