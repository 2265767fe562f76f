"""Python, the packages that the lab requires, its optional extras, and a compiler for torch.compile."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from diffusion_lab.doctor.finding import BROKEN, LACKS, OK, Finding

PACKAGE = "diffusion-lab"
# What an extra of pyproject.toml is for.
EXTRAS = {
    "slurm": "hydra/launcher=slurm and hydra/launcher=local",
    "optuna": "hydra/sweeper=optuna",
    "mlflow": "logger=mlflow",
    "dashboard": "diffusion-lab dashboard",
    "huggingface": "data=hf_dataset",
    "diffusers": "the folders of diffusion-lab export format=diffusers, and diffusion-lab import of such folders",
    "denoising-diffusion-pytorch": "diffusion-lab import of what its Trainer saves",
}


def python_and_packages() -> Iterator[Finding]:
    """This Python, and what the lab requires: installed, and in a version that fits."""
    try:
        wanted = metadata(PACKAGE)["Requires-Python"]
        needed = requires(PACKAGE) or []
    except PackageNotFoundError:
        yield Finding(
            "packages", LACKS, f"{PACKAGE} is not installed, so its requirements are not known", "pip install -e ."
        )
        return
    from packaging.specifiers import SpecifierSet

    fits = platform.python_version() in SpecifierSet(wanted)
    to_do = "" if fits else f"make an environment with Python {wanted}"
    yield Finding("Python", OK if fits else BROKEN, f"{platform.python_version()} ({wanted} is needed)", to_do)
    unmet = [*_unmet(needed)]
    if unmet:
        yield Finding("packages", BROKEN, "; ".join(unmet), "pip install -e . (or pip install -U diffusion-lab)")
    else:
        yield Finding("packages", OK, "all required packages are installed in compatible versions")


def torch_build() -> Iterator[Finding]:
    """PyTorch, and for which devices it was built."""
    import torch

    yield Finding(
        "PyTorch",
        OK,
        f"{torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'}",
    )


def compiler() -> Iterator[Finding]:
    """What torch.compile (compile=true) needs for the device that training would use."""
    import torch

    from diffusion_lab.devices import usable_gpus
    from diffusion_lab.networks.compilation import missing_for

    device = torch.device("cuda" if usable_gpus() else "cpu")
    missing = missing_for(device)
    if missing is None:
        yield Finding(
            "torch.compile", OK, f"a compiler for the {'GPU' if device.type == 'cuda' else 'CPU'} is installed"
        )
    else:
        yield Finding(
            "torch.compile", LACKS, missing, "install it to use compile=true; everything else works without it"
        )


def extras() -> Iterator[Finding]:
    """The optional extras, each with what it is for."""
    try:
        needed = requires(PACKAGE) or []
    except PackageNotFoundError:
        return
    for extra, use in EXTRAS.items():
        unmet = [*_unmet(needed, extra)]
        if unmet:
            yield Finding(
                f"extra {extra}", LACKS, f"{'; '.join(unmet)} (for {use})", f"pip install 'diffusion-lab[{extra}]'"
            )
        else:
            yield Finding(f"extra {extra}", OK, f"for {use}")


def _unmet(requirements: Iterable[str], extra: str = "") -> Iterator[str]:
    """One phrase for each requirement that is not met: of the package itself, or of one extra alone."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        if extra and (marker is None or marker.evaluate({"extra": ""})):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield f"{requirement.name} is not installed"
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} {installed} does not satisfy {requirement.specifier}"
