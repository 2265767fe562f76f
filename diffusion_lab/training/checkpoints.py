"""resume.ckpt, from which training resumes: when and how it is written, and the choice of an intact one.

Our own writer, because Lightning 2.6 stages a checkpoint in the temporary folder and moves it, which across file systems is
a copy that a crash or a full disk can truncate; and our own callback, because ModelCheckpoint does not handle signals.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from diffusion_lab.models.optimization import STAGE_AT
from diffusion_lab.store.directories import previous_of
from diffusion_lab.store.files import whole_file
from diffusion_lab.training.interruption import Interruption


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint as a whole or not at all, and keeps the previous one as `previous_of(path)`. Nothing is unpickled."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_state(Path(path), checkpoint)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        return load_state(Path(path))


class Saving(Checkpoint):
    """Saves at intervals of steps and of minutes, at the end of training, and after a signal, which also ends it.

    It must come last, to save the state after a completed step. Lightning moves a `Checkpoint` behind all other callbacks.
    If training ends at the step of a checkpoint, a training that resumes from it stops at once.

    path: of the checkpoint. interruption: the signals of this process. every_n_steps, every_minutes: whichever comes first; 0 turns
    one off, and both turn off the last one, too. The attribute `made_by`, a record of code, versions and precision, is stored in
    the file.
    """

    def __init__(self, path: Path, interruption: Interruption, every_n_steps: int, every_minutes: float) -> None:
        self.path, self.interruption = path, interruption
        self.every_n_steps, self.every_seconds = every_n_steps, 60 * every_minutes
        self.made_by: dict[str, Any] = {}
        self._step, self._saved_at = 0, monotonic()
        self._ended, self._asked_to_stop, self._after_validation = False, False, False

    @property
    def _keeps_end(self) -> bool:
        return bool(self.every_n_steps or self.every_seconds)

    @property
    def has_stopped_training(self) -> bool:
        """Whether training ended early after a signal, with everything saved."""
        return self._asked_to_stop

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.should_stop or self._ended
        self.interruption.listen()  # replaces the handlers that Lightning has installed
        self._step, self._saved_at = trainer.global_step, monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients are still being accumulated
            return
        self._step = step
        due = self.every_n_steps > 0 and step % self.every_n_steps == 0
        due |= self._keeps_end and 0 < trainer.max_steps <= step
        late = self.every_seconds > 0 and monotonic() - self._saved_at >= self.every_seconds
        late |= self._keeps_end and _stops(trainer)
        late, signum = _agreed(trainer, late, self.interruption.signum or 0)
        self._ended = trainer.should_stop
        if signum:
            self.interruption.signum, self._asked_to_stop = signum, True
        if not (due or late or signum):
            return
        # A step includes the validation that follows it, because callbacks keep state about it.
        self._after_validation = _validates_next(trainer)
        if not self._after_validation:
            if signum:
                trainer.limit_val_batches = 0  # Lightning validates when it ends early
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A callback may end training because of this validation.
        if self._after_validation or (self._keeps_end and _stops(trainer) and not self._ended):
            self._after_validation = False
            self._ended = trainer.should_stop
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = monotonic()
        if self._asked_to_stop:
            trainer.should_stop = True
            trainer.fit_loop.epoch_loop.min_steps = None  # a signal ends training before min_steps, too

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["made_by"], checkpoint["ended"] = self.made_by, self._ended
        checkpoint["parts"] = trainer.accumulate_grad_batches

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._ended = checkpoint["ended"]
        # Lightning counts parts of batches; the resumed training may split batches differently.
        counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for count in (counts["total"], counts["current"]):
            running = count["processed"] - count["completed"]  # 1 if it was saved at the end of a part
            count.update({key: n * trainer.accumulate_grad_batches // checkpoint["parts"] for key, n in count.items()})
            count["completed"] = count["processed"] - running


def newest_good(path: Path) -> tuple[Path | None, int, dict[str, Any], list[str]]:
    """(path, step, `made_by`, messages) of the newest intact checkpoint: `path` or the one before it; (None, 0, {}, …): none.

    messages: one sentence on each file that was skipped.
    """
    wrong: list[str] = []
    for candidate in filter(Path.exists, (path, previous_of(path))):
        try:
            state = load_state(candidate)
            return candidate, state.get("global_step", 0), state.get("made_by", {}), wrong
        except ValueError as error:
            wrong.append(str(error))
    return None, 0, {}, wrong


def for_next_stage(state: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of a training as the start of another one that goes on from it, with options of its own.

    Weights, moments of the optimizers, averages, used time and the numbers of steps and batches stay. Noise and dropout of batch k
    are keyed by k, and batch k of size B shows the positions from k·B of the order of the data: with the same size the streams go
    on where they were.
    """
    steps = [scheduler["last_epoch"] for scheduler in state["lr_schedulers"]]
    optimizers = [{**each, STAGE_AT: step} for each, step in zip(state["optimizer_states"], steps, strict=True)]
    rates = ("base_lrs", "_last_lr")
    schedulers = [{key: value for key, value in each.items() if key not in rates} for each in state["lr_schedulers"]]
    return {**state, "optimizer_states": optimizers, "lr_schedulers": schedulers, "ended": False}


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    content = io.BytesIO()  # torch.save hides errors of a full disk
    torch.save(state, content)
    with whole_file(path, previous=previous_of(path)) as file:
        file.write(content.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """The plain containers and tensors of a checkpoint, on the CPU. ValueError, naming the file, if it is damaged or holds code."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch ignores wrong checksums
                raise ValueError("wrong checksum")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except (OSError, MemoryError):
        raise
    except Exception:  # torch has no common class for unreadable files
        raise ValueError(f"{path} is damaged, or holds more than tensors and plain values") from None


def _stops(trainer: Trainer) -> bool:
    """Whether a callback has ended training before its last step."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def _validates_next(trainer: Trainer) -> bool:
    """Whether Lightning validates before the next step: at its interval, and at the end of training."""
    if not trainer.enable_validation:
        return False
    return _stops(trainer) or (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % (trainer.val_check_batch or 1) == 0


def _agreed(trainer: Trainer, late: bool, signum: int) -> tuple[bool, int]:
    """The same (late, signum) on all ranks, if one of them must save: clocks differ, and a signal may reach only one rank."""
    if trainer.world_size == 1:
        return late, signum
    flags = torch.tensor([int(late), signum], device=trainer.strategy.root_device)
    late_somewhere, signum_somewhere = trainer.strategy.reduce(flags, reduce_op="max").tolist()
    return bool(late_somewhere), int(signum_somewhere)
