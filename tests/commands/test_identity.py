"""The same command finds its model: what is asked names it, and other code that made it is said, not hidden."""

import shutil

import pytest

from diffusion_lab.store import ModelDirectory, RunDirectory, provenance
from diffusion_lab.training import devices

from .cluster import STOP, models, only_model
from .conftest import STRIDED, TINY

MINE = """\
from diffusion_lab.diffusion import CosineSchedule


class MySchedule(CosineSchedule):
    def alpha_bar(self):
        from steepness import POWER

        return super().alpha_bar() ** POWER
"""
WATCHER = "from lightning import Callback\n\nimport counts\n\n\nclass Watcher(Callback):\n    every = counts.EVERY\n"


@pytest.fixture
def package(tmp_path_factory, monkeypatch):
    """The files of the package as they are recorded, to be edited."""
    copy = shutil.copytree(provenance.PACKAGE, tmp_path_factory.mktemp("edited") / "diffusion_lab")
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    return copy


def edit(file):
    file.write_text(file.read_text() + "\n# an edit\n")


def test_an_edit_of_the_package_is_said_and_retrains_nothing(lab, package):
    """retrain=true replaces the model, variant=WORD trains beside it, and a sweep compares the two; a report notes it."""
    command = [*TINY, *STRIDED, "features=pixels"]
    lab.done("train", *command)
    edit(package / "commands" / "status.py")
    edit(package / "report" / "page.py")
    assert "other code" not in lab.done("train", *command), "nothing that trains or scores was edited"
    edit(package / "diffusion" / "objectives.py")
    model = only_model(lab.folder)
    said = f"outputs/models/{model.path.name} was trained by other code (diffusion/objectives.py): "
    for words in (["train", *command], ["train", "-m", *command, "seed=1"], ["evaluate"]):
        out = " ".join(lab.done(*words).split())
        assert said in out
        assert "retrain=true" in out
        assert "variant=WORD" in out
    assert "was scored by other code (diffusion/objectives.py): rescore=true scores again" in " ".join(
        lab.done("evaluate").split()
    )
    lab.done("evaluate", "sampler.spacing.num_steps=2")
    lab.done("report", "runs=outputs/runs")
    table = (lab.folder / "report" / "table.md").read_text()
    assert "Made by different code, which may be why rows differ: diffusion/objectives.py." in table

    lab.done("train", *command, "variant=mine")
    assert len(models(lab.folder)) == 2
    assert "2 models: 0 to train, 2 reused" in lab.done("train", "-m", *command, "variant=null,mine")
    (report,) = (lab.folder / "outputs" / "sweeps").glob("variant*/report/table.md")
    assert "mine" in report.read_text()
    lab.refused("train", *command, "variant='a/b'", said="variant=a/b: use a word")

    before = model.training.stat().st_ino
    lab.done("train", *command, "retrain=true")
    assert model.training.stat().st_ino != before
    assert (lab.folder / "outputs" / "trash" / "models" / model.path.name).is_dir()
    out = lab.done("train", *command)
    assert "already trained" in out
    assert "other code" not in out


def test_a_training_that_other_code_began_says_so(lab, package):
    (lab.folder / "stops.py").write_text(STOP)
    (lab.folder / ".stop").write_text("2")
    command = [*TINY, *STRIDED, "trainer.max_steps=4", "score=false", "+callbacks.stop._target_=stops.StopOnce"]
    assert lab("train", *command)[0] != 0
    edit(package / "models" / "diffusion.py")
    out = " ".join(lab.done("train", *command).split())
    assert "resuming from" in out
    assert "was started by other code (models/diffusion.py); continuing with the code as it is now: " in out
    digests = only_model(lab.folder).read_training()["code"]["models/diffusion.py"]
    assert len(digests.split()) == 2
    assert "other code (models/diffusion.py)" in lab.done("train", *command), "neither code made all of it"


