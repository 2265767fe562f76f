import json
import shutil

import pytest
import yaml

from diffusion_lab.report.make import report_on_runs
from diffusion_lab.report.read import read_runs, read_sweep
from diffusion_lab.report.table import build_table
from diffusion_lab.store import RunDirectory, RunError
from diffusion_lab.store.status_file import Status

from .synthetic import write_sweep

AXES = {"schedule": ["linear", "cosine"], "seed": ["1", "2"]}


def test_cells_without_a_result_say_why(tmp_path):
    sweep = write_sweep(tmp_path, axes=AXES)
    failed, missing, broken, whole = read_sweep(sweep).cells
    failed.run.metrics.unlink()
    Status("failed", step=3, steps=9, reason="out of memory with batches of 128").write(failed.model.path)
    missing.run.metrics.unlink()
    broken.run.metrics.write_text('{"values": {"fd_digits_cnn": NaN}, "protocol": {"data": {}}}')
    cells = read_sweep(sweep).cells
    assert [cell.state for cell in cells] == ["failed", "missing", "failed", "done"]
    assert cells[0].reason == "training at step 3 of 9: out of memory with batches of 128"
    assert cells[1].reason == "trained, not scored yet"
    assert str(broken.run.metrics) in cells[2].reason
    assert "NaN is not a finite number" in cells[2].reason
    assert cells[3].values == whole.values


def changed(file, *keys, to):
    """A JSON file with another value at one place."""
    content = node = json.loads(file.read_text())
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = to
    file.write_text(json.dumps(content))


IN_CELL = [("choices",), ("choices", "schedule"), ("run",), ("model",)]


@pytest.mark.parametrize(
    "keys", [("axes",), ("axes", "seed"), ("cells",), ("command",), *(("cells", 1, *keys) for keys in IN_CELL)], ids=str
)
def test_a_sweep_with_odd_fields_is_one_sentence(tmp_path, keys):
    sweep = write_sweep(tmp_path, axes=AXES)
    changed(sweep.sweep, *keys, to={"odd": [7]})
    with pytest.raises(RunError, match=f"{sweep.sweep} is not valid"):
        read_sweep(sweep)


@pytest.mark.parametrize("choice", ["a" * 100_000, "<b>", ""])
def test_a_choice_that_no_option_can_be_is_no_score(tmp_path, choice):
    runs = sorted((write_sweep(tmp_path, axes=AXES).outputs / "runs").iterdir())
    changed(runs[0] / "metrics.json", "choices", "schedule", to=choice)
    (sentence,) = read_runs(runs, "").skipped
    assert "choices.schedule=" in sentence
    assert len(sentence) < 1000
    changed(runs[0] / "metrics.json", "choices", to={"model": "given images", "sampler/spacing": "mine/even-2.0"})
    assert read_runs(runs, "").skipped == []


def test_scores_with_odd_fields_are_read_or_left_out(tmp_path):
    runs = sorted((write_sweep(tmp_path, axes=AXES).outputs / "runs").iterdir())
    for run, place in zip(runs, ("samples.seed", "reference.split", "cost", "model_directory"), strict=True):
        changed(run / "metrics.json", "protocol", *place.split("."), to=[])
    assert report_on_runs(runs, tmp_path / "report", "").is_file()


def test_runs_without_a_sweep_find_their_axes(sweep):
    whole = read_sweep(sweep)
    assert len(whole.cells) == len(whole.done) == 60
    assert (whole.command[0], whole.skipped) == ("schedule=linear,cosine", [])
    gathered = read_runs(sorted((sweep.outputs / "runs").iterdir()), "picked")
    assert set(gathered.axes) == {"schedule", "variance", "sampler", "sampler.spacing.num_steps", "seed"}
    assert gathered.axes["sampler.spacing.num_steps"] == ["10", "50"]
    assert len(gathered.done) == 60
    assert all(cell.model.finished for cell in gathered.cells)


def test_noise_of_its_own_for_each_seed_is_one_choice(tmp_path):
    runs = sorted((write_sweep(tmp_path, axes=AXES).outputs / "runs").iterdir())
    assert "evaluation.seed" not in read_runs(runs, "").axes
    config = yaml.safe_load((runs[0] / "config.yaml").read_text())
    (runs[0] / "config.yaml").write_text(yaml.safe_dump({**config, "evaluation": {"seed": 9}}))
    assert read_runs(runs, "").axes["evaluation.seed"] == ["9", "seed"]


def test_models_that_no_option_tells_apart_are_rows_of_their_own(tmp_path):
    """As after a change of the code: of the same options and the same seed there are two models."""
    sweep = write_sweep(tmp_path, axes=AXES)
    old = read_sweep(sweep).cells[-1].run  # cosine, seed 2
    new = RunDirectory(sweep.outputs / "runs" / "again")
    shutil.copytree(old.path, new.path)
    metrics = json.loads(new.metrics.read_text())
    metrics["protocol"]["model_directory"] = "digits-diffusion-again"
    metrics["values"]["fd_digits_cnn"] = 99.0
    new.metrics.write_text(json.dumps(metrics))
    gathered = read_runs(sorted((sweep.outputs / "runs").iterdir()), "picked")
    assert gathered.axes["model_dir"] == ["digits-diffusion-again", "digits-diffusion-cosinefixed2"]
    rows = {row.choice: len(row.done) for row in build_table(gathered).rows}
    twice = {("cosine", name): 1 for name in gathered.axes["model_dir"]}
    assert rows == {("linear", None): 2, ("cosine", None): 1} | twice


@pytest.mark.parametrize(
    ("part", "wrong"), [("data", {}), ("bound", {"kind": None}), ("model", {"family": 3}), ("weights", ["raw"])]
)
def test_a_protocol_that_the_report_cannot_read_is_no_score(tmp_path, part, wrong):
    sweep = write_sweep(tmp_path, axes=AXES, change=lambda choices, metrics: metrics["protocol"].update({part: wrong}))
    gathered = read_runs(sorted((sweep.outputs / "runs").iterdir()), "picked")
    assert gathered.cells == []
    assert all(f"protocol.{part}" in sentence for sentence in gathered.skipped)


def test_foreign_and_broken_folders_are_named_and_left_out(tmp_path):
    sweep = write_sweep(tmp_path, axes=AXES)
    runs = sorted((sweep.outputs / "runs").iterdir())
    (runs[0] / "metrics.json").write_text("[1, 2")
    (runs[1] / "config.yaml").write_text("a: [1")
    foreign = tmp_path / "holiday"
    foreign.mkdir()
    gathered = read_runs([*runs, foreign, runs[2]], "picked")
    assert len(gathered.cells) == 3
    for folder, sentence in zip((runs[0], foreign, runs[1]), gathered.skipped, strict=True):
        assert str(folder) in sentence


def test_bounds_of_earlier_versions_are_called_as_today(tmp_path):
    """So that their scores are ranked with those of today."""
    earlier = "bound of 50 ancestral steps even in log SNR; this sampler has no bound of its own"

    def change(choices, metrics):
        metrics["protocol"]["bound"]["kind"] = (
            earlier if choices["sampler"] == "ddim" else "bound of 50 ancestral steps"
        )

    axes = {"sampler": ["ddim", "strided"], "seed": ["1", "2"]}
    table = build_table(read_sweep(write_sweep(tmp_path, axes=axes, change=change)))
    assert [len(one.rows) for one in table.groups[0].standings if one.measure.name == "bits_per_dim"] == [2]
