"""diffusion-lab doctor: check what this machine has and lacks for the lab, with the fix for each problem.

A check is a function that returns what it found and the fix, empty if nothing is wrong. It uses no network and
changes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig
from packaging.requirements import Requirement
from rich.text import Text

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.sweeps.slurm import ask
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.devices import Place, auto_precision, num_cores, usable_gpus, visible_gpus
from diffusion_lab.training.trackers import WeightsAndBiases

NEEDED = ("packages", "PyTorch", "disk", "data=digits")  # by `diffusion-lab train`
EXTRAS = {  # extra in pyproject.toml -> the options that need it
    "slurm": "hydra/launcher=slurm and hydra/launcher=local",
    "optuna": "hydra/sweeper=optuna",
    "mlflow": "logger=mlflow",
    "dashboard": "diffusion-lab dashboard",
    "demo": "diffusion-lab demo",
    "huggingface": "data=hf_dataset",
    "zarr": "data=arrays with .zarr",
    "hdf5": "data=arrays with HDF5 and netCDF 4",
    "diffusers": "diffusion-lab export format=diffusers, and diffusion-lab import of such folders",
}
_PACKAGE = "diffusion-lab"
_LEAST_DISK, _LITTLE_DISK = 0.2, 5  # GiB; the default command writes about 0.02, a sweep of larger models more

Answer = tuple[str, str]


def run(cfg: DictConfig) -> None:
    """Print a line for each check, with the fix below it. MistakeError if the default command would fail."""
    console, broken, every = Terminal(), [], checks(Path(cfg.outputs))
    width = 1 + max(map(len, every))
    for name, look in every.items():
        try:
            found, to_do = look()
        except ImportError as error:
            found, to_do = "not checked", f"repair the installation: {' '.join(str(error).split())}"
        state, style = ("ok", "green") if not to_do else ("missing", "yellow")
        if to_do and name in NEEDED:
            state, style = "broken", "red"
            broken.append(name)
        console.print(Text.assemble((f"{state:<8}", style), name.ljust(width), found))
        if to_do:
            console.print(Text(f"{'':<{8 + width}}→ {to_do}", style="dim"))
    if broken:
        raise MistakeError(f"`diffusion-lab train` does not work here; fix {', '.join(broken)} first (see above)")
    console.print("\n`diffusion-lab train` works here.")


def checks(outputs: Path) -> dict[str, Callable[[], Answer]]:
    """All checks by name: first what most need, last the data sets."""
    machine: dict[str, Callable[[], Answer]] = {
        "PyTorch": pytorch,
        "GPU": gpus,
        "disk": partial(disk, outputs),
        "Slurm": slurm,
        "W&B": wandb,
    }
    extras = {f"extra {name}": partial(extra, name) for name in EXTRAS}
    data = {f"data={file.stem}": partial(data_set, file) for file in sorted((CONF / "data").glob("*.yaml"))}
    return {"packages": packages, **machine, **extras, **data, "features=inception": inception_weights}


def packages() -> Answer:
    unmet = "; ".join(_unmet(""))
    python = f"Python {platform.python_version()} ({metadata(_PACKAGE)['Requires-Python']} is needed)"
    to_do = "pip install -e . (or pip install -U diffusion-lab)" if unmet else ""
    return f"{python}; {unmet or 'all packages that are required are installed'}", to_do


def extra(name: str) -> Answer:
    unmet = "; ".join(one for one in _unmet(name) if one not in _unmet(""))
    return (
        f"{unmet} (for {EXTRAS[name]})" if unmet else f"for {EXTRAS[name]}",
        unmet and f"pip install '{_PACKAGE}[{name}]'",
    )


def _unmet(extra: str) -> list[str]:
    """A phrase for each unmet requirement of the package with this extra."""
    found = []
    for one in map(Requirement, requires(_PACKAGE) or []):
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            try:
                if not one.specifier.contains(version(one.name), prereleases=True):
                    found.append(f"{one.name} {version(one.name)} does not satisfy {one.specifier}")
            except PackageNotFoundError:
                found.append(f"{one.name} is not installed")
    return found


def pytorch() -> Answer:
    import torch

    return f"{torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'}", ""


def gpus() -> Answer:
    """The GPUs that PyTorch can use, or the threads on the CPU, and the meaning of trainer.precision=auto."""
    import torch

    count, visible = len(usable_gpus()), len(visible_gpus())
    precision = f"trainer.precision=auto is {auto_precision(on_gpu=count > 0)}"
    if count:
        names = ", ".join(sorted({torch.cuda.get_device_name(index) for index in range(count)}))
        return f"{count} ({names}), CPU cores: {num_cores()}; {precision}", ""
    here = f"training runs on {Place((), 1, torch.get_num_threads())}; {precision}"
    if visible:
        to_do = "install a PyTorch that was built for your driver (pytorch.org/get-started)"
        return f"{visible} visible, but PyTorch can use none of them; {here}", to_do
    return f"none; {here}", "use a machine with a GPU for images of 32×32 and larger; smaller ones train on a CPU"


def disk(outputs: Path) -> Answer:
    """Whether `outputs` can be written, and the free space there."""
    folder = next(path for path in (outputs.absolute(), *outputs.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written", "work in a folder that you may write to, or set outputs=FOLDER"
    free = shutil.disk_usage(folder).free / 2**30
    to_do = "free some space, or set outputs=FOLDER on another disk" if free < _LEAST_DISK else ""
    return f"{free:,.1f} GiB free for {outputs}{', little for a sweep' if free < _LITTLE_DISK else ''}", to_do


def slurm() -> Answer:
    if shutil.which("sbatch") is None:
        to_do = "log in to a node of your cluster that has sbatch; without a cluster use hydra/launcher=local"
        return "sbatch is not installed here", to_do
    partitions = ask("sinfo", "--noheader", "--format=%R", seconds=10)
    if partitions is None:
        to_do = "run `scontrol ping`, and show its output to your administrator"
        return "sbatch is installed, but Slurm's controller does not respond", to_do
    return f"partitions: {', '.join(dict.fromkeys(partitions.split())) or 'none'}", ""


def wandb() -> Answer:
    """Weights & Biases: the package and an API key. The key is not sent anywhere, so it may be outdated."""
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        WeightsAndBiases("diffusion-lab", None)
    except ValueError as error:
        return "installed, without an API key", str(error)
    mode = os.environ.get("WANDB_MODE", "online")
    return "installed, with an API key" if mode == "online" else f"installed; WANDB_MODE={mode}", ""


def data_set(file: Path) -> Answer:
    """A data set of conf/data. Files are located and hashed; no image is decoded."""
    options: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]
    if unset := [f"data.{key}=…" for key, value in options.items() if value == "???"]:
        return f"reads the files that you set with {' and '.join(unset)}", ""
    missing = instantiate({**options, "seed": 0}).missing() or ""
    return "not on this machine" if missing else "ready", missing


def inception_weights() -> Answer:
    """The weights of the Inception network of the original FID."""
    from diffusion_lab.metrics.features import WeightsError
    from diffusion_lab.metrics.features.inception import check_file, usual_file

    try:
        check_file(usual_file())
    except WeightsError as error:
        return "not on this machine", str(error)
    return "the published weights were found", ""