def test_retrain_does_not_go_on_with_other_code(lab, package):
    """With the same code it resumes what was interrupted."""
    (lab.folder / "stops.py").write_text(STOP)
    command = [*TINY, *STRIDED, "trainer.max_steps=4", "score=false", "+callbacks.stop._target_=stops.StopOnce"]
    for edited in (True, False):
        (lab.folder / ".stop").write_text("2")
        assert lab("train", *command, "retrain=true")[0] != 0
        if edited:
            edit(package / "models" / "diffusion.py")
        assert ("resuming from" in lab.done("train", *command, "retrain=true")) is not edited
        digests = only_model(lab.folder).read_training()["code"]["models/diffusion.py"]
        assert len(digests.split()) == 1


def test_a_training_goes_on_with_the_precision_of_another_machine(lab, monkeypatch):
    """It is found by its name, and says so."""
    (lab.folder / "stops.py").write_text(STOP)
    (lab.folder / ".stop").write_text("2")
    command = [*TINY, *STRIDED, "trainer.max_steps=4", "score=false", "+callbacks.stop._target_=stops.StopOnce"]
    monkeypatch.setattr(devices, "_has_bf16", lambda on_gpu: True)
    assert lab("train", *command)[0] != 0
    monkeypatch.setattr(devices, "_has_bf16", lambda on_gpu: False)
    assert "it was started with precision bf16-mixed, and continues with 32-true" in lab.done("train", *command)
    assert only_model(lab.folder).read_training()["precision"] == "32-true"


@pytest.mark.parametrize("sweep", [[], pytest.param(["-m", "seed=1"], marks=pytest.mark.thorough)])
def test_an_edit_of_ones_own_files_retrains(lab, sweep):
    """A helper imported in a function, and a callback's; an edited metric only scores again."""
    files = {"mine.py": MINE, "steepness.py": "POWER = 1.5\n", "watcher/__init__.py": "", "watcher/watch.py": WATCHER}
    (lab.folder / "watcher").mkdir()
    for name, content in files.items():
        (lab.folder / name).write_text(content)
    (lab.folder / "counts.py").write_text("EVERY = 1\n")
    mine = ["schedule._target_=mine.MySchedule", "+callbacks.mine._target_=watcher.watch.Watcher"]
    command = ["train", *sweep, *TINY, *STRIDED, *mine, "score=false"]
    lab.done(*command)
    (lab.folder / "README.md").write_text("notes")
    lab.done(*command)
    assert len(models(lab.folder)) == 1
    for number, (name, content) in enumerate(
        (("steepness.py", "POWER = 1.4\n"), ("counts.py", "EVERY = 2\n")), start=2
    ):
        (lab.folder / name).write_text(content)
        out = lab.done(*command)
        assert len(models(lab.folder)) == number
        assert sweep or f": {name}" in " ".join(out.split())


def test_a_score_counts_the_users_files_that_it_names(lab):
    metric = (
        "from diffusion_lab.metrics.metric import Metric, Scores\n\n\nclass Mine(Metric):\n"
        "    def measures(self, namings):\n        return []\n\n    def score(self, subject):\n        return Scores()\n"
    )
    (lab.folder / "metric.py").write_text(metric)
    command = ["train", *TINY, *STRIDED, "+metrics.mine._target_=metric.Mine"]
    lab.done(*command)
    (lab.folder / "metric.py").write_text(metric + "# an edit\n")
    lab.done(*command)
    assert len(models(lab.folder)) == 1
    runs = [RunDirectory(path) for path in (lab.folder / "outputs" / "runs").glob("[!.]*/")]
    assert len(runs) == 2


def test_code_of_0_1_is_named(lab, old_model):
    """It recorded no digests of code."""
    old = old_model("diffusion_conditional")
    training = old.read_training()
    training["code"] = {"names": [], "digest": ""}
    training["versions"]["diffusion_lab"] = "0.1.0"
    old.finish(**training)
    out = lab.done("evaluate", f"model_dir={old.path}", "evaluation.num_samples=8", "metrics=network_evaluations")
    assert "diffusion_lab 0.1.0, which recorded no code" in " ".join(out.split())
    assert ModelDirectory(old.path).finished
