"""Multiruns of train as a user gives them: planned, done, done again, with mistakes and with failures."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from diffusion_lab.commands import sweeping
from diffusion_lab.store.lease import is_held
from diffusion_lab.sweeps import frozen

from .conftest import STRIDED, TINY, files

CELLS = ["sampler=ddpm,strided", "sampler.spacing.num_steps=2,3"]


def sweep_of(lab):
    (file,) = (lab.folder / "outputs" / "sweeps").glob("*/sweep.json")
    return json.loads(file.read_text())


def names(lab, kind):
    return {path.name for path in (lab.folder / "outputs" / kind).glob("*")}


def test_a_sweep_holds_its_copy_while_it_plans(lab, monkeypatch):
    """A plan of many cells takes minutes; the same command must not remove the copy meanwhile."""
    copy, held = lab.folder / "outputs" / "sweeps" / "a" / "code" / "b", []
    monkeypatch.setenv(frozen.VARIABLE, str(copy))
    monkeypatch.setattr(frozen, "_PACKAGE", copy / "diffusion_lab")
    monkeypatch.setattr(sweeping, "make_plan", lambda *args, **options: held.append(is_held(copy)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab("train", "-m", *TINY, "seed=1,2")
    assert held == [True]
    assert not is_held(copy)


def test_a_model_is_trained_once_and_every_cell_scored(lab):
    """A model is trained once and every cell scored and the same again does nothing."""
    out = lab.done("train", "-m", *TINY, *CELLS)
    lines = out.splitlines()
    assert lines[:2] == [
        "1 model: 1 to train, 0 reused",
        "3 cells from 4 combinations, some of them equal: 3 to score, 0 scored already",
    ]
    assert sum(line.startswith("model 1 of 1") for line in lines) == 1
    assert sum(line.startswith("cell ") and "fd_pixels" in line and "bits/dim" in line for line in lines) == 3
    assert "training images" not in out  # the jobs' own output lies in their logs
    assert "its floor" not in out
    assert lines[-1].startswith("report ")
    assert (lab.folder / lines[-1].split()[-1]).is_file()

    sweep = sweep_of(lab)
    assert sweep["axes"] == {"sampler": ["ddpm", "strided"], "sampler.spacing.num_steps": ["2", "3"]}
    assert sweep["evaluation_seed"] == 0
    assert {cell["model"] for cell in sweep["cells"]} == names(lab, "models")
    assert {cell["run"] for cell in sweep["cells"]} == names(lab, "runs")
    assert len(sweep["cells"]) == 3
    for cell in sweep["cells"]:
        run = lab.folder / "outputs" / "runs" / cell["run"]
        nfe = json.loads((run / "metrics.json").read_text())["values"]["nfe"]
        assert nfe == int(cell["choices"]["sampler.spacing.num_steps"] or 24)
        assert json.loads((run / "status.json").read_text())["state"] == "done"

    before = {name: (lab.folder / name).read_bytes() for name in files(lab.folder) if "/sweeps/" not in name}
    out = lab.done("train", "-m", *TINY, *reversed(CELLS))
    assert out.splitlines()[0] == "1 model: 0 to train, 1 reused"
    assert ": 0 to score, 3 scored already" in out
    assert {name: (lab.folder / name).read_bytes() for name in files(lab.folder) if "/sweeps/" not in name} == before
    assert len(names(lab, "sweeps")) == 1


def test_clusters_can_be_swept(lab):
    axes = ["labels=own,clusters", "labels.num_clusters=3,5", "hydra.sweeper.dry_run=true"]
    out = lab.done("train", "-m", *TINY, *STRIDED, *axes)
    assert out.startswith("3 models: 3 to train, 0 reused")


def test_the_plan_can_be_looked_at(lab):
    out = lab.done("train", "-m", *TINY, "seed=range(1,4)", "sampler.spacing.num_steps=2", "hydra.sweeper.dry_run=true")
    assert out.splitlines()[:2] == ["3 models: 3 to train, 0 reused", "3 cells: 3 to score, 0 scored already"]
    assert "train  seed=1" in out
    assert "score  seed=3" in out
    assert files(lab.folder) == []


@pytest.mark.thorough
def test_the_plan_says_that_no_sampler_shows_the_variance(lab):
    asked, said = ["train", "-m", *TINY, "variance=fixed_small,learned"], "no sampler here uses the variance"
    for samplers, expected in (("ddim", True), ("ddim,strided", False)):
        out = lab.done(*asked, f"sampler={samplers}", "hydra.sweeper.dry_run=true", "sampler.spacing.num_steps=3")
        assert (said in out) is expected
    assert said not in lab.done(*asked[:-1], *STRIDED, "schedule=linear,cosine", "hydra.sweeper.dry_run=true")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["sampler=ddpm,strided", "sampler.eta=0,1"], "there is no option 'sampler.eta'"),
        (["sampler.spacing.num_steps=3,25"], "25"),
        (["objective=simple,hybrid", "variance=learned"], "would never be trained"),
        (["sweep.jobs_per_model=2", "retrain=true"], "works only with sweep.jobs_per_model=1"),
        (["sweep.jobs_per_model=1,2"], "sweep.jobs_per_model cannot differ between the cells of a sweep"),
        (["schedul=linear,cosine"], "there is no option 'schedul'; did you mean schedule?"),
        (["schedule=linear,cosin"], "schedule=cosin: there is no such choice"),
        (["optimizer.weight_decay=interval(0,1)"], "an interval has no values to try"),
        (["rescore=true,false"], "rescore cannot differ between the cells of a sweep"),
        (["seed=1,2", "hydra.sweeper.name=a/b"], "hydra.sweeper.name=a/b cannot be the name of the sweep's folder"),
        (["data=digits,image_folder", *STRIDED], "data.root has no value"),
        (
            ["model=noisy_classifier", "seed=1,2", "score=true"],
            "generates no samples, so it cannot be scored; add score=false",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_starts(lab, options, said):
    lab.refused("train", "-m", *TINY, *options, said=said)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "''",
        "a/..",
        "'a\nb'",
        "-rf",
        "x" * 201,
        "'\u202ex'",
    ],
)
def test_the_name_of_a_sweep_is_that_of_one_folder(lab, name):
    code, _, err = lab("train", "-m", *TINY, "seed=1,2", "hydra.sweeper.dry_run=true", f"hydra.sweeper.name={name}")
    assert code == 1
    assert "cannot be the name of the sweep's folder" in err or "is empty" in err
    assert len(err.splitlines()) == 1
    assert files(lab.folder) == []


def test_an_option_of_sweeps_alone_is_refused(lab):
    lab.refused(
        "train", *TINY, "sweep.jobs_per_model=2", said="sweep.jobs_per_model=2 works only in a sweep of train -m"
    )


@pytest.mark.thorough
def test_shares_of_a_models_cells_train_it_once(lab):
    options = ["sampler.spacing.num_steps=2,3,4", "sweep.jobs_per_model=2"]
    lab.done("train", "-m", *TINY, *options)
    (model,) = names(lab, "models")
    logs = {path.parent.name: path.read_text() for path in (lab.folder / "outputs" / "sweeps").glob("*/jobs/*/log.txt")}
    assert sorted(logs) == [model, f"{model}-2"]
    assert sum(log.count("training images") for log in logs.values()) == 1
    assert [logs[name].count("\nscore ") for name in sorted(logs)] == [2, 1]
    assert names(lab, "sweeps") == {sweep_of(lab)["name"]}


FAILS = """\
from lightning import Callback


