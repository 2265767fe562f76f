"""Commands run as a user runs them, in a folder of their own, on the smallest problem that has every part."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from fontTools.subset import Options
from hydra.core.global_hydra import GlobalHydra

from diffusion_lab.commands import app
from diffusion_lab.store import ModelDirectory, named_model, provenance
from diffusion_lab.store.files import MARKER

from .cluster import slurm_answers

TINY = [
    "network.base_channels=8",
    "network.channel_multipliers=[1]",
    "network.attention_resolutions=[]",
    "network.head_channels=8",
    "schedule.num_timesteps=12",
    "data.batch_size=8",
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "callbacks.sample_grid.every_n_steps=0",
    "evaluation.num_samples=8",
    "metrics.bits_per_dim.num_images=4",
    "features=pixels",
]
# In place of those of the U-Net in `TINY`: both transformers, JiT with tokens in context after its first block.
NARROW = ["network.width=16", "network.num_blocks=3", "network.num_heads=2", "network.patch_size=2"]
TRANSFORMERS = {name: [f"network=diffusion/{name}", *NARROW] for name in ("dit", "jit")}
# Each residual of flow maps on a network.
FLOW_MAPS = {"eulerian": "unet", "lagrangian": "dit", "progressive": "jit", "consistency": "unet"}
ROUNDS_LITTLE = ["optimizer=adamw", "trainer.precision=32-true"]  # several ranks then train what one does, closely
STRIDED = ["sampler.spacing.num_steps=3"]


def with_network(name: str, options: Sequence[str]) -> list[str]:
    """Options of a small U-Net, or those of a transformer of `TRANSFORMERS` in their place."""
    if name == "unet":
        return [*options]
    return [
        *TRANSFORMERS[name],
        *(o for o in options if not o.startswith("network.") or o.startswith("network.dropout")),
    ]


def of_flow_map(residual: str, options: Sequence[str]) -> list[str]:
    """These options for a flow map trained by a residual, on its network of `FLOW_MAPS`."""
    kept = [option for option in options if not option.startswith(("variance=", "objective=", "timesteps"))]
    flow_map = ["objective=flow_map", f"objective/residual={residual}", "objective.curriculum=0.5"]
    return [*with_network(FLOW_MAPS[residual], kept), *flow_map, "variance=fixed_small"]


# By the name of `trained_model`: a small model of each family. Later options overrule earlier ones.
_UNET = [*[option for option in TINY if option.startswith("network.")], "schedule.num_timesteps=24"]
_SHORT = [option for option in TINY if not option.startswith(("network.", "schedule.", "trainer.max_steps"))]
_SHORT += ["seed=1", "trainer.max_steps=20", "ema.decays=[0.9]", "score=false", "val.every_n_steps=0"]
_SIX = ["sampler=strided", "sampler.spacing.num_steps=6"]
_NARROW = ["network.base_channels=4", "network.channel_multipliers=[1,2]"]
_OF_CLASSES = ["schedule.num_timesteps=24", *_SIX, "condition=classes"]
SMALL_MODELS = {
    "diffusion_conditional": [*_UNET, *_SIX, "condition=classes"],
    "diffusion_fixed": [
        *(*_UNET, *_SIX, "schedule=linear", "prediction=noise", "objective=simple", "variance=fixed_small")
    ],
    "diffusion_points": ["data=two_moons", "network.hidden=8", "schedule.num_timesteps=24", *_SIX],
    **{name: [*options, *_OF_CLASSES] for name, options in TRANSFORMERS.items()},
    "flow": ["model=flow", "network.hidden=4", "network.num_steps=2"],
    "gan": ["model=gan", *_NARROW, "network.latent_size=4"],
    "noisy_classifier": ["model=noisy_classifier", *_UNET],
    "vae": ["model=vae", *_NARROW, "network.latent_dim=2"],
}


@pytest.fixture(scope="session", autouse=True)
def fonts_without_layout(hydra_in_less_time):
    """Figures embed their fonts. A font's tables of layout, which no reader of a PDF needs, take most of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "_drop_tables_default", [*Options._drop_tables_default, "GDEF", "GPOS", "GSUB"])
        yield


