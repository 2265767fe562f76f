"""diffusion-lab doctor: check what this machine has and lacks for the lab, with the fix for each problem.

Each check is one function. No check uses the network or changes anything.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.text import Text

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.sweeps.jobs import ask
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.devices import Place, auto_precision, num_cores, usable_gpus, visible_gpus
from diffusion_lab.training.trackers import WeightsAndBiases

# LACKS: some commands or options do not work. BROKEN: `diffusion-lab train` does not work.
OK, LACKS, BROKEN = "ok", "missing", "broken"
_STYLES = {OK: "green", LACKS: "yellow", BROKEN: "red"}
_GIB = 2**30
_LEAST_DISK, _LITTLE_DISK = 0.2, 5  # GiB; the default command writes about 0.02, a sweep of larger models more
_CONTROLLER_SECONDS = 10
_DEFAULT_DATA = "digits"  # of `diffusion-lab train`
PACKAGE = "diffusion-lab"
EXTRAS = {  # extra in pyproject.toml -> the options that need it
    "slurm": "hydra/launcher=slurm and hydra/launcher=local",
    "optuna": "hydra/sweeper=optuna",
    "mlflow": "logger=mlflow",
    "dashboard": "diffusion-lab dashboard",
    "demo": "diffusion-lab demo",
    "huggingface": "data=hf_dataset",
    "zarr": "data=arrays with .zarr",
    "hdf5": "data=arrays with HDF5 and netCDF 4",
    "diffusers": "the folders of diffusion-lab export format=diffusers, and diffusion-lab import of such folders",
}


class Finding(NamedTuple):
    """One line of the check. found: the observation. to_do: the fix, empty if nothing is wrong. needed: whether `diffusion-lab
    train` needs it."""

    name: str
    found: str
    to_do: str = ""
    needed: bool = False

    @property
    def state(self) -> str:
        return OK if not self.to_do else BROKEN if self.needed else LACKS


def run(cfg: DictConfig) -> None:
    """Print one line per finding, with the fix below it. MistakeError if the default command would fail."""
    console, found = Terminal(), list(findings(Path(cfg.outputs)))
    width = 1 + max(len(each.name) for each in found)
    for each in found:
        console.print(Text.assemble((f"{each.state:<8}", _STYLES[each.state]), f"{each.name:<{width}}", each.found))
        if each.to_do:
            console.print(Text(f"{'':<{8 + width}}→ {each.to_do}", style="dim"))
    broken = [each.name for each in found if each.state == BROKEN]
    if broken:
        raise MistakeError(f"`diffusion-lab train` does not work here; fix {', '.join(broken)} first (see above)")
    console.print("\n`diffusion-lab train` works here.")


def findings(outputs: Path) -> Iterator[Finding]:
    """The findings of all checks. A package that cannot be imported is a finding, too."""
    checks: list[tuple[str, Callable[[], Iterable[Finding]], bool]] = [  # True: `diffusion-lab train` needs it
        ("packages", packages, True),
        ("GPU", devices, True),
        ("disk", partial(disk, outputs), True),
        ("Slurm", slurm, False),
        ("W&B", weights_and_biases, False),
        ("extras", extras, False),
        ("data sets", data_sets, True),
        ("features=inception", inception_weights, False),
    ]
    for name, look, needed in checks:
        try:
            yield from look()
        except ImportError as error:
            found = f"not checked: {' '.join(str(error).split())}"
            yield Finding(name, found, "repair the installation of the package", needed)


def packages() -> Iterator[Finding]:
    """The versions of Python and of the required packages. PackageNotFoundError, an ImportError, if this one is not installed."""
    wanted = metadata(PACKAGE)["Requires-Python"]
    to_do = "" if platform.python_version() in SpecifierSet(wanted) else f"make an environment with Python {wanted}"
    yield Finding("Python", f"{platform.python_version()} ({wanted} is needed)", to_do, needed=True)
    unmet = "; ".join(_unmet())
    to_do = "pip install -e . (or pip install -U diffusion-lab)" if unmet else ""
    yield Finding("packages", unmet or "all that are required are installed", to_do, needed=True)


def extras() -> Iterator[Finding]:
    """The optional extras and their uses."""
    for extra, use in EXTRAS.items():
        if unmet := "; ".join(_unmet(extra)):
            yield Finding(f"extra {extra}", f"{unmet} (for {use})", f"pip install 'diffusion-lab[{extra}]'")
        else:
            yield Finding(f"extra {extra}", f"for {use}")


def _unmet(extra: str = "") -> Iterator[str]:
    """One phrase for each unmet requirement of the package, or of one extra."""
    for one in map(Requirement, requires(PACKAGE) or []):
        always = one.marker is None or one.marker.evaluate({"extra": ""})
        if not (always if extra == "" else not always and one.marker and one.marker.evaluate({"extra": extra})):
            continue
        try:
            installed = version(one.name)
        except PackageNotFoundError:
            yield f"{one.name} is not installed"
        else:
            if not one.specifier.contains(installed, prereleases=True):
                yield f"{one.name} {installed} does not satisfy {one.specifier}"


def devices() -> Iterator[Finding]:
    """PyTorch, the GPUs that it can use or the threads on the CPU, and the meaning of trainer.precision=auto."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    yield Finding("PyTorch", f"{torch.__version__}, built for {build}")
    usable, training = usable_gpus(), f"training runs on {Place((), 1, torch.get_num_threads())}"
    precision = f"trainer.precision=auto is {auto_precision(on_gpu=bool(usable))}"
    if usable:
        names = sorted({torch.cuda.get_device_name(index) for index in range(len(usable))})
        yield Finding("GPU", f"{len(usable)} ({', '.join(names)}), CPU cores: {num_cores()}; {precision}")
    elif visible := visible_gpus():
        found = f"{len(visible)} visible, but PyTorch can use none of them; {training}; {precision}"
        yield Finding("GPU", found, "install a PyTorch that was built for your driver (pytorch.org/get-started)")
    else:
        to_do = "use a machine with a GPU for images of 32×32 and larger; smaller ones train on a CPU"
        yield Finding("GPU", f"none; {training}; {precision}", to_do)


