"""Paths in outputs/: models, runs and sweeps. Nothing here makes a folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from diffusion_lab.store.cache import CacheDirectory
from diffusion_lab.store.directories import AGAIN, ModelDirectory, RunDirectory, SweepDirectory
from diffusion_lab.store.lock import hold
from diffusion_lab.store.records import RunError

FINGERPRINT_LENGTH = 12  # hex digits in a folder's name
_MODELS, _RUNS, _SWEEPS, _CACHE = "models", "runs", "sweeps", "cache"


def model_directory(outputs: Path, data: str, model: str, fingerprint: str) -> ModelDirectory:
    """The directory of a model, existing or not. fingerprint: the hex digest of its training."""
    return ModelDirectory(outputs / _MODELS / f"{data}-{model}-{fingerprint[:FINGERPRINT_LENGTH]}")


def named_model(outputs: Path, name: str) -> ModelDirectory:
    """The model directory of this name."""
    return ModelDirectory(outputs / _MODELS / name)


def run_directory(outputs: Path, run_id: str) -> RunDirectory:
    return RunDirectory(outputs / _RUNS / run_id)


def sweep_directory(outputs: Path, name: str) -> SweepDirectory:
    return SweepDirectory(outputs / _SWEEPS / name)


def finish_swaps(outputs: Path) -> None:
    """Put trainings of `retrain=true` that have finished in their places, where a process was killed before it did."""
    for path in (outputs / _MODELS).glob(f"{AGAIN}*"):
        model = ModelDirectory(ModelDirectory(path).home)
        if model.beside.finished:
            with suppress(OSError), hold(model.path, _not_now):  # in use, or read-only: the old model stays valid
                model.swap()


def models_in(outputs: Path) -> list[ModelDirectory]:
    """All model directories, finished or not, by name."""
    return [ModelDirectory(path) for path in _folders(outputs / _MODELS)]


def runs_folder(outputs: Path) -> Path:
    """The folder of all scored cells."""
    return outputs / _RUNS


def runs_in(outputs: Path) -> list[RunDirectory]:
    """All run directories, scored or not, by name."""
    return [RunDirectory(path) for path in _folders(outputs / _RUNS)]


def scored_runs(folder: Path) -> list[RunDirectory]:
    """The scored cells in a folder of runs, by name."""
    return [run for run in map(RunDirectory, _folders(folder)) if run.metrics.is_file()]


def sweeps_in(outputs: Path) -> list[SweepDirectory]:
    """Every sweep, by name."""
    return [sweep for sweep in map(SweepDirectory, _folders(outputs / _SWEEPS)) if sweep.sweep.is_file()]


def named_sweep(outputs: Path, named: str | None) -> SweepDirectory:
    """The sweep in the folder `named`, or with that name in outputs/sweeps; None: the newest. RunError if there is none."""
    sweeps, folder = sweeps_in(outputs), outputs / _SWEEPS
    if named is None and sweeps:
        return max(sweeps, key=lambda sweep: sweep.sweep.stat().st_mtime_ns)
    if named is None:
        runs = outputs / _RUNS
        scores = f", or name the scores with runs={runs}" if scored_runs(runs) else ""
        raise RunError(f"there is no sweep in {folder}; run `diffusion-lab train -m …` first{scores}")
    for sweep in (SweepDirectory(Path(named)), sweep_directory(outputs, named)):
        if sweep.sweep.is_file():
            return sweep
    there = f"there are {', '.join(sweep.path.name for sweep in sweeps)}" if sweeps else f"there is none in {folder}"
    raise RunError(f"sweep={named}: there is no such sweep; {there}")


def _not_now(holder: str) -> None:
    """Refuse to wait, as the argument `waiting` of `lock.hold`."""
    raise BlockingIOError(f"held by {holder}")


def cache_directory(outputs: Path, since: float = 0.0) -> CacheDirectory:
    return CacheDirectory(outputs / _CACHE, since)


def features_file(outputs: Path, data: str, digest: str) -> Path:
    """The file of features trained on these data with this SHA-256."""
    return outputs / "features" / f"{data}-{digest[:FINGERPRINT_LENGTH]}.safetensors"


def newest_model(outputs: Path) -> ModelDirectory:
    """The model that `train` finished, or found finished, last; one that draws no samples only if there is no other.

    RunError if there is none.
    """
    models = models_in(outputs)
    finished = [model for model in models if model.finished]
    if not finished:
        others = f" ({len(models)} unfinished)" if models else ""
        quick = outputs / "debug"
        there = f", or set outputs={quick}" if any(model.finished for model in models_in(quick)) else ""
        raise RunError(
            f"there is no trained model in {outputs / _MODELS}{others}; run `diffusion-lab train` first{there}"
        )
    return max(finished, key=lambda model: (model.is_generative, model.training.stat().st_mtime_ns))


def _folders(above: Path) -> list[Path]:
    return sorted(path for path in above.glob("[!.]*") if path.is_dir())