class Fails(Callback):
    def __init__(self, seed):
        self.seed = seed

    def on_train_start(self, *_):
        if self.seed == 2:
            raise RuntimeError("a cosmic ray")
"""


@pytest.mark.thorough
def test_a_failed_model_is_marked_and_the_others_go_on(lab):
    (lab.folder / "fails.py").write_text(FAILS)
    options = ["seed=1,2", "sampler.spacing.num_steps=2,3"]
    options += ["+callbacks.fails._target_=fails.Fails", "+callbacks.fails.seed=${seed}"]
    code, out, err = lab("train", "-m", *TINY, *options)
    assert code == 1
    assert "2 of 4 cells failed" in err
    assert err.count("a cosmic ray") == 1
    assert "Traceback" not in out + err
    statuses = {}
    for cell in sweep_of(lab)["cells"]:
        statuses.setdefault(cell["choices"]["seed"], []).append(
            json.loads((lab.folder / "outputs" / "runs" / cell["run"] / "status.json").read_text())
        )
    assert [status["state"] for status in statuses["1"]] == ["done", "done"]
    assert [status["state"] for status in statuses["2"]] == ["failed", "failed"]
    assert statuses["2"][0]["reason"].startswith("its model failed: ")
    logs = [path.read_text() for path in (lab.folder / "outputs" / "sweeps").glob("*/jobs/*/log.txt")]
    assert sum("Traceback" in log for log in logs) == 1

    code, out, err = lab("train", "-m", *TINY, *options)
    assert code == 1
    assert out.splitlines()[:2] == ["2 models: 1 to train, 1 reused", "4 cells: 2 to score, 2 scored already"]


@pytest.mark.thorough
def test_a_cell_that_fails_is_tried_again(lab, monkeypatch):
    """A cell that fails is tried again by the same command."""
    from diffusion_lab.models.diffusion import DiffusionModel

    likelihood = DiffusionModel.likelihood

    def failing(self, *arguments, **options):
        if self.nfe == 3:
            raise RuntimeError("a cosmic ray")
        return likelihood(self, *arguments, **options)

    options = ["sampler.spacing.num_steps=2,3,4", "hydra.sweeper.name=mine"]
    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModel, "likelihood", failing)
        code, _, err = lab("train", "-m", *TINY, *options)
    assert code == 1
    assert "1 of 3 cells failed" in err
    assert "num_steps=3: RuntimeError: a cosmic ray" in err or "num_steps=3: a cosmic ray" in err
    assert "3 cells: 1 to score, 2 scored already" in lab.done("train", "-m", *TINY, *options)
    assert names(lab, "sweeps") == {"mine"}


@pytest.mark.thorough
def test_retrain_trains_each_model_once(lab):
    """Retrain trains each model once and scores its cells anew."""
    options = ["sampler.spacing.num_steps=2,3"]
    lab("train", "-m", *TINY, *options)
    stamps = {
        path: path.stat().st_mtime_ns
        for kind in ("models/*/training.json", "runs/*/metrics.json")
        for path in (lab.folder / "outputs").glob(kind)
    }
    out = lab.done("train", "-m", *TINY, *options, "retrain=true")
    assert "1 model: 1 to train, 0 reused" in out
    assert out.count("model 1 of 1") == 1
    assert len(stamps) == 3
    assert all(path.stat().st_mtime_ns > stamp for path, stamp in stamps.items())
    assert len(names(lab, "sweeps")) == 1


def test_jobs_write_below_outputs_whatever_its_name(lab):
    lab.done("train", "-m", *TINY, *STRIDED, "score=false", 'outputs="Läufe \\ \\""')
    assert {Path(file).parts[0] for file in files(lab.folder)} == {'Läufe \\ "'}


@pytest.mark.thorough
def test_hydras_own_sweepers_still_work(lab):
    options = ["sampler.spacing.num_steps=2,3"]
    out = lab.done("train", "-m", *TINY, *options, "hydra/sweeper=basic")
    assert out.count("its floor") == 2
    assert "already scored" in lab.done("evaluate", "-m", "sampler.spacing.num_steps=3,4", "model_dir=null")
    assert len(names(lab, "runs")) == 3


@pytest.mark.thorough
@pytest.mark.needs("hydra-optuna-sweeper")
@pytest.mark.skipif(find_spec("optuna") is None, reason="pip install 'diffusion-lab[optuna]'")
def test_a_search_is_told_the_metric_it_asks_for(tmp_path, zygote):
    tiny = [option for option in TINY if not option.startswith("network.base_channels")]
    search = ["hparams_search=diffusion_optuna", "hydra.sweeper.n_trials=2", "objective_metric=bits_per_dim"]
    searching = zygote.start(tmp_path, "train", "-m", *tiny, *STRIDED, *search, "network.base_channels=choice(8,16)")
    _, err = searching.communicate()
    assert searching.returncode == 0, err
    outputs = tmp_path / "outputs"
    (result,) = (outputs / "sweeps").rglob("optimization_results.yaml")
    values = [json.loads(path.read_text())["values"] for path in (outputs / "runs").glob("*/metrics.json")]
    assert len(values) == 2
    assert f"best_value: {min(value['bits_per_dim'] for value in values)}" in result.read_text()


def test_a_metric_that_is_not_there_is_named(lab):
    code, _, err = lab("train", *TINY, *STRIDED, "objective_metric=fid")
    assert code == 1
    assert "objective_metric=fid" in err
    assert "bits_per_dim" in err
    lab.refused("train", *TINY, *STRIDED, "objective_metric=fid", "score=false", said="remove score=false")
