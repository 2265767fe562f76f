"""The commands `sample` and `evaluate`, called from Python: in this process, on one device, with nothing printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from diffusion_lab.commands.scoring import score_once
from diffusion_lab.fingerprints import SCORING_GROUPS
from diffusion_lab.from_config import drawing
from diffusion_lab.from_config.keywords import as_value_errors, config_of
from diffusion_lab.from_config.mistakes import MistakeError, users_mistakes
from diffusion_lab.from_config.moments import requested_scores
from diffusion_lab.from_config.ranks import request_of
from diffusion_lab.from_config.scores import check_scoring
from diffusion_lab.from_config.trained import load_model, trained_config, trained_data
from diffusion_lab.runs import ModelDirectory, newest_model

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.data.base import DataModule
    from diffusion_lab.models.base import GenerativeModel
    from diffusion_lab.runs import RunDirectory

_NONE: Mapping[str, Any] = MappingProxyType({})
_ELSEWHERE = {
    "model_dir": "load(…) already chooses the model",
    "to": "images are returned, not written",
    "trajectory": "Model.trajectory(…) returns it",
    "samples": "diffusion-lab evaluate samples=… scores images from elsewhere",
}


def find_model(model_dir: str | Path | None, outputs: str | Path) -> ModelDirectory:
    """The model directory, by default the newest under `outputs`."""
    with as_value_errors("sample"):
        return newest_model(Path(outputs)) if model_dir is None else ModelDirectory(Path(model_dir))


class Loaded:
    """last: the model of a directory as it was last built. Other choices build it again."""

    def __init__(self, directory: ModelDirectory, config_dir: str | Path | None) -> None:
        self.directory = directory
        self._cache_key: tuple[DictConfig, tuple[str, ...]] | None = None
        self.last: GenerativeModel
        self._config_dir = None if config_dir is None else Path(config_dir)

    def config(self, command: str, keywords: Mapping[str, Any], of_this_call: Mapping[str, Any] = _NONE) -> DictConfig:
        """The config of a command for this model."""
        groups = drawing.GROUPS if command == "sample" else SCORING_GROUPS
        return config_of(command, self.directory, groups, keywords, of_this_call, self._config_dir)

    def model(self, directory: ModelDirectory, saved: DictConfig, *weights: str) -> GenerativeModel:
        """As `load_model`."""
        if self._cache_key != (saved, weights):
            self._cache_key = None
            self.last = load_model(directory, saved, *weights)
            self._cache_key = (saved, weights)
        return self.last

    def data(self) -> DataModule:
        """The data that the model was trained on."""
        with as_value_errors("evaluate"):
            _, saved = trained_config(self.config("evaluate", {}))
            return trained_data(saved)


def load_trained(loaded: Loaded) -> GenerativeModel:
    """The model as it was trained, on the CPU."""
    with as_value_errors("sample"):
        return drawing.drawing_of(loaded.config("sample", {}), loaded.model).model


@contextmanager
def drawing_from(
    loaded: Loaded, keywords: Mapping[str, Any], of_this_call: Mapping[str, Any], x_T: Tensor | None = None
) -> Iterator[tuple[drawing.Drawing, Any, Tensor, Any]]:
    """(what is drawn, the edit, the indices, their labels) of `sample` with these options, as `Drawing.on` says.

    of_this_call: as `config_of` has it. x_T: as `drawing_of` has it.
    """
    with as_value_errors("sample"):
        _refuse(keywords)
        cfg = loaded.config("sample", keywords, of_this_call)
        with users_mistakes():
            device = _device(cfg)
        wanted = drawing.drawing_of(cfg, loaded.model, x_T)
        with wanted.on(device) as ready:
            yield wanted, *ready


def score_model(loaded: Loaded, data: DataModule | None, keywords: Mapping[str, Any]) -> RunDirectory:
    """The score of `evaluate` with these options, made if it is not there. data: that of training; None: it is read."""
    with as_value_errors("evaluate"):
        _refuse(keywords)
        # A model that was trained to be scored at several moments is scored at its end, unless the caller says otherwise.
        cfg = loaded.config("evaluate", {"evaluation.at": None, **keywords})
        if cfg.get("logger"):
            raise MistakeError(
                "logger: only the command logs a score; remove it, or use diffusion-lab evaluate logger=…"
            )
        with users_mistakes():
            device = _device(cfg)
            directory, saved = trained_config(cfg)
            data = trained_data(saved) if data is None else _same(data, saved)
            scores = requested_scores(saved)
            if len(scores) > 1:
                raise MistakeError(
                    "evaluation.at: one call computes one score; call it for each moment, as weights='at_1m'"
                )
            model = loaded.model(directory, saved, scores[0].evaluation.weights)
            check_scoring(scores[0], data, model.weight_names, f"{directory.path} has")
        return score_once(model.to(device), data, scores[0], directory, Path(cfg.outputs), cfg.rescore, quiet=True)


def _refuse(keywords: Mapping[str, Any]) -> None:
    for name in keywords:
        if name in _ELSEWHERE:
            raise MistakeError(f"{name}: {_ELSEWHERE[name]}; remove it")


def _same(data: DataModule, saved: DictConfig) -> DataModule:
    if data.training_identity != saved.facts.get("identity"):
        labels = ", with its labels=…" if saved.get("labels") else ""
        raise MistakeError(
            f"data: the model was not trained on this {data.name}; pass the data that it was trained on{labels}"
        )
    return data


def _device(cfg: DictConfig) -> str:
    """ValueError where several were requested: one process has one."""
    request = request_of(cfg, prefix="")
    if request.size > 1 and cfg.devices is not None:
        raise MistakeError(f"devices={cfg.devices}: a call from Python uses one device; use the command for several")
    return f"cuda:{request.index(0)}" if request.on_gpu else "cpu"
