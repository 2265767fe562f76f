"""Trainings that go on from the last checkpoint of a finished one, their parent: continue_from=FOLDER.

Such a training is always another model: its name holds the parent's and the digest of the checkpoint. Its options are the
parent's but for those that the user types; a budget is the total of all stages.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.naming import checkpoint_of, options_asked, options_recorded
from diffusion_lab.config.weight_files import read_training_progress
from diffusion_lab.models.budget import seconds_of
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.weight_names import SHARE, kept_average_name, read_moments, snapshot_name
from diffusion_lab.training.checkpoints import for_next_stage, load_state, write_state

# What may differ from the parent, each with everything below it.
_MAY_DIFFER = (
    "lr_scheduler",
    "optimizer",
    "ema",
    "data",
    "train_images",
    "variant",
    "trainer.max_steps",
    "trainer.max_time",
)
_OF_DATA = ("facts.identity", "facts.end_shares", "facts.init")
_FIXED = "optimizer._target_"


@dataclass(frozen=True)
class Parent:
    """A finished training, and its last checkpoint."""

    directory: ModelDirectory

    @cached_property
    def record(self) -> dict[str, Any]:
        return self.directory.read_training()

    def state(self) -> dict[str, Any]:
        """Its checkpoint, which is not kept in memory. MistakeError if it is damaged."""
        try:
            return load_state(checkpoint_of(self.directory))
        except ValueError as error:
            raise MistakeError(f"continue_from={self.directory.path}: {error}") from error

    @cached_property
    def step(self) -> int:
        """The number of steps at its checkpoint."""
        return int(self.state()["global_step"])

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The trainings up to its checkpoint, the first one first."""
        whole = {
            "model": self.directory.path.name,
            **{key: self.record.get(key) for key in ("steps", "seconds", "images")},
        }
        *earlier, last = self.record.get("stages") or [whole]
        return [*earlier, {**last, "checkpoint": self.step}]

    def start(self, place: ModelDirectory, cfg: DictConfig) -> str:
        """Write the first checkpoint, the log and the earlier snapshots of the training that goes on; one sentence on them."""
        if self.directory.metrics_csv.is_file():
            shutil.copyfile(self.directory.metrics_csv, place.metrics_csv)
        missing = [name for name, step in self._earlier_moments(cfg) if not self._has(step, place.weights(name))]
        write_state(place.resume, for_next_stage(self.state()))
        without = f"; there are no weights {', '.join(missing)}, which lie before" if missing else ""
        return f"going on from step {self.step:,} of {self.directory.path}{without}"

    def _earlier_moments(self, cfg: DictConfig) -> Iterator[tuple[str, int]]:
        """Names and steps of the weights that this training would have kept before its start, with a budget in steps."""
        total = cfg.trainer.max_steps
        shares = [moment.amount for moment in read_moments("snapshots.at", cfg.snapshots.at) if moment.unit == SHARE]
        kept = [share / cfg.snapshots.averages for share in range(1, cfg.snapshots.averages + 1)]
        for name, share in [
            *((snapshot_name(share), share) for share in shares),
            *((kept_average_name(share), share) for share in kept),
        ]:
            step = math.ceil(share * total)
            step -= (step - 1) / total >= share if total > 0 else 0  # rounding, as of 0.1·30
            if total > 0 and step <= self.step:
                yield name, step

    def _has(self, step: int, file: Path) -> bool:
        """Whether the parent has weights of this kind at this step; they are linked or copied to `file`."""
        kind = file.name.partition("_")[0]
        for theirs in (*self.directory.snapshots, *self.directory.kept_averages):
            facts = read_training_progress(self.directory, theirs.stem, ["step"])
            if theirs.name.partition("_")[0] == kind and facts["step"] == step:
                file.unlink(missing_ok=True)
                try:
                    os.link(theirs, file)
                except OSError:  # a file system without links
                    shutil.copyfile(theirs, file)
                return True
        return False


def parent_of(cfg: DictConfig) -> Parent | None:
    """The parent of a training whose facts are filled in; None without continue_from.

    MistakeError if options differ that must not, if the budget is used up, or if its checkpoint is missing or damaged.
    """
    if cfg.get("continue_from") is None:
        return None
    parent, option = Parent(ModelDirectory(Path(cfg.continue_from))), f"continue_from={cfg.continue_from}"
    if cfg.lora.rank is not None:
        raise MistakeError(
            f"{option}: that model was trained with lora; use init_from={cfg.continue_from} to tune it further"
        )
    now, recorded = options_asked(cfg), options_recorded(parent.directory.config)
    differing = min((_differing(then, now) for then in recorded), key=lambda each: len([*filter(_is_fixed, each)]))
    for name in filter(_is_fixed, sorted(differing)):
        then, value = differing[name]
        raise MistakeError(
            f"{option}: {name} is {value!r} here and {then!r} there: only the budget, optimizer.*, lr_scheduler, ema and data of "
            "the same shape may differ; init_from=… starts another training from its weights"
        )
    _check_budget(cfg, parent, option)
    return parent


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Option -> its two values, where they differ."""
    return {key: (then.get(key), now.get(key)) for key in {*then, *now} if then.get(key) != now.get(key)}


def _is_fixed(option: str) -> bool:
    may = option in _OF_DATA or any(f"{option}.".startswith(f"{group}.") for group in _MAY_DIFFER)
    return option == _FIXED or not may


def _check_budget(cfg: DictConfig, parent: Parent, option: str) -> None:
    steps, time = cfg.trainer.max_steps, cfg.trainer.get("max_time")
    if 0 < steps <= parent.step:
        raise MistakeError(
            f"{option}: trainer.max_steps={steps} is the total of all stages, and {parent.step} are done: use a larger one"
        )
    seconds = parent.record.get("seconds") or 0.0
    if time is not None and seconds_of(time) <= seconds:
        raise MistakeError(
            f"{option}: trainer.max_time={time} is the total of all stages, and {seconds:.0f} seconds are used: use a longer one"
        )
