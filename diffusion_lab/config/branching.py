"""branch_from: start from a checkpoint of a training that is identical up to that checkpoint and differs in its length only."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.identity import plain_config, training_fingerprint
from diffusion_lab.config.loading import load_config
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.weight_files import read_training_progress
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.files import write_whole
from diffusion_lab.store.fingerprints import training_part
from diffusion_lab.store.option_names import changed_keys
from diffusion_lab.store.records import inside
from diffusion_lab.store.weight_names import (
    IMAGES,
    SECONDS,
    SHARE,
    STEPS,
    kept_average_name,
    read_moments,
    snapshot_name,
)


@dataclass(frozen=True)
class BranchPoint:
    """A checkpoint of `trunk`. Up to its step the new training is the same as `trunk`, bit for bit."""

    trunk: ModelDirectory
    step: int

    def __str__(self) -> str:
        return f"step {self.step:,} of {self.trunk.path}"

    @property
    def checkpoint(self) -> Path:
        return inside(self.trunk.path, self.trunk.branch(self.step))

    def bring(self, directory: ModelDirectory, cfg: DictConfig) -> str | None:
        """Copy the record and the earlier weights that this training would have written to `directory` up to the branch point.

        Returns a sentence about weights that `trunk` did not keep.
        """
        from diffusion_lab.training.record import copy_rows

        if self.trunk.metrics_csv.is_file():
            copy_rows(inside(self.trunk.path, self.trunk.metrics_csv), directory.metrics_csv, self.step)
        kept = {
            (_kind(file), _step(self.trunk, file)): file for file in self.trunk.snapshots + self.trunk.kept_averages
        }
        missing = []
        for name, step in _kept_weights(cfg):
            target, at_a_time = directory.weights(name), self.trunk.weights(name)
            source = at_a_time if step is None else kept.get((_kind(target), step))
            reached = step or (_step(self.trunk, at_a_time) if at_a_time.is_file() else math.inf)
            if reached > self.step:
                continue  # a moment after the branch point
            if source is None:
                missing.append(f"{name} (step {reached:,})")
            else:
                write_whole(target, inside(self.trunk.path, source).read_bytes())
        names = ", ".join(missing)
        return f"{self.trunk.path} did not keep {names}; this model will not have them either" if missing else None


def branch_point(cfg: DictConfig) -> BranchPoint | None:
    """The last checkpoint that lies in the part shared by cfg.branch_from and `cfg`; None without branch_from.

    MistakeError if the two share nothing: other options, other code, or a learning rate that differs from the start.
    """
    if cfg.branch_from is None:
        return None
    trunk, option = ModelDirectory(Path(cfg.branch_from)), f"branch_from={cfg.branch_from}"
    saved = load_config(trunk)
    lengths = saved.trainer.max_steps, cfg.trainer.max_steps
    if min(lengths) < 1 or saved.trainer.get("max_time") or cfg.trainer.get("max_time"):
        raise MistakeError(f"{option}: the length of both trainings must be in steps (trainer.max_steps), not in time")
    if lengths[0] == lengths[1]:
        raise MistakeError(f"{option}: that training also has {lengths[0]:,} steps; change trainer.max_steps")
    if not trunk.branches:
        raise MistakeError(f"{option}: it kept no checkpoint to branch from; train it with snapshots.branches=[…]")
    _check_same(cfg, saved, trunk, option)
    shared = _shared_steps(instantiate(cfg.lr_scheduler), *lengths)
    usable = [step for step in trunk.branches if step <= shared]
    if not usable:
        raise MistakeError(
            f"{option}: they share {shared:,} steps, but the first checkpoint that was kept is from step {min(trunk.branches):,}; "
            "train it with an earlier snapshots.branches, or both with lr_scheduler=warmup_stable_decay or constant"
        )
    return BranchPoint(trunk, usable[-1])


def _check_same(cfg: DictConfig, saved: DictConfig, trunk: ModelDirectory, option: str) -> None:
    """MistakeError unless the training in `trunk` has the options, data and code of `cfg`; the length may differ."""
    from diffusion_lab.training.checkpoints import load_state

    twin = copy.deepcopy(cfg)
    twin.trainer.max_steps = saved.trainer.max_steps
    file = next(iter(trunk.branches.values()))
    if load_state(inside(trunk.path, file)).get("fingerprint") != training_fingerprint(twin):
        changed = changed_keys(training_part(plain_config(saved)), training_part(plain_config(twin)))
        what = f"it differs in {', '.join(changed)}" if changed else "its data or the code that trained it differ"
        raise MistakeError(f"{option}: only the length may differ, but {what}")


def _shared_steps(rate: Callable[[int, float], float], *lengths: int) -> int:
    """The number of initial steps in which the learning rate is the same for trainings of these lengths.

    A checkpoint holds the rate of the step that follows it.
    """
    for step in range(min(lengths)):
        if len({rate(step, step / length) for length in lengths}) > 1:
            return max(0, step - 1)
    return min(lengths) - 1


def _kept_weights(cfg: DictConfig) -> Iterator[tuple[str, int | None]]:
    """The name of weights that are kept during training, and their step; None if the moment is a time."""
    steps, batch = cfg.trainer.max_steps, cfg.data.batch_size
    count = {STEPS: lambda n: n, IMAGES: lambda n: math.ceil(n / batch), SHARE: lambda share: _reaches(share, steps)}
    for moment in read_moments("snapshots.at", cfg.snapshots.at):
        yield snapshot_name(moment), None if moment.unit == SECONDS else int(count[moment.unit](moment.amount))
    for number in range(1, cfg.snapshots.averages + 1):
        share = number / cfg.snapshots.averages
        yield kept_average_name(share), _reaches(share, steps)


def _reaches(share: float, steps: int) -> int:
    """The first step n with n/steps ≥ share, in floating point."""
    near = math.floor(share * steps)
    return next(n for n in range(max(near - 1, 0), near + 3) if n / steps >= share)


def _kind(file: Path) -> str:
    return file.name.partition("_")[0]


def _step(directory: ModelDirectory, file: Path) -> int:
    return int(read_training_progress(directory, file.stem, ["step"])["step"])
