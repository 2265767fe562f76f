"""Several processes that train one model together, or draw from it: who starts them, on which devices, and how they agree.

torchrun starts them on one machine, and ends all when one dies; each ends by itself when this command dies (store/lease.py).
Not Lightning's own launcher: it runs the whole command line again in each rank, a multirun too, and a rank that dies leaves
the others waiting for ever.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import quoted
from diffusion_lab.store.lease import PARENT
from diffusion_lab.training.devices import Place, Request, num_cores, requested, usable_gpus, visible_gpus
from diffusion_lab.training.interruption import Interrupted

if TYPE_CHECKING:
    from lightning.pytorch.plugins.environments import ClusterEnvironment

_HANDLED = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")  # the signals that torchrun hands on to the ranks


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together: number `rank` of `size`.

    device: its own, as torch names it. place: where all of this machine run.
    """

    rank: int
    size: int
    device: str
    place: Place

    @property
    def is_first(self) -> bool:
        """Rank 0 holds the lock, prints and writes."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """What rank 0 says, on all ranks."""
        if self.size == 1:
            return value
        import torch.distributed

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


def request_of(options: DictConfig, prefix: str = "trainer.") -> Request:
    """The devices that the options accelerator and devices request here. ValueError, in one sentence, if this machine lacks them.

    Processes that Slurm or torchrun started may be more than there are cores.
    """
    cores = num_cores() if _environment() is None else None
    return requested(options.accelerator, _devices(options), usable_gpus(), cores, prefix)


def check_launcher(trainer: DictConfig, launcher: DictConfig, gpus: Sequence[str]) -> None:
    """ValueError, in one sentence, where jobs on this machine with these GPUs could not run with cfg.trainer.

    A cluster has devices of its own.
    """
    if not launcher._target_.endswith(".SlurmLauncher"):
        requested(trainer.accelerator, _devices(trainer), gpus, num_cores())


def _devices(options: DictConfig) -> int | str | list[int] | None:
    devices = options.devices
    return list(devices) if OmegaConf.is_list(devices) else devices


def must_start_ranks(request: Request, num_nodes: int = 1) -> bool:
    """Whether several processes are wanted and this one must start the others."""
    return request.size * num_nodes > 1 and _environment() is None


def start_ranks(command: str, request: Request, num_nodes: int = 1, **more: str) -> None:
    """Run this very job, not the multirun it is a part of, in one process a device. MistakeError when one of them fails.

    more: options that only this process can know.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if num_nodes > 1:
        raise MistakeError(
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
        signals_to_handle=",".join(_HANDLED),
    )
    hydra = HydraConfig.get()
    log = logging.getLogger("torch.distributed.elastic")  # our own message is shorter
    log.propagate, log.handlers = False, [logging.NullHandler()]
    options = [*hydra.overrides.task, *(f"{key}={quoted(value)}" for key, value in more.items())]
    options += [f"hydra.searchpath={quoted(list(hydra.searchpath))}"] if hydra.searchpath else []
    for source in hydra.runtime.config_sources:
        options += ["--config-dir", source.path] if source.provider == "command-line" else []
    os.environ.pop("HYDRA_FULL_ERROR", None)  # set for this process; a rank says its mistakes in a sentence too
    try:
        with _variables_of_ranks(request.size), _own_signal_handlers():
            elastic_launch(config, sys.executable)("-m", "diffusion_lab", command, *options)
    except SignalException as error:
        raise Interrupted(error.sigval, f"ended by {error.sigval.name}") from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise MistakeError(f"rank {rank} ended with exit code {failure.exitcode}; its message is above") from None


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
def _own_signal_handlers() -> Iterator[None]:
    """Torchrun leaves its handlers installed; the next job of a multirun must not run under them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # neither we nor torchrun may install one there
        return
    before = {name: signal.getsignal(getattr(signal, name)) for name in _HANDLED}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


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
    if environment is None:
        yield Ranks(0, 1, device, place)
        return
    if (
        not torch.distributed.is_initialized()
    ):  # the processes of a sweep's job stay connected from one cell to the next
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if request.on_gpu else "gloo",
            init_method=f"tcp://{environment.main_address}:{environment.main_port}",
            rank=environment.global_rank(),
            world_size=environment.world_size(),
        )
        atexit.register(torch.distributed.destroy_process_group)
    yield Ranks(environment.global_rank(), environment.world_size(), device, place)


def where(here: Ranks, options: DictConfig) -> str:
    """Where this command runs, and that it is not where its user expects it: a PyTorch for CPUs beside a GPU."""
    unused = visible_gpus() if here.device == "cpu" and options.accelerator == "auto" else ()
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
