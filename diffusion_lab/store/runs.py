"""One scored cell: outputs/runs/<model>-<id>/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.store.directory import Directory, write_json
from diffusion_lab.store.foreign import inside, read_printable_json


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

    def write_metrics(self, content: Mapping[str, Any]) -> None:
        write_json(self.metrics, content)

    def read_metrics(self) -> dict[str, Any]:
        return read_printable_json(inside(self.path, self.metrics))
