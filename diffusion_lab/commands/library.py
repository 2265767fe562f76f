"""A trained model in Python: `load("outputs/models/…")`, then `.sample(64)` and `.score()`.

The calls do what the commands `sample` and `evaluate` do, in this process, on one device, without printing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import Tensor

from diffusion_lab.commands.evaluate import score_once
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.composing import completed, model_dir_of
from diffusion_lab.config.loading import load_module, trained_config, trained_data
from diffusion_lab.config.mistakes import MistakeError, mistake_in_job, mistake_in_options, users_mistakes
from diffusion_lab.config.naming import differences_of, other_models
from diffusion_lab.config.options import check_options
from diffusion_lab.config.overrides import ALL, as_options, as_value, quoted
from diffusion_lab.config.sample_options import Drawing, drawing_of
from diffusion_lab.config.scores import planned_scores
from diffusion_lab.config.working_directory import add_to_path, check_outputs, with_own_choices
from diffusion_lab.data.module import DataModule
from diffusion_lab.models.trainable import GenerativeModel
from diffusion_lab.report import drawing
from diffusion_lab.sampling import Guidance, Sampler
from diffusion_lab.store import ModelDirectory
from diffusion_lab.training.devices import DeviceRequest
from diffusion_lab.training.ranks import device_of, request_of

Image = int | str | Path  # the number of a test image, or a file
# A class or several, FILE.npy, or an array of vectors or fields; for several conditions, a value per name.
Value = int | str | Path | Sequence[int | str] | Tensor | np.ndarray
Format = Literal["tensor", "numpy", "pil", "grid"]
_NUMPY = np.ndarray | np.generic
_NOTEBOOK = "__main__."  # classes defined in a notebook
_WITHOUT_EFFECT = ("model_dir", "to", "format", "trajectory", "samples", "logger", "hydra", "compile")


class Score(NamedTuple):
    """values: numbers by name. protocol: how each was measured. path: the folder in outputs/runs that holds them."""

    values: dict[str, float]
    protocol: dict[str, Any]
    path: Path


class Choices(TypedDict, total=False):
    """The choices of sampling, for all methods of a model; None keeps the choice of training.

    sampler, guidance: the name of a choice, such as "ddim", or an object, such as `DDIMSampler(EvenSpacing(20))`. num_steps: of the
    sampler. scale: of the guidance. weights: "raw", an average such as "ema_0.999", or None for the default ones.
    seed: of the noise; None: 0 for samples, that of training for scores. overrides: further options in the grammar of the command
    line, applied last: ["sampler/spacing=quadratic", "batch_size=32"].
    """

    sampler: str | Sampler | None
    num_steps: int | None
    guidance: str | Guidance | None
    scale: float | None
    weights: str | None
    seed: int | None
    overrides: Sequence[str]


class Model:
    """A trained model in a folder of outputs/models, by default the newest one in `outputs`.

    config_dir: a folder with your own choices, like `--config-dir` of the commands. accelerator: "cpu" or "gpu"; None: a GPU if
    there is one. Loading a folder from somebody else runs no code from it.

    path: its folder. module: the `GenerativeModel`, a LightningModule, with the choices of the last call;
    `module.generator(weights)` draws, encodes and bounds.

    All methods accept the keyword arguments of `Choices`.

    ValueError, with the message of the command, for invalid arguments.
    """

    module: GenerativeModel

    def __init__(
        self,
        model_dir: str | Path | None = None,
        outputs: str | Path | None = None,
        config_dir: str | Path | None = None,
        accelerator: str | None = None,
    ) -> None:
        own = None if config_dir is None else [f"file://{Path(config_dir).absolute()}"]
        self._options = as_options({"outputs": outputs, "accelerator": accelerator})
        self._built: tuple[DictConfig, tuple[str, ...]] | None = None
        self._logged: set[str] = set()
        with _call_of("sample"):
            self._directory = model_dir_of([*as_options({"model_dir": model_dir}), *self._options])
            self._options += as_options({"model_dir": self.path, "hydra.searchpath": own})
            self._log_differences(drawing_of(self.config("sample"), self._load).saved)  # raises mistakes here

    @property
    def path(self) -> Path:
        return self._directory.path

    @property
    def data(self) -> DataModule:
        """The data set that the model was trained on. ValueError if its files are missing: pass their folder to `score`."""
        with _call_of("evaluate"):
            return trained_data(trained_config(self.config("evaluate"))[1])

    def images(self, split: str = "test", num_images: int = 64) -> Tensor:
        """The first images of "train", "validation" or "test" of `data`, as the model sees them: float32 (B, *shape)."""
        with _call_of("evaluate"), users_mistakes():
            return next(self.data.batches(split, num_images))[0]

    def sample(
        self,
        num_images: int = 64,
        condition: Value | Mapping[str, Value] | None = None,
        *,
        x_T: Tensor | None = None,
        format: Format = "tensor",
        **choices: Unpack[Choices],
    ) -> Any:
        """Samples 0 … num_images − 1 of the seed, identical to those of `diffusion-lab sample` with the same options.

        condition: the number or the name of a class, or a list of them, used in turn; vectors or fields, one row per image, as
        a file or an array; for several conditions, a mapping of these. x_T: starts of the chains,
        (num_images, *shape), in place of noise. format: "tensor", float32 (B, C, *spatial) or (B, D) on the CPU, in [−1, 1] if the
        data have levels, else in their units; "numpy", uint8 (B, *spatial, C), uint16 beyond 256 levels, without levels the tensor
        as it is; "pil", a list of images; "grid", one picture of all.
        """
        return self._draw(format, {"num_images": num_images, "condition": condition} | _named(choices), choices, x_T)

    def edit(
        self,
        num_images: int = 64,
        condition: Value | Mapping[str, Value] | None = None,
        *,
        inpaint: tuple[Image, str | Path] | None = None,
        denoise: tuple[Image, int] | None = None,
        interpolate: tuple[Image, Image] | None = None,
        format: Format = "tensor",
        **choices: Unpack[Choices],
    ) -> Any:
        """Edits of given images, in the formats of `sample`. An image is a file, or the number of a test image.

        num_images, condition, format: as in `sample`. Give one of: inpaint, an image and a mask that is white where the model
        paints; denoise, an image and the step t up to which noise is added; interpolate, the first and the last image.
        """
        pairs = [pair for pair in (inpaint, denoise, interpolate) if pair is not None]
        if not pairs or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
            raise ValueError("edit: give inpaint=(image, mask), denoise=(image, t) or interpolate=(first, last)")
        given = {"num_images": num_images, "condition": condition, "interpolate.images": interpolate} | _named(choices)
        given |= dict(zip(("inpaint.image", "inpaint.mask"), inpaint or (None, None), strict=True))
        given |= dict(zip(("denoise.image", "denoise.t"), denoise or (None, None), strict=True))
        return self._draw(format, given, choices)

    def trajectory(
        self,
        num_images: int = 1,
        condition: Value | Mapping[str, Value] | None = None,
        *,
        x_T: Tensor | None = None,
        **choices: Unpack[Choices],
    ) -> Iterator[Tensor]:
        """x_T, …, x_0 of samples 0 … num_images − 1: float32 (B, *shape) each, on the CPU."""
        given = {"num_images": num_images, "condition": condition, "trajectory": True} | _named(choices)
        with self.drawing(given, choices.get("overrides", ()), x_T) as drawn:
            drawn.check_trajectory("trajectory")
            return iter([x.cpu() for x in drawn.trajectory()])

    def score(
        self,
        data: DataModule | str | Path | None = None,
        *,
        metrics: str | Sequence[str] | None = None,
        features: str | Sequence[str] | None = None,
        num_samples: int | None = None,
        **choices: Unpack[Choices],
    ) -> Score:
        """The score of `diffusion-lab evaluate` with the same options, in the same folder.

        An existing score is not computed again. Trackers do not log it.
        data: the data set that the model was trained on, or its folder; None: its folder in training.
        """
        root, data = (data, None) if isinstance(data, str | Path) else (None, data)
        given = {"metrics": metrics, "features": features, "data.root": root, "evaluation.num_samples": num_samples}
        given |= _named(choices, of_samples="evaluation.")
        with _call_of("evaluate"):
            # A model trained with evaluation.at is scored at its end, unless the caller chooses otherwise.
            options = _options(given, choices.get("overrides", ()))
            cfg = self.config("evaluate", ["evaluation.at=null", *options])
            if cfg.get("logger") is not None:
                cfg.logger = None
            with users_mistakes():
                planned, *more = planned_scores(cfg, self._request_of(cfg), self._load, data)
                if more:
                    raise MistakeError("evaluation.at: one call computes one score: choose one, as weights='at_1m'")
                if _NOTEBOOK in str(planned.cfg):
                    raise MistakeError("a score is identified by its code: put your class into a file and import it")
            self._log_differences(planned.cfg)
            score_once(planned, quiet=True)
        content = planned.run.read_metrics()
        return Score(content["values"], content["protocol"], planned.run.path)

    def _draw(self, format: str, given: Mapping[str, Any], choices: Choices, x_T: Tensor | None = None) -> Any:
        if format not in ("tensor", "numpy", "pil", "grid"):
            raise ValueError(f"format={format}: choose one of tensor, numpy, pil, grid")
        with self.drawing(given, choices.get("overrides", ()), x_T) as drawn:
            levels, shape, units = drawn.generator.num_levels, drawn.generator.shape, drawn.units
            if format == "pil":
                drawing.check_images(shape, levels)
            x: Any = drawn.images(progress_bar=False)
            if format == "tensor":
                return x
            names = None if units is None else units.names
            if format == "grid":
                return drawing.picture(drawn.in_grid(x), levels, drawn.columns, names)
            return drawing.numbers(x, levels) if format == "numpy" else drawing.images(x, levels, names)

    @contextmanager
    def drawing(
        self, given: Mapping[str, Any], overrides: Sequence[str] = (), x_T: Tensor | None = None
    ) -> Iterator[Drawing]:
        """What `sample` draws with these options; see `Drawing.on`."""
        with _call_of("sample"):
            option, arrays = _conditions(given.get("condition"))
            options = _options({name: value for name, value in given.items() if name != "condition"}, overrides)
            planned = drawing_of(self.config("sample", [*option, *options]), self._load, x_T, arrays)
            self._log_differences(planned.saved)
            with planned.on(device_of(self._request_of(planned.cfg))) as drawn:
                yield drawn

    def config(self, command: str, options: Sequence[str] = ()) -> DictConfig:
        """The config of a command for this model."""
        add_to_path()
        options = with_own_choices([*self._options, *options])
        with _own_hydra(), initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(command, completed(command, options))
        check_options(cfg, command)
        check_outputs(cfg)
        return cfg

    def _load(self, directory: ModelDirectory, saved: DictConfig, *weights: str) -> GenerativeModel:
        """Like `load_module`, but reuses the last model if nothing changed. A notebook's classes may have changed since."""
        if self._built != (saved, weights) or _NOTEBOOK in str(saved):
            self._built = None
            self.module = load_module(directory, saved, *weights)
            self._built = saved, weights
        return self.module

    def _log_differences(self, saved: DictConfig) -> None:
        """Log as warnings, each once, how this model and those that guide it differ from their training."""
        for line in differences_of([self._directory, *other_models(saved)]):
            if line not in self._logged:
                self._logged.add(line)
                logging.getLogger(__name__).warning(line)

    def _request_of(self, cfg: DictConfig) -> DeviceRequest:
        with users_mistakes():
            request = request_of(cfg, prefix="")
        if request.size > 1 and cfg.devices is not None:
            raise MistakeError(f"devices={cfg.devices}: a call from Python uses one device; use the command")
        return replace(request, size=1)

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r})"


