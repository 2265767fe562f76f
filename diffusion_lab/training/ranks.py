"""Processes that train one model together, or sample from it: starting them, their devices, and their communication.

torchrun starts them on one machine, and ends all when one dies; each ends when this command dies (store/processes.py).
Not Lightning's own launcher: it runs the whole command line again in each rank, even of a multirun, and when a rank dies
the others wait forever.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_lab.store.lock import hold
from diffusion_lab.store.processes import PARENT
from diffusion_lab.training.devices import Place, Request, num_cores, requested, usable_gpus, visible_gpus
from diffusion_lab.training.interruption import SIGNALS, Interrupted, restoring

if TYPE_CHECKING:
    from types import ModuleType

    from lightning.pytorch.plugins.environments import ClusterEnvironment


@dataclass(frozen=True)
class Ranks:
    """The ranks of a command, as seen by this process. device: of this process. place: of all ranks on this machine."""

    device: str
    place: Place

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which holds the lock, prints and writes."""
        return rank() == 0

    def agree(self, value: Any) -> Any:
        """The value of rank 0, on all ranks."""
        return broadcast_from_rank_zero(value)


def request_of(options: Mapping[str, Any], prefix: str = "trainer.") -> Request:
    """The devices that the options accelerator and devices request here. ValueError, in one sentence, if this machine lacks them.

    Processes started by Slurm or torchrun may outnumber the cores.
    """
    cores = num_cores() if _environment() is None else None
    return requested(options["accelerator"], options["devices"], usable_gpus(), cores, prefix)


def must_start_ranks(request: Request, num_nodes: int = 1) -> bool:
    """Whether this process must start others to work with."""
    return request.size * num_nodes > 1 and _environment() is None


def start_ranks(command: str, options: Sequence[str], request: Request, num_nodes: int = 1) -> None:
    """Run a command with these options, but not its multirun, in one process per device.

    ValueError, in one sentence, if a process fails.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if num_nodes > 1:
        raise ValueError(
            "trainer.num_nodes: start several machines with Slurm (hydra/launcher=slurm) or torchrun, not from one of them"
        )
    config = LaunchConfig(
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
    try:
        with _variables_of_ranks(request.size), restoring():  # torchrun leaves its handlers installed
            elastic_launch(config, sys.executable)("-m", "diffusion_lab", command, *options)
    except SignalException as error:
        raise Interrupted(error.sigval, f"ended by {error.sigval.name}") from None
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        raise ValueError(f"rank {number} ended with exit code {failure.exitcode}; its message is above") from None


@contextmanager
def _variables_of_ranks(processes: int) -> Iterator[None]:
    """Variables for processes started in the block: they end with this one, and share the cores unless OMP_NUM_THREADS is set."""
    variables = {PARENT: str(os.getpid())}
    if "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, num_cores() // processes))
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


@contextmanager
def ranks(request: Request) -> Iterator[Ranks]:
    """The connected processes of a command, for the duration of the block; possibly only this one."""
    import torch

    environment = _environment()
    local_rank = 0 if environment is None else environment.local_rank()
    device = f"cuda:{request.index(local_rank)}" if request.on_gpu else "cpu"
    if request.on_gpu:
        torch.cuda.set_device(device)
    gpus = usable_gpus() if request.on_gpu else ()
    place = Place(
        tuple(gpus[request.index(number)] for number in range(request.size) if gpus),
        request.size,
        torch.get_num_threads(),
    )
    # The processes of a sweep's job stay connected between cells.
    if environment is not None and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if request.on_gpu else "gloo",
            init_method=f"tcp://{environment.main_address}:{environment.main_port}",
            rank=environment.global_rank(),
            world_size=environment.world_size(),
        )
        atexit.register(torch.distributed.destroy_process_group)
    yield Ranks(device, place)


def where(here: Ranks, options: Mapping[str, Any]) -> str:
    """The place where this command runs, with a note if PyTorch cannot use a visible GPU."""
    unused = visible_gpus() if here.device == "cpu" and options["accelerator"] == "auto" else ()
    but = f"; this PyTorch cannot use {Place(unused, len(unused), 1)}" if unused else ""
    return f"runs on {here.place}{but}"


def cluster_environment() -> ClusterEnvironment:
    """Lightning's description of the process's launcher: torchrun, Slurm's srun, or none.

    Not Lightning's own detection: it takes a shell inside an allocation for a process started by srun, requeues jobs that
    submitit requeues already, and warns wherever Slurm is installed but not used.
    """
    from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if "SLURM_STEP_ID" in os.environ:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def _environment() -> ClusterEnvironment | None:
    """The launcher that started this process with others; None for a single process."""
    environment = cluster_environment()
    return environment if environment.creates_processes_externally and environment.world_size() > 1 else None


def rank() -> int:
    group = _connected()
    return 0 if group is None else group.get_rank()


def num_ranks() -> int:
    group = _connected()
    return 1 if group is None else group.get_world_size()


def broadcast_from_rank_zero(value: Any) -> Any:
    """The value passed by rank 0, on every rank; all must call it."""
    group = _connected()
    if group is None:
        return value
    box = [value]
    group.broadcast_object_list(box, src=0)
    return box[0]


def gather_to_rank_zero(value: Any) -> list[Any] | None:
    """The values passed by all ranks, in order, on rank 0; None on the others. All must call it."""
    group = _connected()
    if group is None:
        return [value]
    values = [None] * num_ranks() if rank() == 0 else None
    group.gather_object(value, values, dst=0)
    return values


def wait_for_all() -> None:
    """Wait until every rank has called it."""
    group = _connected()
    if group is not None:
        group.barrier()


@contextmanager
def hold_together(folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """`lock.hold` by rank 0 for all ranks; all must call it.

    While rank 0 waits, it signals the other ranks regularly, because collectives have a time limit.
    """

    def pause(seconds: float) -> None:
        broadcast_from_rank_zero(False)
        time.sleep(seconds)

    if rank() > 0:
        while not broadcast_from_rank_zero(None):
            pass
        yield
        return
    with hold(folder, waiting, sleep=pause):
        broadcast_from_rank_zero(True)
        yield


def _connected() -> ModuleType | None:
    """torch.distributed, if this process is connected with others; else None."""
    from torch import distributed

    return distributed if distributed.is_available() and distributed.is_initialized() else None