def disk(outputs: Path) -> Iterator[Finding]:
    """Whether `outputs` can be written, and the free space there."""
    folder = next(path for path in (outputs.absolute(), *outputs.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        to_do = "work in a folder that you may write to, or set outputs=FOLDER"
        yield Finding("disk", f"{folder} cannot be written", to_do, needed=True)
        return
    free = shutil.disk_usage(folder).free / _GIB
    to_do = "free some space, or set outputs=FOLDER on another disk" if free < max(_LEAST_DISK, _LITTLE_DISK) else ""
    yield Finding("disk", f"{free:,.1f} GiB free for {outputs}", to_do, needed=free < _LEAST_DISK)


def slurm() -> Iterator[Finding]:
    """Slurm: sbatch, and a responding controller."""
    if shutil.which("sbatch") is None:
        to_do = "log in to a node of your cluster that has sbatch; without a cluster use hydra/launcher=local"
        yield Finding("Slurm", "sbatch is not installed here", to_do)
        return
    partitions = ask("sinfo", "--noheader", "--format=%R", seconds=_CONTROLLER_SECONDS)
    if partitions is None:
        to_do = "run `scontrol ping`, and show its output to your administrator"
        yield Finding("Slurm", "sbatch is installed, but Slurm's controller does not respond", to_do)
    else:
        yield Finding("Slurm", f"partitions: {', '.join(dict.fromkeys(partitions.split())) or 'none'}")


def weights_and_biases() -> Iterator[Finding]:
    """Weights & Biases: the package and an API key. The key is not sent anywhere, so it may be outdated."""
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        WeightsAndBiases("diffusion-lab", None)
    except ValueError as error:
        to_do = str(error).partition(": ")[2] or str(error)
        yield Finding("W&B", "installed, but you are not logged in", to_do)
    else:
        mode = os.environ.get("WANDB_MODE", "online")
        yield Finding("W&B", "installed, with an API key" if mode == "online" else f"installed; WANDB_MODE={mode}")


def data_sets() -> Iterator[Finding]:
    """One finding per data set of conf/data. Files are located and hashed; no image is decoded."""
    for file in sorted((CONF / "data").glob("*.yaml"), key=lambda file: (file.stem != _DEFAULT_DATA, file.stem)):
        options: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]
        unset = [f"data.{option}=…" for option, value in options.items() if value == "???"]
        found, to_do = f"reads the files that you set with {' and '.join(unset)}", ""
        if not unset:
            missing = instantiate({**options, "seed": 0}).missing()
            found, _, to_do = missing.rstrip(".").partition(": set ") if missing else ("ready", "", "")
        yield Finding(f"data={file.stem}", found, to_do and f"set {to_do}", needed=file.stem == _DEFAULT_DATA)


def inception_weights() -> Iterator[Finding]:
    """The weights of the Inception network of the original FID."""
    from diffusion_lab.metrics.features import WeightsError
    from diffusion_lab.metrics.features.inception import check_file, usual_file

    found, to_do = "the published weights were found", ""
    try:
        check_file(usual_file())
    except WeightsError as error:
        found, _, to_do = str(error).rstrip(".").partition(": ")
    yield Finding("features=inception", found, to_do)
