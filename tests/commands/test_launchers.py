"""Multiruns on Slurm, as far as they go without one, and in processes of this machine; a real Slurm is in test_slurm.py."""

import re

import pytest

from .cluster import scored_cells
from .conftest import STRIDED, TINY, files
from .test_sweep import FAILS

SLURM = ["-m", "hydra/launcher=slurm"]


@pytest.mark.thorough
def test_a_dry_run_shows_the_script_and_submits_nothing(lab):
    site = [
        "hydra.launcher.partition=gpu",
        "hydra.launcher.account=me",
        "hydra.launcher.time=90",
        "hydra.launcher.qos=high",
        "hydra.launcher.constraint=a100",
        "hydra.launcher.python=apptainer exec lab.sif python",
        "hydra.launcher.array_parallelism=2",
    ]
    site += [
        "hydra.launcher.setup=[module load cuda]",
        "+hydra.launcher.more.reservation=ours",
        "trainer=ddp",
        "trainer.num_nodes=4",
    ]
    out = lab.done(
        "train", *SLURM, "hydra.launcher.dry_run=true", *TINY, *STRIDED, "seed=1,2,3", "data.batch_size=16", *site
    )
    assert "3 jobs would be submitted" in out
    for line in (
        "#SBATCH --array=0-2%2",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=me",
        "#SBATCH --time=90",
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --qos=high",
        "#SBATCH --constraint=a100",
        "#SBATCH --reservation=ours",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "module load cuda",
    ):
        assert f"\n{line}\n" in out
    assert "--kill-on-bad-exit=1" in out
    assert " apptainer exec lab.sif python -u -m submitit" in out
    assert files(lab.folder) == []


@pytest.mark.parametrize(
    ("options", "asked", "said"),
    [
        (["trainer.accelerator=gpu"], "gpus-per-node=2", "gpus_per_node 2"),
        (["trainer.accelerator=cpu"], None, "no GPU (trainer.accelerator=gpu requests them)"),
        (["trainer.accelerator=gpu", "hydra.launcher.gres=gpu:a100:2"], "gres=gpu:a100:2", "gres gpu:a100:2"),
    ],
)
def test_a_gpu_is_asked_for_where_training_is_on_one_and_the_plan_says_so(lab, options, asked, said):
    out = lab.done("train", *SLURM, "hydra.launcher.dry_run=true", *TINY, *STRIDED, "trainer=ddp", *options)
    assert re.findall("^#SBATCH --(g.*)$", out, re.MULTILINE) == ([asked] if asked else [])
    (line,) = [line for line in out.splitlines() if line.startswith("Slurm: 1 job to train and score: ")]
    assert said in line
    assert "ntasks_per_node 2, time 240" in line or "time 240, nodes 1, ntasks_per_node 2" in line


def test_what_is_asked_for_may_differ_by_family_and_a_dry_run_records_nothing(lab, tmp_path):
    sizes = [
        "hydra.launcher.time={default:240,gan:60}",
        "hydra.launcher.mem={diffusion:32GB,gan:8GB}",
        "trainer.num_nodes=2",
    ]
    out = lab.done("train", *SLURM, "hydra.launcher.dry_run=true", "model=diffusion,gan", "score=false", *sizes)
    asked = re.findall(r"^#SBATCH --(mem|time)=(\S+)$", out, re.MULTILINE)
    assert asked == [("mem", "32GB"), ("time", "240"), ("mem", "8GB"), ("time", "60")]
    assert "2 cells: not scored (score=false)" in out
    assert out.count("Slurm: 1 job to train: ") == 2
    assert out.count("#SBATCH --cpus-per-task=4\n") == out.count(" --cpus-per-task=4 ") == 2
    assert "wckey" not in out
    assert out.count("#SBATCH --nodes=2\n") == 2
    assert not list(tmp_path.rglob("sweep.json"))


def test_without_slurm_one_sentence(lab, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no Slurm on this machine" in lab("train", *SLURM, *TINY, *STRIDED)[2]


@pytest.mark.needs("submitit")
def test_a_queue_that_rejects_a_job_is_one_sentence_and_no_job_is_left(lab, monkeypatch):
    for name in ("sbatch", "srun"):
        (lab.folder / name).write_text(
            "#!/bin/sh\necho 'sbatch: error: no\nsbatch: error: Invalid partition' >&2; exit 1\n"
        )
        (lab.folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(lab.folder), prepend=":")
    code, _, err = lab("train", *SLURM, "seed=1,2", *TINY, *STRIDED)
    assert (code, err) == (1, "diffusion-lab train: Slurm rejected the job: sbatch: error: Invalid partition\n")
    assert [*lab.folder.glob("outputs/sweeps/*/slurm/*")] == []


@pytest.mark.needs("submitit")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "hydra/launcher=local hydra.launcher.parallel={default:1}",
            "hydra.launcher.parallel={'default': 1} must be a whole number",
        ),
        ("hydra/launcher=slurm hydra.launcher.dry_run=true +hydra.launcher.foo=3", "+hydra.launcher.more.foo="),
    ],
)
def test_an_option_that_a_launcher_does_not_take(lab, options, said):
    lab.refused("train", "-m", *options.split(), *TINY, *STRIDED, said=said)


@pytest.mark.thorough
@pytest.mark.needs("submitit")
def test_jobs_beside_each_other_make_the_same_as_one_by_one(tmp_path, zygote):
    """Two models at a time, one of which fails: the other is scored, and the failed one says why."""
    cells = {}
    for launcher in ("basic", "local"):
        folder = tmp_path / launcher
        folder.mkdir()
        (folder / "fails.py").write_text(FAILS)
        options = [
            "+callbacks.fails._target_=fails.Fails",
            "+callbacks.fails.seed=${seed}",
            f"hydra/launcher={launcher}",
        ]
        running = zygote.start(folder, "train", "-m", *TINY, *STRIDED, "seed=1,2", *options)
        out, err = running.communicate()
        assert running.returncode == 1, out
        assert "models: 1 done, 1 failed; cells: 1 done, 1 failed" in err
        assert err.count("a cosmic ray") == 1
        assert "model 2 of 2" in out
        assert "cell 1 of 2  seed=1  → fd_pixels" in out
        cells[launcher] = scored_cells(folder)
    assert cells["basic"] == cells["local"]
