"""Several processes that train one model together: who starts them, and how they agree.

torchrun starts them on one machine, and ends all when one dies. Not Lightning's own launcher: it runs the whole command line
again in each rank, a multirun too, and a rank that dies leaves the others waiting for ever.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusion_lab.commands.mistakes import MistakeError

if TYPE_CHECKING:
    from lightning.pytorch.plugins.environments import ClusterEnvironment


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: number `rank` of `size`."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Rank 0 holds the lock, prints and writes."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """What rank 0 says, on all ranks."""
        if self.size == 1:
            return value
        import torch.distributed

        said = [value]
        torch.distributed.broadcast_object_list(said, src=0)
        return said[0]


def must_start_ranks(cfg: DictConfig, batch_size: int) -> bool:
    """Whether this process is one where several were asked for, and nobody has started the others."""
    size = _num_devices(cfg) * cfg.trainer.get("num_nodes", 1)
    if batch_size % size:
        raise MistakeError(
            f"data.batch_size={batch_size} cannot be shared out evenly over {size} processes: choose a multiple"
        )
    return size > 1 and _environment() is None


def start_ranks(cfg: DictConfig, command: str) -> None:
    """Run this very job, not the multirun it is a part of, in one process a device. MistakeError when one of them fails."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if cfg.trainer.get("num_nodes", 1) > 1:
        raise MistakeError(
            "trainer.num_nodes: several machines are started by Slurm (hydra/launcher=slurm) or torchrun, not from one of them"
        )
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=_num_devices(cfg),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT,SIGUSR1,SIGUSR2",
    )
    hydra = HydraConfig.get()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it ourselves, shorter
    options = list(hydra.overrides.task)
    for source in hydra.runtime.config_sources:
        options += ["--config-dir", source.path] if source.provider == "command-line" else []
    os.environ.pop("HYDRA_FULL_ERROR", None)  # set for this process; a rank says its mistakes in a sentence too
    try:
        elastic_launch(config, sys.executable)("-m", "diffusion_lab", command, *options)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise MistakeError(f"rank {rank} ended with exit code {failure.exitcode}; what it said stands above") from None


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that were started to train together, connected, as long as the block runs; one process by itself is all."""
    environment = _environment()
    if environment is None:
        yield Ranks(0, 1)
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(environment.local_rank())
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"tcp://{environment.main_address}:{environment.main_port}",
        rank=environment.global_rank(),
        world_size=environment.world_size(),
    )
    try:
        yield Ranks(environment.global_rank(), environment.world_size())
    finally:
        torch.distributed.destroy_process_group()


def cluster_environment() -> ClusterEnvironment:
    """Lightning's view of what started this process: torchrun, Slurm's srun, or nobody.

    Not Lightning's own choice: it takes a shell inside an allocation for a process that srun started, puts jobs back into the
    queue that submitit puts back already, and warns wherever Slurm is installed and not used.
    """
    from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if "SLURM_STEP_ID" in os.environ:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def _environment() -> ClusterEnvironment | None:
    """What started this process and others with it; None: it is by itself."""
    environment = cluster_environment()
    return environment if environment.creates_processes_externally and environment.world_size() > 1 else None


def _num_devices(cfg: DictConfig) -> int:
    """trainer.devices as a number: Lightning also takes -1 or "auto" for all, and a list."""
    devices = cfg.trainer.devices
    if isinstance(devices, int) and devices > 0:
        return devices
    if devices in (-1, "-1", "auto"):
        import torch

        return max(1, torch.cuda.device_count())
    if isinstance(devices, str) and devices.isdecimal():
        return int(devices)
    if not isinstance(devices, str | int):
        return len(devices)
    raise MistakeError(f"trainer.devices={devices}: the number of devices, or auto for all there are")
