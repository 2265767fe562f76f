"""A result is reused only as what it is: an edit of a file behind it makes another name or another score, or one sentence names it.

The table of edits by command. An edit is a comment, of which nothing can be computed in another way.
"""

import contextlib
import shutil
import sys
from pathlib import Path

import pytest

from diffusion_lab import load
from diffusion_lab.commands import app
from diffusion_lab.config.untrusted import VARIABLE
from diffusion_lab.store import newest_model, provenance

from .conftest import STRIDED

NET = """\
from pathlib import Path

from diffusion_lab.networks import MLP

TABLE = Path(__file__).with_name("tables")


class Net(MLP):
    table = (TABLE / "powers.txt").read_text() if TABLE.is_dir() else None

    def __init__(self, *sizes, scales=None, **options):
        super().__init__(*sizes, **options)
"""
FILES = {"mine.py": NET, ".linked/powers.txt": "1\n", ".far/scales.txt": "1\n"}
FILES |= {"theirs/__init__.py": "", "theirs/net.py": NET}
POINTS = ["data=mixture", "network.hidden=8", "schedule.num_timesteps=24", "trainer.max_steps=1", "val.every_n_steps=0"]
POINTS += ["snapshots.averages=0", "snapshots.at=[]", "ema.decays=[0.9]", "features=pixels"]
SCORED = ["evaluation.num_samples=8", "metrics=network_evaluations", *STRIDED]
DIFFUSION = [*POINTS, *SCORED, "objective=simple", "variance=fixed_small"]
THEIRS = "network._target_=theirs.net.Net"
FLOW_MAP = [*POINTS, *SCORED[:-1], "objective=flow_map", "variance=fixed_small", "objective.teacher=teacher"]
TRAININGS = {  # in this order: a teacher before its student
    "own": [*DIFFUSION, "network._target_=mine.Net", "+network.scales=.far/scales.txt"],
    "plain": DIFFUSION,
    "teacher": [*DIFFUSION, THEIRS, "score=false"],
    "classifier": [*POINTS, "model=noisy_classifier", THEIRS],
    "student": [*FLOW_MAP, "score=false"],
    "started": [*DIFFUSION, "init_from=teacher", "score=false"],
}
MOVED = ("teacher", "classifier")  # into folders of these names
GUIDED = {
    "classifier": ["guidance=classifier", "guidance.classifier=classifier", "guidance.scale=2"],
    "weak": ["guidance=autoguidance", "guidance.model=teacher"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, hydra_in_less_time):
    """A folder with the models of TRAININGS and their scores, and model -> its folder there."""
    folder, models = tmp_path_factory.mktemp("trained"), {}
    for file, content in FILES.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content)
    (folder / "tables").symlink_to(".linked")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["diffusion-lab"])
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv(VARIABLE, "mine,theirs")
        provenance._code.cache_clear()
        for name, options in TRAININGS.items():
            assert app.run("train", options) == 0
            models[name] = newest_model(Path("outputs")).path
            if name in MOVED:
                (models[name],) = (
                    Path("outputs/models").glob("*classifier*") if name == "classifier" else [models[name]]
                )
                models[name] = models[name].rename(name)
        for options in GUIDED.values():
            assert app.run("evaluate", [f"model_dir={models['plain']}", *options]) == 0
    for name in [name for name, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]
    return folder, models


@pytest.fixture
def run(lab, trained, monkeypatch):
    """run(name in COMMANDS) -> (new models, new scores, what is printed); in a copy of the trained models."""
    folder, models = trained
    monkeypatch.setenv(VARIABLE, "mine,theirs")
    shutil.copytree(folder, lab.folder, symlinks=True, dirs_exist_ok=True)

    def results():
        scores = lab.folder.glob("outputs/runs/*/metrics.json")
        return {*lab.folder.glob("outputs/models/[!.]*/")}, {(score, score.stat().st_ino) for score in scores}

    def call(name):
        before = results()
        out = lab.done(*(option.format(**models) for option in COMMANDS[name]))
        new = [len(after - there) for after, there in zip(results(), before, strict=True)]
        return *new, " ".join(out.split())

    call.folder, call.models = lab.folder, models
    return call


def edit(file):
    file.write_text(file.read_text() + "\n# an edit\n")


