"""diffusion-lab doctor: check Python, devices, disk, Slurm, W&B and data sets.

It says for each what is missing here and what to do. Uses no network and changes nothing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.text import Text

from diffusion_lab.conf_dir import CONF
from diffusion_lab.doctor.data import data_sets, inception_weights
from diffusion_lab.doctor.finding import BROKEN, LACKS, OK, Check, run_checks
from diffusion_lab.doctor.hardware import bf16, devices, disk, memory
from diffusion_lab.doctor.services import slurm, weights_and_biases
from diffusion_lab.doctor.software import compiler, extras, python_and_packages, torch_build
from diffusion_lab.from_config.mistakes import MistakeError
from diffusion_lab.terminal import Terminal

_STYLES = {OK: "green", LACKS: "yellow", BROKEN: "red"}


def completed(options: list[str]) -> list[str]:
    """`doctor` takes its options as they are."""
    return options


def checks(outputs: Path) -> list[Check]:
    """All of them, in the order in which they are shown."""
    return [
        Check("packages", python_and_packages, needed=True),
        Check("PyTorch", torch_build, needed=True),
        Check("GPU", devices, needed=True),
        Check("bf16", bf16, needed=True),
        Check("torch.compile", compiler),
        Check("disk", partial(disk, outputs), needed=True),
        Check("memory", memory),
        Check("Slurm", slurm),
        Check("W&B", weights_and_biases),
        Check("extras", extras),
        Check("data sets", partial(data_sets, CONF / "data", instantiate), needed=True),
        Check("features=inception", inception_weights),
    ]


def run(cfg: DictConfig) -> None:
    """Print one line per finding, and below it what to do, in columns. MistakeError where the default command would fail."""
    console = Terminal()
    broken = []
    findings = list(run_checks(checks(Path(cfg.outputs))))
    width = 1 + max(len(finding.name) for finding in findings)
    for finding in findings:
        console.print(
            Text.assemble((f"{finding.state:<8}", _STYLES[finding.state]), f"{finding.name:<{width}}", finding.found)
        )
        if finding.to_do:
            console.print(Text(f"{'':<{8 + width}}→ {finding.to_do}", style="dim"))
        if finding.state == BROKEN:
            broken.append(finding.name)
    if broken:
        raise MistakeError(f"`diffusion-lab train` does not work here; fix {', '.join(broken)} first (see above)")
    console.print("\n`diffusion-lab train` works here.")
