import subprocess
import sys

import pytest

from diffusion_lab.store import model_directory, run_directory
from diffusion_lab.sweeps.plan import PlannedCell, plan, sweep_content


@pytest.fixture
def cells(tmp_path):
    """Two schedules of one network, two variances that share it, two samplers."""
    made = []
    for schedule, digit in (("linear", "1"), ("cosine", "2")):
        for variance in ("small", "large"):
            for sampler in ("ddpm", "ddim"):
                choices = {"schedule": schedule, "variance": variance, "sampler": sampler}
                overrides = tuple(f"{key}={value}" for key, value in choices.items())
                model = model_directory(tmp_path, "digits", "diffusion", digit * 64)
                made.append(PlannedCell(choices, overrides, model, run_directory(tmp_path, "-".join(choices.values()))))
    return made


def test_each_model_is_trained_once_with_the_options_of_one_of_its_cells(cells):
    planned = plan(cells, len(cells))
    assert [job.label for job in planned.to_train] == ["schedule=linear", "schedule=cosine"]
    assert [job.overrides for job in planned.to_train] == [(*cells[k].overrides, "score=false") for k in (0, 4)]
    assert [job.folder for job in planned.to_score] == [cell.run.path for cell in cells]
    assert [[work.folder for work in job.work] for job in planned.jobs] == [
        [cells[k].model.path, *(cell.run.path for cell in cells[k : k + 4])] for k in (0, 4)
    ]
    assert planned.summary() == ["2 models: 2 to train, 0 reused", "8 cells: 8 to score, 0 scored already"]


def test_what_is_there_is_left_alone(cells):
    cells[0].model.finish(1, 1.0, 1)
    cells[0].run.write_metrics({})
    planned = plan(cells, len(cells))
    assert [job.label for job in planned.to_train] == ["schedule=cosine"]
    assert [len(job.work) for job in planned.jobs] == [3, 5]
    assert planned.summary() == ["2 models: 1 to train, 1 reused", "8 cells: 7 to score, 1 scored already"]
    unscored = plan(cells, len(cells), score=False)
    assert unscored.to_score == ()
    assert [job.work for job in unscored.jobs] == [planned.to_train]
    assert unscored.summary()[1] == "8 cells: 0 to score, 1 scored already"


def test_a_share_does_not_depend_on_what_is_missing(cells):
    def shares():
        return {
            job.name[-3:]: [work.folder.name for work in job.work] for job in plan(cells[:4], 4, jobs_per_model=3).jobs
        }

    model, runs = cells[0].model.path.name, [cell.run.path.name for cell in cells[:4]]
    assert shares() == {"111": [model, runs[0], runs[3]], "1-2": [model, runs[1]], "1-3": [model, runs[2]]}
    cells[0].model.finish(1, 1.0, 1)
    for done in (0, 1):
        cells[done].run.write_metrics({})
    assert shares() == {"111": [runs[3]], "1-3": [runs[2]]}


def test_shares_that_wait_come_after_those_that_train(cells):
    """Else they would keep the places of models that could train meanwhile."""
    names = [job.name[-3:] for job in plan(cells, 8, jobs_per_model=2).jobs]
    assert names == ["111", "222", "1-2", "2-2"]


def test_what_is_to_be_made_anew_is_done_when_it_has_changed(cells):
    cells[0].run.write_metrics({})
    again = plan(cells[:1], 1, rescore=True).to_score
    assert not again[0].done
    cells[0].run.metrics.unlink()
    assert not again[0].done
    cells[0].run.write_metrics({"values": {}})
    assert again[0].done
    assert len(plan(cells, 8, retrain=True).to_train) == 2
    assert len(plan(cells, 8, retrain=True).to_score) == 8


def test_cells_that_are_one_run_are_one_cell(cells):
    alias = PlannedCell({**cells[0].choices, "variance": "tiny"}, ("variance=tiny",), cells[0].model, cells[0].run)
    planned = plan([*cells, alias], 9)
    assert planned.cells == tuple(cells)
    assert planned.summary()[1].startswith("8 cells from 9 combinations, some of them equal: ")


def test_the_record_says_where_each_cell_lies(cells):
    axes = {"schedule": ["linear", "cosine"]}
    content = sweep_content(plan(cells, 8), name="name", axes=axes, evaluation_seed=0)
    assert content["evaluation_seed"] == 0
    assert content["cells"][0] == {
        "choices": {"schedule": "linear", "variance": "small", "sampler": "ddpm"},
        "overrides": ["schedule=linear", "variance=small", "sampler=ddpm"],
        "model": f"digits-diffusion-{'1' * 12}",
        "run": "linear-small-ddpm",
    }


def test_importing_sweeps_brings_no_torch():
    program = (
        "import sys, diffusion_lab.sweeps.plan, diffusion_lab.sweeps.axes, diffusion_lab.sweeps.watch;"
        "sys.exit(bool({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
