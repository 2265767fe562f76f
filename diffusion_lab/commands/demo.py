"""diffusion-lab demo: a local page to play with a trained model.

Sampler, steps, guidance and seed are controls; samples and the noise schedule are shown. It runs in this process, on one device.
"""

from __future__ import annotations

import base64
import shlex
import time
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.callbacks.interruption import Interrupted
from diffusion_lab.commands.library import Model
from diffusion_lab.conf_dir import CONF
from diffusion_lab.demo.server import HOST, DemoServer
from diffusion_lab.demo.values import Offers, Values, checked
from diffusion_lab.from_config.mistakes import MistakeError, users_mistakes
from diffusion_lab.from_config.trained import load_config
from diffusion_lab.runs import ModelDirectory, newest_model
from diffusion_lab.terminal import Terminal

_CURVE_POINTS = 120


def completed(options: list[str]) -> list[str]:
    """`demo` takes its options as they are."""
    return options


def run(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    directory = newest_model(Path(cfg.outputs)) if cfg.model_dir is None else ModelDirectory(Path(cfg.model_dir))
    with users_mistakes():
        playground = Playground(directory)
    try:
        server = DemoServer(cfg.port, playground.offers.as_json() | {"start": playground.start}, playground.answer)
    except OSError as error:
        raise MistakeError(
            f"port={cfg.port} on {HOST}: {error.strerror}; choose another port, or port=0 for a free one"
        ) from None
    console = Terminal()
    console.print(f"demo of {directory.path}: {server.address}  (Ctrl-C stops it)")
    if cfg.open:
        webbrowser.open(server.address)
    with server:
        try:
            server.serve_forever(poll_interval=0.1)
        except (KeyboardInterrupt, Interrupted):
            console.print("stopped")


class Playground:
    """A trained model with the controls that apply to it. ValueError, in one sentence, for what cannot be drawn from."""

    def __init__(self, directory: ModelDirectory) -> None:
        self._model, self._saved = Model(directory.path), load_config(directory)
        model = self._model.module
        choices = directory.read_choices()
        samplers = self._samplers() if "sampler" in self._saved else {}
        conditional = model.num_classes or 0
        self.offers = Offers(
            model=directory.path.name,
            samplers=samplers,
            spacings=self._with_steps(CONF / "sampler" / "spacing") if samplers else (),
            max_steps=self._saved.schedule.num_timesteps if samplers else 0,
            guidances=self._guidances() if samplers else (),
            weighs=tuple(
                name for name in _names(CONF / "guidance") if "scale" in _read_yaml(CONF / "guidance" / f"{name}.yaml")
            ),
            num_classes=conditional,
            class_names=tuple(directory.read_training().get("class_names", ())) if conditional else (),
            schedules=_names(CONF / "schedule") if samplers else (),
        )
        sampler = choices.get("sampler") if choices.get("sampler") in samplers else next(iter(samplers), None)
        spacing, steps = samplers[sampler] if sampler else (None, None)
        self.start = asdict(
            Values(
                sampler,
                spacing,
                steps,
                "none" if samplers else None,
                scale=2.0,
                label=None,
                seed=0,
                num_images=36,
                compare=None,
            )
        )

    def answer(self, request: Any) -> dict[str, Any]:
        """The samples of one setting, as a PNG, with the curves of its chain. ValueError, in one sentence."""
        from diffusion_lab.pictures import picture, png

        values = checked(request, self.offers)
        began = time.perf_counter()
        with self._model.drawing(values.options()) as (drawing, edit, indices, y):
            x = drawing.draw(edit, indices, y, progress_bar=False)
            image = png(picture(x, drawing.model.num_levels, drawing.columns(y)))
            return {
                "png": base64.b64encode(image).decode(),
                "summary": f"{len(x)} samples · {drawing.model.nfe} network evaluations each · {time.perf_counter() - began:.1f} s",
                "command": self._command(values),
                "curves": self._curves(drawing.model, values) if self.offers.samplers else None,
            }

    def _command(self, values: Values) -> str:
        """The command that draws the same images."""
        options = {"model_dir": self._model.path, **values.options()}
        return shlex.join(["diffusion-lab", "sample", *(f"{name}={value}" for name, value in options.items())])

    def _curves(self, model: Any, values: Values) -> dict[str, Any]:
        """Signal and noise against t/T, where the sampler stops, and the same of another schedule."""
        import torch

        from diffusion_lab.diffusion import GaussianDiffusion

        def line(process: Any) -> dict[str, list[float]]:
            t = torch.linspace(1, process.num_timesteps, min(_CURVE_POINTS, process.num_timesteps)).round().long()
            return _points(process, t)

        process = model.process
        kept = model.sampler.spacing(process)
        curves = {"own": line(process), "visited": _points(process, kept), "compared": None}
        if values.compare is not None:
            with users_mistakes():
                curves["compared"] = line(GaussianDiffusion(self._schedule(values.compare)))
        return curves

    def _schedule(self, name: str) -> Any:
        """A schedule of conf/ for the data and the T of this model."""
        node = OmegaConf.load(CONF / "schedule" / f"{name}.yaml")
        node.num_timesteps = self._saved.schedule.num_timesteps
        return instantiate(OmegaConf.merge(self._saved, {"schedule": None}, {"schedule": node}).schedule)

    def _samplers(self) -> dict[str, tuple[str, int]]:
        """Those that take a number of steps, with the spacing and the number that each brings."""
        spacing_of = {
            _read_yaml(CONF / "sampler" / "spacing" / f"{name}.yaml")["_target_"]: name
            for name in _names(CONF / "sampler" / "spacing")
        }
        found = {}
        for name in _names(CONF / "sampler"):
            spacing = self._model.config("sample", [f"sampler={name}"]).sampler.spacing
            if "num_steps" in spacing:
                found[name] = (spacing_of[spacing._target_], min(spacing.num_steps, self._saved.schedule.num_timesteps))
        return found

    def _with_steps(self, folder: Path) -> tuple[str, ...]:
        return tuple(name for name in _names(folder) if "num_steps" in _read_yaml(folder / f"{name}.yaml"))

    def _guidances(self) -> tuple[str, ...]:
        """Those that this model can be guided with."""
        found = []
        for name in _names(CONF / "guidance"):
            if "???" in _read_yaml(CONF / "guidance" / f"{name}.yaml").values():
                continue  # needs a folder
            try:
                with self._model.drawing({"guidance": name, "num_images": 1}):
                    found.append(name)
            except ValueError:
                pass
        return tuple(sorted(found, key=lambda name: name != "none"))


def _points(process: Any, t: Any) -> dict[str, list[float]]:
    """x: t/T; y: α_t and σ_t in units of the noise at T, and log SNR."""
    unit = process.prior_std
    return {
        "x": (t / process.num_timesteps).tolist(),
        "signal": (process.signal(t) / unit).tolist(),
        "noise": (process.noise(t) / unit).tolist(),
        "log_snr": process.log_snr(t).tolist(),
    }


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in folder.glob("*.yaml")))


def _read_yaml(file: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(file))
