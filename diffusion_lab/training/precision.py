"""A resumed training computes in the precision that it began with."""

from __future__ import annotations

from typing import Any

from lightning import Callback


class PrecisionError(Exception):
    """A training that began in another precision. One sentence."""


class Precision(Callback):
    """Keeps trainer.precision in the checkpoint: `auto` may come to something else on another machine."""

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def state_dict(self) -> dict[str, Any]:
        return {"precision": self.precision}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["precision"] != self.precision:
            raise PrecisionError(
                f"this training began with precision {state['precision']}, but trainer.precision=auto is {self.precision} on this "
                "machine; resume it on a machine like the first, or remove its folder to start over"
            )
