"""What a user installs: built as for publishing, installed outside the repository, used from an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from diffusion_lab import __version__
from tests.commands.conftest import STRIDED, TINY

ROOT = Path(__file__).parent.parent
PLACES = ("diffusion_lab", "hydra_plugins", "conf")  # what a user needs; conf/ lies inside the package of a wheel

SCHEDULE = "from diffusion_lab.diffusion import CosineSchedule\n\n\nclass Own(CosineSchedule):\n    pass\n"
SCHEDULE_YAML = "# The user's own.\n_target_: my_schedules.Own\nnum_timesteps: 24\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """(wheel, sdist); the wheel is built from the sdist, as whoever installs the sdist builds it."""
    folder = tmp_path_factory.mktemp("dist")
    # The build backend is that of this environment, so that nothing is fetched.
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The `bin` folder of a fresh environment outside the repository that holds this wheel and nothing else.

    What the wheel depends on is looked up in the environment of the tests, by a .pth file: installing torch again would
    take minutes. Such a file adds a folder behind the environment's own and reads no .pth files in there, so this
    repository, installed for development, is not found through it.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    Path(paths["purelib"], "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = Path(paths["scripts"], "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", built[0]]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path(paths["scripts"])


def lab(installed: Path, folder: Path, *arguments: str) -> str:
    """What `diffusion-lab` prints, called in `folder`."""
    done = subprocess.run(
        [installed / "diffusion-lab", *arguments],
        cwd=folder,
        env={**_environment(), "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    """Ours without what would lead Python back to this repository."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def test_the_container_gets_what_a_wheel_is_built_of():
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    files = {file for files in copied for file in files.split()}
    assert files == {*PLACES, "pyproject.toml", "README.md", "LICENSE"}
    sent = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert {*sent} == files


@pytest.mark.thorough
def test_wheel_and_sdist_hold_every_file_that_is_needed_and_no_other(built):
    wheel, sdist = built
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in PLACES
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {
        "diffusion_lab/metrics/weights/digits_cnn.safetensors",
        "diffusion_lab/py.typed",
        "conf/train.yaml",
    } <= sources
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert not [name for name in names if str(ROOT).encode() in archive.read(name)]
    assert names == {f"diffusion_lab/{source}" if source.startswith("conf/") else source for source in sources}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources | {"README.md", "LICENSE", "pyproject.toml", "tests/test_wheel.py"} <= names
    assert {name for name in names if name.startswith("outputs/")} == {"outputs/README.md"}


@pytest.mark.thorough
def test_an_installed_lab_trains_and_scores_with_a_users_own_schedule(installed, tmp_path):
    """From a folder that holds nothing but the user's module and yaml."""
    (tmp_path / "my_schedules.py").write_text(SCHEDULE)
    (tmp_path / "my_conf" / "schedule").mkdir(parents=True)
    (tmp_path / "my_conf" / "schedule" / "own.yaml").write_text(SCHEDULE_YAML)
    options = [option for option in TINY if not option.startswith("schedule.")]
    own = ["--config-dir", "my_conf", "schedule=own"]
    said = lab(installed, tmp_path, "train", *own, *options, *STRIDED)
    assert "fd_pixels" in said
    (model,) = (tmp_path / "outputs" / "models").iterdir()
    assert "my_schedules.Own" in (model / "config.yaml").read_text()

    (run,) = (tmp_path / "outputs" / "runs").glob("*/metrics.json")
    assert "Own(num_timesteps=24" in run.read_text()

    assert lab(installed, tmp_path, "--help").startswith(f"diffusion-lab {__version__}: ")
    drawn = "import diffusion_lab as lab; print(lab.__file__); "
    drawn += "print(lab.load(config_dir='my_conf').sample(2, num_steps=2).shape)"
    load = [installed / "python", "-c", drawn]
    environment = _environment() | {"DIFFUSION_LAB_TARGETS": "my_schedules"}
    done = subprocess.run(load, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, *_, shape = done.stdout.splitlines()
    assert shape == "torch.Size([2, 1, 8, 8])"
    assert found.startswith(str(installed.parent))  # not this repository
