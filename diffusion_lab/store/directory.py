"""One folder under outputs/, and how its JSON is written and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.store.files import write_whole
from diffusion_lab.store.foreign import RunError
from diffusion_lab.store.written import ours_below


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Readable, strict JSON (ValueError for NaN), whole or not at all; makes the folder."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


@dataclass(frozen=True)
class Directory:
    """One folder under outputs/ for something that a tracker may log."""

    path: Path

    @property
    def home(self) -> Path:
        """The folder that is held and that says how far the work is; its name is that of the work."""
        return self.path

    @property
    def files(self) -> list[Path]:
        """What we wrote here and nobody has changed, the last written first. Neither links nor what loggers keep in `logs`."""
        return ours_below(self.path)

    @property
    def logs(self) -> Path:
        """Folder of TensorBoard's and W&B's own files."""
        return self.path / "logs"

    @property
    def tracked_as(self) -> Path:
        """The id of its run at W&B."""
        return self.path / "wandb_id"


def validated(
    path: Path, content: dict[str, Any], wrong_in: Callable[[Mapping[str, Any]], str | None], writer: str
) -> dict[str, Any]:
    """The content of `path`. RunError if it is not what `writer` writes: the folder may come from somebody else."""
    wrong = wrong_in(content)
    if wrong:
        raise RunError(f"{path} is not what {writer} writes: {wrong}")
    return content
