"""From the options of hydra/launcher=slurm to the resources that one job requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_plain

DEFAULT = "default"
_OF_ALL_JOBS = ("_target_", "folder", "dry_run", "max_num_timeout", "python")
_NAMES = {"tasks_per_node": "ntasks_per_node", "more": "additional_parameters"}  # where submitit's differ
_ON_GPUS = ("gpu", "cuda")  # of trainer.accelerator


def slurm_options(cfg: DictConfig, family: str, families: Collection[str]) -> dict[str, Any]:
    """Options of submitit's Slurm executor for a job of a model of this family."""
    if "slurm" in cfg:
        raise MistakeError(
            "slurm: set the options of hydra/launcher=slurm in hydra.launcher, such as hydra.launcher.partition"
        )
    options = as_plain(cfg.hydra.launcher, resolve=True)
    resources = {
        _NAMES.get(name, name): value if name == "more" else _of_family(name, value, family, families)
        for name, value in options.items()
        if name not in _OF_ALL_JOBS
    }
    for name in ("nodes", "ntasks_per_node"):
        if not isinstance(resources[name], int) or resources[name] < 1:
            raise MistakeError(f"{name}={resources[name]}: Slurm needs a number (trainer.num_nodes, trainer.devices)")
    if resources["gpus_per_node"] == "auto":
        on_gpus = OmegaConf.select(cfg, "trainer.accelerator") in _ON_GPUS and "gpu" not in (resources["gres"] or "")
        resources["gpus_per_node"] = resources["ntasks_per_node"] if on_gpus else None
    return {name: value for name, value in resources.items() if value is not None}


def summary(resources: Mapping[str, Any]) -> str:
    """1 node, 2 tasks, 2 GPUs a node, time 240, partition gpu"""
    gpus, gres = resources.get("gpus_per_node"), resources.get("gres")
    words = [f"{resources['nodes']} node{'s' * (resources['nodes'] > 1)}"]
    words += [f"{resources['ntasks_per_node']} task{'s' * (resources['ntasks_per_node'] > 1)} a node"]
    words += [
        f"gpus_per_node {gpus}" if gpus else "" if gres else "no GPU (trainer.accelerator=gpu requests trainer.devices)"
    ]
    named = ("gres", "cpus_per_task", "mem", "time", "partition", "qos", "account", "constraint")
    words += [f"{name} {resources[name]}" for name in named if name in resources]
    return ", ".join(filter(None, words))


def _of_family(name: str, value: Any, family: str, families: Collection[str]) -> Any:
    """The value itself, or the one that a mapping has for this family or for all that it does not name."""
    if not isinstance(value, Mapping):
        return value
    unknown = [key for key in value if key not in (DEFAULT, *families)]
    if unknown:
        raise MistakeError(
            f"hydra.launcher.{name}: there is no model={unknown[0]}; the models are {', '.join(families)}"
        )
    if family not in value and DEFAULT not in value:
        raise MistakeError(f"hydra.launcher.{name}: there is no value for model={family}; add {DEFAULT}: …")
    return value.get(family, value.get(DEFAULT))
