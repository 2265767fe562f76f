"""A profile of a training step: the time of each of its parts."""

import re

import torch
from lightning.pytorch.profilers import SimpleProfiler

_AVERAGES = "EMA|PowerAverages"
# Lightning's names of timed parts. The optimizer is the rest of a batch: clipping, the check of the gradient, its step.
_PARTS = {
    "data": r"train_dataloader_next|Strategy\].*\.batch_to_device",
    "forward": r"Strategy\].*\.training_step",
    "backward": r"Strategy\].*\.backward",
    "batch": "run_training_batch",
    "averages": rf"\[Callback\]({_AVERAGES})\.on_train_batch_end",
    "other": rf"\[Callback\](?!{_AVERAGES}).*\.on_train_batch_end",
}


class StepTimes(SimpleProfiler):
    """Milliseconds per batch, or per part of one, after the first: data, forward, backward, optimizer, averages, other callbacks.

    On a GPU the host waits after each part, to time it separately; a training without this profiler is faster than their sum.
    """

    def start(self, action_name: str) -> None:
        _wait()
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        _wait()
        super().stop(action_name)

    def milliseconds(self) -> dict[str, float]:
        count = max(1, len(self.recorded_durations.get("run_training_batch", ())) - 1)
        found = {
            part: sum(sum(times[1:]) for name, times in self.recorded_durations.items() if re.search(pattern, name))
            for part, pattern in _PARTS.items()
        }
        found["optimizer"] = found.pop("batch") - found["forward"] - found["backward"]
        order = "data", "forward", "backward", "optimizer", "averages", "other"
        return {part: 1000 * found[part] / count for part in order}

    def summary(self) -> str:
        found = self.milliseconds()
        whole = max(sum(found.values()), 1e-9)
        lines = [f"{part:<10}{value:>10.2f} ms{100 * value / whole:>7.1f} %" for part, value in found.items()]
        return "\n".join(["where a training step takes its time:", *lines])


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
