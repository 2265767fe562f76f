"""One scored cell: outputs/runs/<model>-<id>/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.files import staged_in
from diffusion_lab.foreign import inside, read_printable_json
from diffusion_lab.runs.directory import Directory, plain_files, write_json
from diffusion_lab.status import FILE as STATUS


class RunDirectory(Directory):
    """One scored cell."""

    @property
    def metrics(self) -> Path:
        """Values, protocol and curves."""
        return self.path / "metrics.json"

    @property
    def samples_png(self) -> Path:
        return self.path / "samples.png"

    @property
    def interpolation_png(self) -> Path:
        """Ways from one sample to another through the latents."""
        return self.path / "interpolation.png"

    @property
    def reconstructions_png(self) -> Path:
        """Test images, each followed by what the model makes of its latent."""
        return self.path / "reconstructions.png"

    @property
    def nearest_png(self) -> Path:
        """Samples, and below each the nearest training images."""
        return self.path / "nearest.png"

    @property
    def config(self) -> Path:
        """The resolved config it was sampled and scored with."""
        return self.path / "config.yaml"

    @property
    def outputs(self) -> Path:
        """The outputs/ that this cell and its model lie in."""
        return self.path.parent.parent

    @property
    def files(self) -> list[Path]:
        """Our own files here, that first without which the cell has no score; see `ModelDirectory.files`."""
        if self.path.is_symlink():
            return []
        pictures = (self.samples_png, self.interpolation_png, self.reconstructions_png, self.nearest_png)
        named = (self.metrics, *pictures, self.config, self.tracked_as, self.path / STATUS)
        return plain_files([*named, *staged_in(self.path)])

    @property
    def folders(self) -> list[Path]:
        """Folders that we make for these files: none."""
        return []

    def write_metrics(self, content: Mapping[str, Any]) -> None:
        write_json(self.metrics, content)

    def read_metrics(self) -> dict[str, Any]:
        return read_printable_json(inside(self.path, self.metrics))
