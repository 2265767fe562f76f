"""Commands run as a user runs them, in a folder of their own, on the smallest problem that has every part."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fontTools.subset import Options
from hydra.core.global_hydra import GlobalHydra

from diffusion_lab import written
from diffusion_lab.commands import app
from diffusion_lab.from_config.frozen import CODE
from diffusion_lab.imports import is_lab

from .cluster import slurm_answers
from .composing import less_composing

TINY = [
    "network.base_channels=8",
    "network.channel_multipliers=[1]",
    "network.attention_resolutions=[]",
    "network.head_channels=8",
    "schedule.num_timesteps=24",
    "data.batch_size=8",
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "callbacks.sample_grid.every_n_steps=0",
    "evaluation.num_samples=8",
    "metrics.bits_per_dim.num_images=4",
    "features=pixels",
]
ROUNDS_LITTLE = ["optimizer=adamw", "trainer.precision=32-true"]  # several ranks then train what one does, closely
STRIDED = ["sampler.spacing.num_steps=3"]


@pytest.fixture(scope="session", autouse=True)
def fonts_without_layout():
    """Figures embed their fonts. A font's tables of layout, which no reader of a PDF needs, take most of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "_drop_tables_default", [*Options._drop_tables_default, "GDEF", "GPOS", "GSUB"])
        yield


@pytest.fixture(scope="session", autouse=True)
def hydra_in_less_time():
    with less_composing():
        yield


def forget_users_code() -> None:
    """A process reads each file once, and a command is a process: the next one has read none of this folder's."""
    for name in [name for name in CODE._modules if not is_lab(name)]:
        del CODE._modules[name]
        CODE._targets.pop(name, None)


@pytest.fixture
def lab(tmp_path, tmp_path_factory, monkeypatch, capfd, given_before):
    """lab("train", "option=value", …) -> (exit code, stdout, stderr), through the same entry as the installed command.

    lab.given("train", …): what that command writes lies in the folder. It runs once a session; each test has a copy.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", ["diffusion-lab"])
    monkeypatch.setattr(sys, "path", [*sys.path])  # a command looks for modules in its working directory

    def run(command: str, *options: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        capfd.readouterr()
        code = app.run(command, list(options))
        out, err = capfd.readouterr()
        return code, out, err

    def given(*command: str) -> None:
        if command not in given_before:
            folder = tmp_path_factory.mktemp("given")
            with contextlib.chdir(folder):
                code, _, err = run(*command)
            assert code == 0, err
            given_before[command] = folder
        shutil.copytree(given_before[command], tmp_path, copy_function=shutil.copy, dirs_exist_ok=True)

    run.folder, run.given = tmp_path, given
    yield run
    # Modules of this folder: the next test has its own, some under the same name.
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    forget_users_code()


@pytest.fixture(scope="session")
def given_before():
    """The folder that each command of `lab.given` was run in."""
    return {}


@pytest.fixture
def process(tmp_path):
    """process("train", …) -> a finished real process of the installed command, in a folder of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = Path(sys.executable).parent / "diffusion-lab"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment}
        return subprocess.run(
            [command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    run.folder = tmp_path
    return run


@pytest.fixture(scope="session")
def cluster():
    """A Slurm that answers."""
    if not slurm_answers():
        pytest.skip('no Slurm answers: .ci/slurm start && eval "$(.ci/slurm env)"')


def files(folder: Path) -> list[str]:
    """All files in a folder except our records (`.written`)."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != written.FILE
    )
