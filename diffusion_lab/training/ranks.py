"""Processes that train one model together, or sample from it: starting them, their devices, and their communication.

torchrun starts them on one machine, and ends all when one dies; each ends when this command dies (store/processes.py).
Lightning's own launcher is not used: it runs the whole command line again in each rank, even of a multirun, and when a rank dies
the others wait forever.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch import distributed
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import api

from diffusion_lab.store.lock import hold
from diffusion_lab.store.processes import PARENT
from diffusion_lab.training.devices import DeviceRequest, JobDevices, num_cores, requested, usable_gpus, visible_gpus
from diffusion_lab.training.interruption import SIGNALS, Interrupted, restoring

_LONGEST_WAIT = timedelta(days=30)  # for another command


@dataclass(frozen=True)
class Ranks:
    """The ranks of a command, as seen by this process. device: of this process. devices: of all ranks on this machine."""

    device: str
    devices: JobDevices

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which holds the lock, prints and writes."""
        return rank() == 0


def request_of(options: Mapping[str, Any], prefix: str = "trainer.") -> DeviceRequest:
    """The devices that the options accelerator and devices request here. ValueError, in one sentence, if they are missing.

    options: a mapping with both. prefix: of their names on the command line. Processes started by Slurm or torchrun may outnumber
    the cores.
    """
    cores = num_cores() if _environment() is None else None
    return requested(options["accelerator"], options["devices"], usable_gpus(), cores, prefix)


def must_start_ranks(request: DeviceRequest, num_nodes: int = 1) -> bool:
    """Whether this process must start further processes."""
    return request.size * num_nodes > 1 and _environment() is None


def device_of(request: DeviceRequest) -> str:
    """The device of this process; the CPU for a process that only starts others."""
    environment = _environment()
    local_rank = 0 if environment is None else environment.local_rank()
    return f"cuda:{request.index(local_rank)}" if request.on_gpu and not must_start_ranks(request) else "cpu"


def start_ranks(command: str, options: Sequence[str], request: DeviceRequest, num_nodes: int = 1) -> None:
    """Run a command with these options, but not its multirun, in one process per device; the processes share the cores.

    ValueError, in one sentence, if a process fails.
    """
    if num_nodes > 1:
        raise ValueError(
            "trainer.num_nodes: start several machines with Slurm (hydra/launcher=slurm) or torchrun, not from one of them"
        )
    config = api.LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=request.size,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(signum.name for signum in SIGNALS),
    )
    log = logging.getLogger("torch.distributed.elastic")  # our own message is shorter
    log.propagate, log.handlers = False, [logging.NullHandler()]
    os.environ.pop("HYDRA_FULL_ERROR", None)  # set for this process only; ranks also report mistakes in one sentence
    threads = os.environ.get("OMP_NUM_THREADS", max(1, num_cores() // request.size))
    of_ranks = (f"{PARENT}={os.getpid()}", f"OMP_NUM_THREADS={threads}")
    try:
        with restoring():  # torchrun leaves its handlers installed
            api.elastic_launch(config, "env")(*of_ranks, sys.executable, "-m", "diffusion_lab", command, *options)
    except SignalException as error:
        raise Interrupted(error.sigval, f"ended by {error.sigval.name}") from None
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        raise ValueError(f"rank {number} ended with exit code {failure.exitcode}; its message is above") from None


def join(request: DeviceRequest) -> Ranks:
    """Connect this process with the others of its command, if there are any, until it ends."""
    environment, device = _environment(), device_of(request)
    gpus = usable_gpus() if request.on_gpu else ()
    if device != "cpu":
        torch.cuda.set_device(device)
    # The processes of a sweep's job stay connected between cells.
    if environment is not None and not distributed.is_initialized():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if request.on_gpu else "gloo",
            init_method=f"tcp://{environment.main_address}:{environment.main_port}",
            rank=environment.global_rank(),
            world_size=environment.world_size(),
        )
        atexit.register(distributed.destroy_process_group)
        broadcast_from_rank_zero(None)  # while all are there
    names = tuple(gpus[request.index(number)] for number in range(request.size) if gpus)
    return Ranks(device, JobDevices(names, request.size, torch.get_num_threads()))


def where(here: Ranks, options: Mapping[str, Any]) -> str:
    """A description of the devices of this command, with a note if PyTorch cannot use a visible GPU."""
    unused = visible_gpus() if here.device == "cpu" and options["accelerator"] == "auto" else ()
    but = f"; this PyTorch cannot use {JobDevices(unused, len(unused), 1)}" if unused else ""
    return f"runs on {here.devices}{but}"


def cluster_environment() -> ClusterEnvironment:
    """Lightning's description of the process's launcher: torchrun, Slurm's srun, or none.

    Lightning's own detection is not used: it takes a shell inside an allocation for a process started by srun, requeues jobs that
    submitit requeues already, and warns wherever Slurm is installed but not used.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False) if "SLURM_STEP_ID" in os.environ else LightningEnvironment()


def _environment() -> ClusterEnvironment | None:
    """The launcher that started this process with others; None for a single process."""
    environment = cluster_environment()
    return environment if environment.creates_processes_externally and environment.world_size() > 1 else None


# ---- communication: torch's, of all ranks, which all must call; a single process is rank 0 of 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def num_ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def broadcast_from_rank_zero(value: Any) -> Any:
    """The value passed by rank 0, on every rank."""
    box = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(box, src=0, group=_patient(distributed.group.WORLD))
    return box[0]


def gather_to_rank_zero(value: Any) -> list[Any] | None:
    """The values passed by all ranks, in order, on rank 0; None on the others."""
    values = [value] * num_ranks() if rank() == 0 else None
    if distributed.is_initialized():
        distributed.gather_object(value, values, dst=0, group=_patient(distributed.group.WORLD))
    return values


def wait_for_all() -> None:
    """Wait until every rank has called it."""
    gather_to_rank_zero(None)
    broadcast_from_rank_zero(None)


@contextmanager
def hold_together(folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """`lock.hold` by rank 0 for all ranks. waiting: called with the holder of the lock while another command holds it."""
    with hold(folder, waiting) if rank() == 0 else nullcontext():
        broadcast_from_rank_zero(None)
        yield


@lru_cache(maxsize=1)
def _patient(world: object) -> distributed.ProcessGroup:
    """All ranks, with a long time limit, for waiting on another command; the group of training gives up after minutes."""
    return distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)