load = Model


@contextmanager
def _call_of(command: str) -> Iterator[None]:
    """Turn a mistake in a call into a ValueError with the command's message."""
    with _own_hydra():
        try:
            yield
        except Exception as error:
            message = mistake_in_job(error) or mistake_in_options(error, command)
            if message is None:
                raise
            raise ValueError(message) from None


@contextmanager
def _own_hydra() -> Iterator[None]:
    """In the block configs can be composed, even in a program that uses Hydra; Hydra's state is restored afterwards."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer  # Hydra replaces the instance


def _conditions(value: Any) -> tuple[list[str], dict[str, Tensor]]:
    """(the option that sets conditions, none for None; arrays of conditions by name)."""
    each = {} if value is None else value if isinstance(value, Mapping) else {ALL: value}
    arrays = {
        name: torch.as_tensor(part)
        for name, part in each.items()
        if hasattr(part, "shape") and not (isinstance(part, _NUMPY) and part.dtype.kind in "UO")
    }
    texts = [f"{name}: {quoted(as_value(name, part))}" for name, part in each.items() if name not in arrays]
    return [f"condition={{{', '.join(texts)}}}"] if texts else [], arrays


def _options(given: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    if isinstance(overrides, str):
        raise MistakeError(f"overrides={overrides!r} is not a list: give [{overrides!r}]")
    for override in overrides:
        name = override.lstrip("+~").replace("/", ".").replace("=", ".").partition(".")[0]
        if name in _WITHOUT_EFFECT:
            raise MistakeError(f"{override} has no effect in a call from Python: remove it")
    return [*as_options(given), *overrides]


def _named(choices: Choices, of_samples: str = "") -> dict[str, Any]:
    """Choices by the names of their options. of_samples: the prefix of the options weights and seed."""
    if unknown := choices.keys() - Choices.__annotations__.keys():
        raise TypeError(f"there is no argument {min(unknown)}; the choices are {', '.join(Choices.__annotations__)}")
    names = {"num_steps": "sampler.spacing.num_steps", "scale": "guidance.scale"}
    names |= {name: f"{of_samples}{name}" for name in ("weights", "seed")}
    return {names.get(name, name): value for name, value in choices.items() if name != "overrides"}
