"""Several processes that train one model together, or draw from it: who starts them, on which devices, and how they agree.

torchrun starts them on one machine, and ends all when one dies; each ends by itself when this command dies (store/lease.py).
Not Lightning's own launcher: it runs the whole command line again in each rank, a multirun too, and a rank that dies leaves
the others waiting for ever.
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

from diffusion_lab.store.lease import hold
from diffusion_lab.store.processes import PARENT
from diffusion_lab.training.devices import Place, Request, num_cores, requested, usable_gpus, visible_gpus
from diffusion_lab.training.interruption import SIGNALS, Interrupted, restoring

if TYPE_CHECKING:
    from types import ModuleType

    from lightning.pytorch.plugins.environments import ClusterEnvironment
    from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together. device: its own, as torch names it. place: where all of this machine run."""

    device: str
    place: Place

    @property
    def is_first(self) -> bool:
        """Rank 0 holds the lock, prints and writes."""
        return rank() == 0

    def agree(self, value: Any) -> Any:
        """What rank 0 says, on all ranks."""
        return broadcast_from_rank_zero(value)


def request_of(options: Mapping[str, Any], prefix: str = "trainer.") -> Request:
    """The devices that the options accelerator and devices request here. ValueError, in one sentence, if this machine lacks them.

    Processes that Slurm or torchrun started may be more than there are cores.
    """
    cores = num_cores() if _environment() is None else None
    return requested(options["accelerator"], options["devices"], usable_gpus(), cores, prefix)


def must_start_ranks(request: Request, num_nodes: int = 1) -> bool:
    """Whether several processes are wanted and this one must start the others."""
    return request.size * num_nodes > 1 and _environment() is None


def start_ranks(command: str, options: Sequence[str], request: Request, num_nodes: int = 1) -> None:
    """Run a command with these options, not the multirun that it is a part of, in one process a device.

    ValueError, in one sentence, when one of them fails.
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
    os.environ.pop("HYDRA_FULL_ERROR", None)  # set for this process; a rank says its mistakes in a sentence too
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
    """Processes that start in the block end with this one, and share the cores, unless OMP_NUM_THREADS is set already."""
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
    """The processes that were started to work together, connected, as long as the block runs; one process by itself is all."""
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
    # The processes of a sweep's job stay connected from one cell to the next.
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
    """Where this command runs, and that it is not where its user expects it: a PyTorch for CPUs beside a GPU."""
    unused = visible_gpus() if here.device == "cpu" and options["accelerator"] == "auto" else ()
    but = f"; this PyTorch cannot use {Place(unused, len(unused), 1)}" if unused else ""
    return f"runs on {here.place}{but}"


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


def rank() -> int:
    group = _connected()
    return 0 if group is None else group.get_rank()


def num_ranks() -> int:
    group = _connected()
    return 1 if group is None else group.get_world_size()


def broadcast_from_rank_zero(value: Any) -> Any:
    """What rank 0 gave here, on every rank; all must call it."""
    group = _connected()
    if group is None:
        return value
    box = [value]
    group.broadcast_object_list(box, src=0)
    return box[0]


def gather_to_rank_zero(value: Any) -> list[Any] | None:
    """What every rank gave here, in the order of the ranks, on rank 0; None on the others. All must call it."""
    group = _connected()
    if group is None:
        return [value]
    values = [None] * num_ranks() if rank() == 0 else None
    group.gather_object(value, values, dst=0)
    return values


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of what every rank gave here, on every rank; all must call it."""
    group, total = _connected(), value.clone()
    if group is not None:
        group.all_reduce(total)
    return total


def wait_for_all() -> None:
    """Returns when every rank has called it."""
    group = _connected()
    if group is not None:
        group.barrier()


@contextmanager
def hold_together(folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """`lease.hold` by rank 0, for all ranks; all must call it.

    However long rank 0 waits, no rank waits longer than a moment for its word: collectives have a time limit.
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
    """torch.distributed, where this process is connected with others."""
    from torch import distributed

    return distributed if distributed.is_available() and distributed.is_initialized() else None