@pytest.fixture
def lab(tmp_path, tmp_path_factory, monkeypatch, capfd, given_before):
    """lab("train", "option=value", …) -> (exit code, stdout, stderr), through the same entry as the installed command.

    lab.done("train", …) -> stdout of a command that succeeds.
    lab.refused("train", …, said="words") -> the sentence, with these words, of a command that fails and writes nothing.
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
        provenance._code.cache_clear()  # as in a process of its own
        capfd.readouterr()
        code = app.run(command, list(options))
        out, err = capfd.readouterr()
        return code, out, err

    def done(*command: str) -> str:
        code, out, err = run(*command)
        assert code == 0, err
        return out

    def refused(*command: str, said: str | Sequence[str]) -> str:
        before = files(tmp_path)
        code, _, err = run(*command)
        assert (code, len(err.strip().splitlines())) == (1, 1), err
        assert all(words in err for words in ([said] if isinstance(said, str) else said)), err
        print(err.strip())  # pytest -s
        assert files(tmp_path) == before
        return err

    def given(*command: str) -> None:
        if command not in given_before:
            folder = tmp_path_factory.mktemp("given")
            with contextlib.chdir(folder):
                done(*command)
            given_before[command] = folder
        shutil.copytree(given_before[command], tmp_path, copy_function=shutil.copy, dirs_exist_ok=True)

    run.folder, run.given, run.done, run.refused = tmp_path, given, done, refused
    imported = {*sys.modules}
    handlers, level = [*logging.root.handlers], logging.root.level
    yield run
    logging.root.handlers, logging.root.level = handlers, level  # hydra.verbose changes them
    # Modules of this folder: the next test has its own, some under the same name.
    for name in sys.modules.keys() - imported:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def given_before():
    """The folder that each command of `lab.given` was run in."""
    return {}


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory, hydra_in_less_time):
    """trained_model("gan") -> the folder of that model of `SMALL_MODELS`, trained once a session: copy it before you change it.

    Its config, weights and what came of its training, as if from elsewhere: without our records, snapshots and logs.
    """

    @functools.cache
    def train(name: str) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["diffusion-lab"])
            patch.setattr(sys, "path", [*sys.path])
            GlobalHydra.instance().clear()
            assert app.run("train", [*SMALL_MODELS[name], *_SHORT]) == 0
            GlobalHydra.instance().clear()
        (model,) = (folder / "outputs" / "models").iterdir()
        return Path(
            shutil.copytree(
                model,
                folder / name,
                ignore=shutil.ignore_patterns(".*", "at_*", "power_*", "metrics.csv", "status.json"),
            )
        )

    return train


@pytest.fixture
def old_model(trained_model):
    """old_model("gan", outputs) -> a model that other code trained, where its command would have put it.

    changed: keys of its config.
    """

    def put(kind: str = "gan", outputs: Path = Path("outputs"), **changed: object) -> ModelDirectory:
        fingerprint = hashlib.sha256(kind.encode()).hexdigest()
        model = named_model(outputs, f"digits-{kind.partition('_')[0]}-{fingerprint[:12]}")
        shutil.copytree(trained_model(kind), model.path)
        training = model.read_training() | {"fingerprint": fingerprint}
        del training["code"]
        model.training.write_text(json.dumps(training))
        if changed:
            config = yaml.safe_load(model.config.read_text())
            for key, value in changed.items():
                config[key] |= value
            model.config.write_text(yaml.safe_dump(config))
        return model

    return put


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
    """All files in a folder except our markers, and what Python compiles."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return sorted(str(path.relative_to(folder)) for path in found if path.parent.name != "__pycache__")


def scored(folder: Path) -> list[dict]:
    """metrics.json of every run in a folder's outputs."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/runs/*/metrics.json"))]