COMMANDS = {
    "train": ("train", *TRAININGS["own"]),
    "evaluate": ("evaluate", "model_dir={own}"),
    "sample": ("sample", "model_dir={own}", "num_images=2", "format=npy"),
    "export": ("export", "model_dir={own}", "to=exported", "format=program", "batch_size=1"),
    "report": ("report", "runs=outputs/runs"),
    "student": ("train", *TRAININGS["student"]),
    "started": ("train", *TRAININGS["started"]),
    "classifier": ("evaluate", "model_dir={plain}", *GUIDED["classifier"]),
    "draw": ("sample", "model_dir={plain}", *GUIDED["classifier"], "num_images=2", "format=npy", "to=guided"),
    "weak": ("evaluate", "model_dir={plain}", *GUIDED["weak"]),
    "plain": ("evaluate", "model_dir={plain}"),
}
MODEL, SCORE, BOTH, SENTENCE, NOTHING = (1, 0, True), (0, 1, True), (1, 1, True), (0, 0, True), (0, 0, False)
OWN = {"train": BOTH, "evaluate": SCORE, "sample": SENTENCE, "export": SENTENCE, "report": SENTENCE}
GUIDE = {"classifier": SCORE, "draw": SENTENCE}
EDITS = {  # file -> command -> number of new models and scores, and whether a sentence names the file, or the option that does
    "mine.py": OWN | {"student": NOTHING, "plain": NOTHING},
    "tables/powers.txt": OWN,
    ".far/scales.txt": OWN | {"train": (1, 1, False)},
    "{own}/config.yaml": OWN | {"train": (0, 1, True)},
    "teacher/config.yaml": {"student": MODEL, "weak": SCORE, "started": NOTHING},
    # Its network is that of the training that starts from it.
    "theirs/net.py": {"student": MODEL, "weak": SCORE, "started": MODEL, "plain": NOTHING} | GUIDE,
    "classifier/config.yaml": GUIDE | {"plain": NOTHING},
    "notes.md": dict.fromkeys(("train", "evaluate", "report", "student"), NOTHING),
}


@pytest.mark.parametrize(("file", "command"), [(file, command) for file in EDITS for command in EDITS[file]])
def test_an_edit_is_noticed(run, file, command):
    edited = run.folder / file.format(**run.models)
    edited.touch()
    edit(edited)
    models, scores, out = run(command)
    assert (models, scores, edited.name in out or "network.scales" in out) == EDITS[file][command], out


def test_what_was_edited_is_restored(run):
    """The first training and its name are back, and its score is computed from the files of before."""
    table = run.folder / "tables" / "powers.txt"
    text = table.read_text()
    edit(table)
    assert run("evaluate")[:2] == (0, 1)
    table.write_text(text)
    models, scores, out = run("train")
    assert (models, scores) == (0, 1)
    assert "already trained" in out
    assert "powers.txt" not in out
    assert run("evaluate")[:2] == (0, 0)


def test_a_model_in_python_warns_once(run, capfd):
    """Of this model and of one that guides it."""
    edit(run.folder / "mine.py")
    edit(run.folder / "classifier" / "config.yaml")
    capfd.readouterr()
    model = load(run.models["own"])
    for _ in range(2):
        model.sample(2, num_steps=2)
    assert capfd.readouterr().err.count("was trained with other versions of its files (mine.py): ") == 1
    model = load(run.models["plain"])
    assert not capfd.readouterr().err
    model.sample(2, guidance="classifier", scale=2, overrides=["guidance.classifier=classifier"])
    assert "classifier was trained with other versions of its files (config.yaml): " in capfd.readouterr().err


def test_a_report_names_files_in_which_rows_differ(run, lab):
    """Rows of one model that were scored before and after an edit; rows of other classes differ by choice."""
    table = run.folder / "report" / "table.md"
    run("report")
    assert "versions of the user's files" not in table.read_text()
    edit(run.folder / "mine.py")
    lab.done("evaluate", f"model_dir={run.models['own']}", "sampler.spacing.num_steps=2")
    run("report")
    assert (
        "Made with different versions of the user's files, which may be why rows differ: mine.py." in table.read_text()
    )


# A file of each package, and the results on which a sentence names it.
CODE = {
    **dict.fromkeys(
        ("conditions/units.py", "config/build.py", "data/order.py", "diffusion/objectives.py"), "training, score"
    ),
    **dict.fromkeys(("families/vae/vae.py", "models/muon.py", "networks/mlp.py", "training/ema.py"), "training, score"),
    **dict.fromkeys(("analysis/advice.py", "metrics/cost.py", "sampling/steps.py", "interop/given_images.py"), "score"),
    **dict.fromkeys(("store/weight_names.py", "store/directories.py"), "training, score"),
    "commands/fit.py": "training",
    "commands/evaluate.py": "score",
    "commands/status.py": "",
    **dict.fromkeys(
        ("report/page.py", "sweeps/slurm.py", "store/status_file.py", "interop/card.py", "versions.py"), ""
    ),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return shutil.copytree(provenance.PACKAGE, tmp_path_factory.mktemp("edited") / "diffusion_lab")


@pytest.mark.parametrize("file", CODE)
def test_an_edit_of_the_package_is_named(run, package, monkeypatch, file):
    """It makes no other name, and nothing is trained or scored again."""
    monkeypatch.setattr(provenance, "PACKAGE", package)
    text = (package / file).read_text()
    edit(package / file)
    models, scores, out = run("plain")
    (package / file).write_text(text)
    assert (models, scores) == (0, 0)
    said = {"training": f"was trained by other code ({file}): ", "score": f"was scored by other code ({file}): "}
    assert [result for result, words in said.items() if words in out] == [*filter(None, CODE[file].split(", "))]


def test_every_package_has_an_edit():
    packages = {path.parent.name for path in provenance.PACKAGE.glob("*/__init__.py")}
    assert packages == {file.partition("/")[0] for file in CODE if "/" in file}
