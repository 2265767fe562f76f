"""diffusion-lab prune: move what can be made again, or was abandoned, from outputs/ to outputs/trash."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, ListConfig
from rich.filesize import decimal
from rich.text import Text

from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.store import ModelDirectory, cache_directory, named_model, run_directory
from diffusion_lab.store.directories import previous_of, to_trash, trash
from diffusion_lab.store.files import PlaceError
from diffusion_lab.store.lock import hold
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.store.places import models_in, runs_in, sweeps_in
from diffusion_lab.store.records import is_folder_name
from diffusion_lab.sweeps.slurm import jobs_of
from diffusion_lab.terminal import Terminal


@dataclass(frozen=True)
class Unused:
    """A file or a folder to move to the trash. held: the folder to lock meanwhile. why: a phrase on why it is not needed."""

    path: Path
    held: Path
    why: str

    @property
    def size(self) -> int:
        """The size in bytes, without the targets of links."""
        found = 0
        for file in self.path.rglob("*") if self.path.is_dir() else [self.path]:
            with suppress(FileNotFoundError):  # written beside its place, and renamed meanwhile
                found += 0 if file.is_dir() else file.lstat().st_size
        return found


def run(cfg: DictConfig) -> None:
    """List what is not needed, and move it unless dry_run=true."""
    wanted, named = (
        list(map(str, each if isinstance(each, ListConfig) else [each])) for each in (cfg.what, cfg.models)
    )
    with users_mistakes():
        check_at_least(0, cfg, "days")
    if unknown := [kind for kind in wanted if kind not in _FIND]:
        raise MistakeError(f"what={unknown[0]}: choose from {', '.join(_FIND)}")
    outputs, console = Path(cfg.outputs), Terminal()
    found = [*_named(outputs, named), *(one for kind in wanted for one in _FIND[kind](outputs, cfg))]
    rows = [(decimal(one.size), str(one.path.relative_to(outputs)), one.why) for one in found]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for size, path, why in rows:
        console.print(f"{size:>{widths[0]}}  {path:<{widths[1]}}  {why}")
    if not found:
        console.print(f"nothing to prune in {outputs}")
    elif cfg.dry_run:
        total = decimal(sum(one.size for one in found))
        console.print(f"{total} in all; without dry_run=true it goes to {trash(outputs)}")
    else:
        moved = decimal(sum(_moved(outputs, one, console) for one in found))
        console.print(f"moved {moved}; to remove it for good: rm -r {shlex.quote(str(trash(outputs)))}")


def _moved(outputs: Path, one: Unused, console: Terminal) -> int:
    """Move it to the trash; its bytes, or 0 if it is in use."""
    size = one.size
    try:
        with hold(one.held, _refuse):
            to_trash(outputs, one.path)
    except (OSError, PlaceError) as error:
        console.print(Text(f"kept: {one.path}: {error}", style="yellow"))
        return 0
    return size


def _named(outputs: Path, names: list[str]) -> Iterator[Unused]:
    for name in names:
        model = named_model(outputs, name)
        if not is_folder_name(name) or not model.path.is_dir():
            known = ", ".join(each.path.name for each in models_in(outputs)) or "none"
            raise MistakeError(f"models={name}: there is no such model; there are {known}")
        yield Unused(model.path, model.path, "you named it")


def _resume(outputs: Path, cfg: DictConfig) -> Iterator[Unused]:
    for model in models_in(outputs):
        for file in (model.resume, previous_of(model.resume)):
            if model.finished and file.is_file():
                yield Unused(file, model.path, "its training has finished; continue_from= needs it")


def _cache(outputs: Path, cfg: DictConfig) -> Iterator[Unused]:
    for path in cache_directory(outputs).entries:
        yield Unused(path, path, "made again when it is needed")


def _code(outputs: Path, cfg: DictConfig) -> Iterator[Unused]:
    for sweep in sweeps_in(outputs):
        runs = [run_directory(outputs, cell["run"]) for cell in sweep.read_sweep()["cells"]]
        in_queue = any(job.state is not None for job in jobs_of(sweep).values())
        if sweep.code.is_dir() and not in_queue and all(run.metrics.is_file() for run in runs):
            yield Unused(sweep.code, sweep.path, "every cell of its sweep has its score")


def _partial(outputs: Path, cfg: DictConfig) -> Iterator[Unused]:
    before = time.time() - 86400 * cfg.days
    sweeps = {sweep: jobs_of(sweep) for sweep in sweeps_in(outputs)}
    waiting = {model for jobs in sweeps.values() for model, job in jobs.items() if job.state is not None}
    waiting |= {cell["run"] for sweep in sweeps for cell in sweep.read_sweep()["cells"] if cell["model"] in waiting}
    partial = [model.path for model in models_in(outputs) if not model.finished]
    partial += [run.path for run in runs_in(outputs) if not run.metrics.is_file()]
    partial += [model.beside.path for model in models_in(outputs) if model.beside.path.is_dir()]
    for path in partial:
        newest = max((file.lstat().st_mtime for file in (path, *path.rglob("*")) if os.path.lexists(file)), default=0.0)
        if newest < before and ModelDirectory(path).home.name not in waiting:
            yield Unused(path, ModelDirectory(path).home, f"not finished, and nothing was written for {cfg.days} days")


_FIND = {"resume": _resume, "cache": _cache, "code": _code, "partial": _partial}


def _refuse(holder: str) -> NoReturn:
    """Refuse to wait, for `lock.hold`."""
    raise PlaceError(f"{holder} is using it")
