"""A trained model, from Python: `load("outputs/models/…")`, then `.sample(64)` and `.score()`.

Options are keywords, as in `model.sample(8, sampler="ddim", num_steps=20, guidance="classifier_free", label=3)` and as in PyTorch.
Strings such as "sampler=ddim" would hide them from an editor, and a separate object of options would be one more thing to keep. A
keyword is the name of an option of `diffusion-lab sample` or `evaluate`, or the end of its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from diffusion_lab.commands.called import Loaded, drawing_from, find_model, load_trained, score_model
from diffusion_lab.files import name_root

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from diffusion_lab.data.base import DataModule
    from diffusion_lab.models.base import GenerativeModel


class Score(NamedTuple):
    """values: numbers by name. protocol: what each was measured with. path: the folder of outputs/runs that holds them."""

    values: dict[str, float]
    protocol: dict[str, Any]
    path: Path


def load(
    model_dir: str | Path | None = None, outputs: str | Path = "outputs", config_dir: str | Path | None = None
) -> Model:
    """The trained model in a folder of outputs/models, by default the newest one of `outputs`.

    config_dir: a folder with choices of your own, as `--config-dir` of the command.

    A folder from somebody else runs no code of its own. ValueError, with the message of the command, if it is not a model.
    """
    return Model(model_dir, outputs, config_dir)


class Model:
    """A trained model: `sample` and `score` do what `diffusion-lab sample` and `evaluate` do, with the same options and results.

    path: its folder. module: the `GenerativeModel`, a LightningModule, with the choices of the last call and the raw weights;
    `with module.use_weights("ema_0.999"):` uses others.
    """

    def __init__(self, model_dir: str | Path | None, outputs: str | Path, config_dir: str | Path | None) -> None:
        name_root(Path(outputs))
        self._loaded, self._outputs = Loaded(find_model(model_dir, outputs), config_dir), str(outputs)
        load_trained(self._loaded)  # so that a mistake shows here

    @property
    def module(self) -> GenerativeModel:
        return self._loaded.last

    @property
    def path(self) -> Path:
        return self._loaded.directory.path

    @property
    def data(self) -> DataModule:
        """The data set that it was trained on. ValueError if its files are missing: give their folder, as in `score(root=…)`."""
        return self._loaded.data()

    @overload
    def sample(
        self, num_images: int = ..., *, seed: int = ..., format: Literal["tensor"] = ..., **options: Any
    ) -> Tensor: ...

    @overload
    def sample(
        self, num_images: int = ..., *, seed: int = ..., format: Literal["numpy"], **options: Any
    ) -> np.ndarray: ...

    @overload
    def sample(
        self, num_images: int = ..., *, seed: int = ..., format: Literal["pil"], **options: Any
    ) -> list[Image.Image]: ...

    @overload
    def sample(
        self, num_images: int = ..., *, seed: int = ..., format: Literal["grid"], **options: Any
    ) -> Image.Image: ...

    def sample(self, num_images: int = 64, *, seed: int = 0, format: str = "tensor", **options: Any) -> Any:
        """Samples 0 … num_images − 1 of the seed: the images that `diffusion-lab sample` draws with the same options.

        format: "tensor", float32 (B, C, H, W) in [−1, 1] on the CPU, (B, D) of points; "numpy", uint8 (B, H, W, C), uint16 beyond
        256 levels; "pil", a list of images; "grid", one image of all. label: the number or the name of a class, or a list of them,
        drawn in turn. x_T: what the chains start from, (num_images, *shape), in place of noise. ValueError, with the message of
        the command, for options that are not possible.
        """
        if format not in _FORMATS:
            raise ValueError(f"format={format}: choose one of {', '.join(_FORMATS)}")
        with self._drawing(num_images, seed, options) as (drawing, edit, indices, y):
            x = drawing.draw(edit, indices, y, progress_bar=False)
            if format in ("numpy", "pil") and x.ndim != 4:
                raise ValueError(f"format={format}: the samples are points, not images; use tensor or grid")
            levels, columns = self.module.num_levels, drawing.columns(y)
            return _FORMATS[format](drawing.in_grid(x, edit) if format == "grid" else x, levels, columns)

    def trajectory(self, num_images: int = 1, *, seed: int = 0, **options: Any) -> Iterator[Tensor]:
        """x_T, …, x_0 of samples 0 … num_images − 1: float32 (B, C, H, W) each, on the CPU."""
        with self._drawing(num_images, seed, options, trajectory=True) as (drawing, _, indices, y):
            drawing.check_trajectory("trajectory")
            states = [x.cpu() for x in drawing.trajectory(indices, y)]
        return iter(states)

    def score(self, data: DataModule | str | Path | None = None, **options: Any) -> Score:
        """The score that `diffusion-lab evaluate` makes with the same options, in the same folder.

        An existing score is not computed again.
        data: the data set that it was trained on, or its folder (the option data.root); None: where it was in training.
        """
        if isinstance(data, str | Path):
            options, data = {"data.root": str(data), **options}, None
        run = score_model(self._loaded, data, {"outputs": self._outputs, **options})
        content = run.read_metrics()
        return Score(content["values"], content["protocol"], run.path)

    def _drawing(self, num_images: int, seed: int, options: dict[str, Any], trajectory: bool = False) -> Any:
        x_T = options.pop("x_T", None)
        label = {"label": _listed(options.pop("label"))} if "label" in options else {}
        of_this_call = {"num_images": num_images, "seed": seed, "trajectory": trajectory, **label}
        return drawing_from(self._loaded, {"outputs": self._outputs, **options}, of_this_call, x_T)

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r})"


def _listed(label: Any) -> Any:
    """Arrays of numpy and torch as lists."""
    return label.tolist() if hasattr(label, "tolist") else label


def _tensor(x: Tensor, num_levels: int | None, columns: int | None) -> Tensor:
    return x


def _numpy(x: Tensor, num_levels: int | None, columns: int | None) -> np.ndarray:
    from diffusion_lab.pictures import pixels

    return pixels(x, num_levels)


def _pil(x: Tensor, num_levels: int | None, columns: int | None) -> list[Image.Image]:
    from diffusion_lab.pictures import images

    return images(x, num_levels)


def _grid(x: Tensor, num_levels: int | None, columns: int | None) -> Image.Image:
    from diffusion_lab.pictures import picture

    return picture(x, num_levels, columns)


_FORMATS = {"tensor": _tensor, "numpy": _numpy, "pil": _pil, "grid": _grid}
