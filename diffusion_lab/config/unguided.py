"""A trained diffusion model that another model uses without its guidance: read from its folder and checked against the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.utils import get_class

from diffusion_lab.config.loading import build_trained, load_config, settled
from diffusion_lab.store import ModelDirectory

if TYPE_CHECKING:
    from diffusion_lab.models.diffusion import DiffusionModel


def unguided(directory: ModelDirectory, identity: str, option: str, fix: str) -> DiffusionModel:
    """The model in a folder, with fresh weights. ValueError where it is of another family, or was trained on other data.

    identity: of the data. option: as the user gave the folder. fix: what to do about other data, the end of the sentence.
    """
    from diffusion_lab.models.diffusion import DiffusionModel

    saved = load_config(directory)
    kind = get_class(saved.model._target_)
    if not issubclass(kind, DiffusionModel):
        raise ValueError(f"{option}: it holds a {kind.__name__}, not a diffusion model")
    saved.guidance = {"_target_": "diffusion_lab.diffusion.Unguided"}
    model = build_trained(directory, settled(saved, directory))
    if saved.facts.get("identity") != identity:
        data = "not named" if saved.data is None else f"{saved.data._target_.rpartition('.')[2]}, by content"
        raise ValueError(f"{option}: it was trained on other data or classes ({data}) than {fix}")
    return model
