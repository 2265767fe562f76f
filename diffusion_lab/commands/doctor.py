"""diffusion-lab doctor: check what this machine has and lacks for the lab, with the fix for each problem.

A check is a function that returns what it found and the fix, empty if nothing is wrong. It uses no network and changes nothing.
torch is imported in the checks, so that one that cannot be imported is reported.
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
from diffusion_lab.training.devices import JobDevices, auto_precision, num_cores, usable_gpus, visible_gpus
from diffusion_lab.training.trackers import WeightsAndBiases

NEEDED = ("packages", "PyTorch", "disk", "data=digits")  # by `diffusion-lab train`
_OF_DEVELOPERS = {"test", "dev", "docs"}  # extras
_PACKAGE = "diffusion-lab"
_LEAST_DISK = 0.2  # GiB; the default command writes about 0.02

Answer = tuple[str, str]


def run(cfg: DictConfig) -> None:
    """Print a line for each check, with the fix below it. MistakeError if the default command would fail."""
    console, broken, every = Terminal(), [], checks(Path(cfg.outputs))
    width = 1 + max(map(len, every))
    for name, look in every.items():
        try:
            found, fix = look()
        except ImportError as error:
            found, fix = "not checked", f"repair the installation: {' '.join(str(error).split())}"
        state, style = ("ok", "green") if not fix else ("broken", "red") if name in NEEDED else ("missing", "yellow")
        console.print(Text.assemble((f"{state:<8}", style), name.ljust(width), found))
        if fix:
            console.print(Text(f"{'':<{8 + width}}→ {fix}", style="dim"))
        broken += [name] if state == "broken" else []
    if broken:
        raise MistakeError(f"`diffusion-lab train` does not work here; fix {', '.join(broken)} first (see above)")
    console.print("\n`diffusion-lab train` works here.")


def checks(outputs: Path) -> dict[str, Callable[[], Answer]]:
    """All checks by name: the most needed first, data sets last."""
    names = [name for name in metadata(_PACKAGE).get_all("Provides-Extra", []) if name not in _OF_DEVELOPERS]
    found: dict[str, Callable[[], Answer]] = {"packages": packages, "PyTorch": pytorch, "GPU": gpus}
    found |= {"disk": partial(disk, outputs), "Slurm": slurm, "W&B": wandb}
    found |= {f"extra {name}": partial(extra, name) for name in names}
    found |= {f"data={file.stem}": partial(data_set, file) for file in sorted((CONF / "data").glob("*.yaml"))}
    return found | {"features=inception": inception_weights}


def packages() -> Answer:
    unmet = "; ".join(_unmet(""))
    python = f"Python {platform.python_version()} ({metadata(_PACKAGE)['Requires-Python']} is needed)"
    fix = "pip install -e . (or pip install -U diffusion-lab)" if unmet else ""
    return f"{python}; {unmet or 'all packages that are required are installed'}", fix


def extra(name: str) -> Answer:
    unmet = "; ".join(one for one in _unmet(name) if one not in _unmet(""))
    return unmet or "installed", f"pip install '{_PACKAGE}[{name}]'" if unmet else ""


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
    here = f"training runs on {JobDevices((), 1, torch.get_num_threads())}; {precision}"
    if visible:
        fix = "install a PyTorch that was built for your driver (pytorch.org/get-started)"
        return f"{visible} visible, but PyTorch can use none of them; {here}", fix
    return f"none; {here}", "use a machine with a GPU for images of 32×32 and larger; smaller ones train on a CPU"


def disk(outputs: Path) -> Answer:
    """Whether `outputs` can be written, and the free space there."""
    folder = next(path for path in (outputs.absolute(), *outputs.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} cannot be written", "work in a folder that you may write to, or set outputs=FOLDER"
    free = shutil.disk_usage(folder).free / 2**30
    fix = "free some space, or set outputs=FOLDER on another disk" if free < _LEAST_DISK else ""
    return f"{free:,.1f} GiB free for {outputs}", fix


def slurm() -> Answer:
    if shutil.which("sbatch") is None:
        return "sbatch is not installed here", "work on a node of your cluster that has it, or use hydra/launcher=local"
    partitions = ask("sinfo", "--noheader", "--format=%R", seconds=10)
    if partitions is None:
        return (
            "sbatch is installed, but Slurm's controller does not respond",
            "show `scontrol ping` to your administrator",
        )
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
