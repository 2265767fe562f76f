"""Jobs in processes of this machine, each on GPUs or cores of its own. They end with the command that started them.

python -m diffusion_lab.sweeps.local CALL RESULT: run a pickled call and pickle its result.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.store.files import make_folders
from diffusion_lab.store.processes import PARENT, end_with_parent
from diffusion_lab.sweeps.plan import JobError
from diffusion_lab.training.devices import DeviceRequest, JobDevices, requested
from diffusion_lab.training.interruption import Interrupted

_POLL_SECONDS = 0.2
Call = Callable[[], float | None]  # JobError if it fails


@dataclass(frozen=True)
class Machine:
    """The devices that jobs share.

    parallel: the number of jobs at a time; None: one per GPU, or on a CPU one process per core. With a larger number jobs share the
    GPUs.
    """

    gpus: Sequence[str]
    cores: int
    parallel: int | None = None

    def __post_init__(self) -> None:
        if self.parallel is not None and (not isinstance(self.parallel, int) or self.parallel < 1):
            raise JobError(f"hydra.launcher.parallel={self.parallel} must be a whole number of at least 1")

    def request(self, accelerator: str, devices: int | str | Sequence[int] | None) -> DeviceRequest:
        """The devices of trainer.accelerator and trainer.devices here; JobError, in one sentence, if this machine lacks them."""
        try:
            request = requested(accelerator, 1 if devices is None else devices, self.gpus, self.cores)
        except ValueError as error:
            raise JobError(str(error)) from None
        if request.indices is not None:
            raise JobError(
                f"trainer.devices={devices}: jobs take turns on the devices, so give a number of devices; "
                "set CUDA_VISIBLE_DEVICES=… to choose the GPUs that they share"
            )
        return request

    def free_devices(self, request: DeviceRequest, taken: Sequence[JobDevices]) -> JobDevices | None:
        """Free devices for a job beside the `taken` ones, or None."""
        if request.on_gpu:
            jobs = Counter(gpu for devices in taken for gpu in devices.gpus)
            gpus = tuple(sorted(self.gpus, key=lambda gpu: jobs[gpu])[: request.size])
            share, full = len(self.gpus) // request.size, any(jobs[gpu] for gpu in gpus)
        else:
            busy = sum(devices.processes * devices.threads for devices in taken if not devices.gpus)
            cores = self.cores if request.everything else request.size
            gpus, share, full = (), self.cores // cores, busy + cores > self.cores
        if full if self.parallel is None else len(taken) >= self.parallel:
            return None
        chosen = os.environ.get("OMP_NUM_THREADS", "")  # by the user
        threads = int(chosen) if chosen.isdecimal() else self.cores // ((self.parallel or share) * request.size)
        return JobDevices(gpus, request.size, max(1, threads))


def run_jobs(
    calls: Sequence[Call],
    requests: Sequence[DeviceRequest],
    logs: Sequence[Path],
    machine: Machine,
    say: Callable[[str], None],
) -> list[float | JobError | None]:
    """Run each call in a process as soon as its devices are free; returns their values, or why they failed.

    requests: the devices of each call. logs: files for their output. machine: the devices to share. say: prints a line.
    If a signal ends the block, the jobs get SIGTERM, save and end.
    """
    results: dict[int, float | JobError | None] = {}
    running: dict[int, tuple[subprocess.Popen[bytes], JobDevices]] = {}
    waiting = list(range(len(calls)))
    with tempfile.TemporaryDirectory() as folder:
        files = [(Path(folder, f"{index}_call"), Path(folder, f"{index}_result")) for index in waiting]
        try:
            while waiting or running:
                while waiting and (
                    devices := machine.free_devices(requests[waiting[0]], [at for _, at in running.values()])
                ):
                    index = waiting.pop(0)
                    running[index] = _start(calls[index], devices, *files[index], logs[index]), devices
                    say(f"job {logs[index].parent.name} runs on {devices}")
                time.sleep(_POLL_SECONDS)
                for index in [index for index, (process, _) in running.items() if process.poll() is not None]:
                    process, _ = running.pop(index)
                    results[index] = _result(process, files[index][1], logs[index])
        finally:
            for process, _ in running.values():
                process.terminate()
            for process, _ in running.values():
                process.wait()
    return [results[index] for index in range(len(calls))]


def _start(call: Call, devices: JobDevices, file: Path, result: Path, log: Path) -> subprocess.Popen[bytes]:
    import cloudpickle  # of submitit, which is optional

    file.write_bytes(cloudpickle.dumps(call))
    environment = {"OMP_NUM_THREADS": str(devices.threads), **os.environ}
    environment |= {"CUDA_VISIBLE_DEVICES": ",".join(devices.gpus), PARENT: str(os.getpid())}
    make_folders(log.parent)
    with log.open("ab") as output:
        # In a session of its own, because a second signal from the terminal would end a training that is saving.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(file), str(result)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _result(process: subprocess.Popen[bytes], file: Path, log: Path) -> Any:
    if file.is_file():
        return pickle.loads(file.read_bytes())
    return JobError(f"its process ended with exit code {process.returncode}; its log is {log}")


def _main(file: str, result: str) -> None:
    end_with_parent()
    call = pickle.loads(Path(file).read_bytes())
    value: float | JobError | None
    try:
        value = call()
    except JobError as error:
        value = error
    except Interrupted as stop:
        print(stop, flush=True)
        sys.exit(128 + stop.signum)
    Path(result).write_bytes(pickle.dumps(value))


if __name__ == "__main__":
    _main(*sys.argv[1:])
