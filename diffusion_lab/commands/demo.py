"""diffusion-lab demo: a local page that draws samples from a trained model and shows their way from noise to image.

Controls set class, sampler, steps, guidance and seed. The page uses gradio (the extra demo) without its telemetry and public
links, and serves only browsers on this machine. The model runs in this process, on one device, one drawing at a time.
"""

from __future__ import annotations

import os
import random
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from math import ceil
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

from omegaconf import DictConfig
from PIL.Image import Image

from diffusion_lab.commands.library import Model, load
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.report.drawing import frames, picture
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.interruption import Interrupted
from diffusion_lab.versions import is_installed

if TYPE_CHECKING:
    from gradio import Blocks
    from gradio.components import Component

_HOST, _MOST_SEED = "127.0.0.1", 2**31 - 1
_STATES = 25  # about this many pictures show a chain of any length
_CSS = """
#picture .image-frame {width: 100%}
#picture img {width: 100%; height: auto; max-height: 75vh; object-fit: contain; image-rendering: pixelated}
"""


def run(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    if not 0 <= cfg.port <= 65535:
        raise MistakeError(f"port={cfg.port}: choose a port from 0 to 65535")
    if not is_installed("gradio"):
        raise MistakeError("install gradio first: pip install 'diffusion-lab[demo]'")
    with users_mistakes():
        model = load(cfg.model_dir, cfg.outputs)
    with TemporaryDirectory(prefix="diffusion-lab-demo-") as pictures:
        # The folder of gradio's temporary files; and no proxy for its first request, which goes to itself.
        os.environ |= {"GRADIO_TEMP_DIR": pictures, "no_proxy": f"{_HOST},{getproxies().get('no', '')}"}
        address = launched(page_of(model), cfg.port, cfg.open)
        Terminal().print(f"demo of {model.path}: {address}  (Ctrl-C stops it)")
        with suppress(KeyboardInterrupt, Interrupted):
            threading.Event().wait()
    print("stopped")
    sys.stdout.flush()
    os._exit(0)  # torch aborts if the interpreter ends while a thread draws


def launched(page: Blocks, port: int, in_browser: bool = False) -> str:
    """Serve the page and return its address; `close` stops it. MistakeError if the port is taken; 0 is a free one."""
    import gradio

    # Installed fonts, so that the page downloads none.
    theme = gradio.themes.Default(font=("system-ui", "sans-serif"), font_mono=("monospace",))
    shown: dict[str, Any] = {"theme": theme, "css": _CSS, "footer_links": [], "quiet": True, "inbrowser": in_browser}
    shown |= {"share": False, "ssr_mode": False, "prevent_thread_lock": True}
    try:
        return page.launch(server_name=_HOST, server_port=port or None, **shown)[1]
    except OSError as error:
        raise MistakeError(f"port={port} on {_HOST} is taken; choose another port, or port=0 for a free one") from error


def page_of(model: Model) -> Blocks:
    """The page: the controls that apply to this model, and the images that they draw."""
    import gradio

    def answer(*values: Any) -> tuple[Any, ...]:
        options = {name: value for name, value in zip(controls, values, strict=True) if value not in ("", None)}
        if options.get("guidance", "none") == "none":
            options.pop("guidance.scale", None)
        try:
            found, said = drawn(model, options)
        except ValueError as error:
            raise gradio.Error(str(error), duration=None, print_exception=False) from None
        last = len(found) - 1
        slider = gradio.Slider(maximum=max(last, 1), value=last, visible=last > 0)
        typed = [f"{name}={value}" for name, value in ({"model_dir": model.path} | options).items()]
        return found[-1], found, slider, said, shlex.join(["diffusion-lab", "sample", *typed])

    with gradio.Blocks(title="diffusion-lab demo", analytics_enabled=False) as page:
        gradio.Markdown(f"### {model.path.name}")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                controls = _controls(model)
                draw = gradio.Button("Draw", variant="primary")
                another = gradio.Button("Draw with another seed")
            with gradio.Column(scale=2, min_width=320):
                image = gradio.Image(format="png", interactive=False, show_label=False, buttons=[], elem_id="picture")
                way = gradio.Slider(0, 1, 1, step=1, label="from noise to image", buttons=[])
                summary = gradio.Markdown()
                command = gradio.Textbox(label="the command that draws the same images", lines=2, buttons=["copy"])
        inputs, states = list(controls.values()), gradio.State([])
        outputs = [image, states, way, summary, command]
        drawing: Any = {"fn": answer, "inputs": inputs, "outputs": outputs, "concurrency_id": "draw"}  # one at a time
        gradio.on([page.load, draw.click], **drawing)
        another.click(lambda: random.randint(0, _MOST_SEED), None, controls["seed"]).then(**drawing)
        way.input(lambda found, number: found[number], [states, way], image, show_progress="hidden")
    return page


def _controls(model: Model) -> dict[str, Component]:
    """Controls by the option of `diffusion-lab sample` that each sets, in their order on the page."""
    import gradio

    with model.drawing({"num_images": 1}) as ready:
        classes, saved = ready.conditions.classes, ready.saved
    controls: dict[str, Component] = {}
    if classes is not None:
        every, label = ("all in turn", "class") if classes.shares is None else ("as often as in the data", "cluster")
        choices: list[Any] = [(every, ""), *((name, number) for number, name in enumerate(classes.names))]
        controls["condition"] = gradio.Dropdown(choices, value="", label=label)
    if "sampler" in saved:
        most = saved.schedule.num_timesteps
        steps_of = _samplers(model)
        first = next(iter(steps_of))
        named: list[Any] = [(name or "as in training", name) for name in steps_of]
        sampler = gradio.Dropdown(named, value=first, label="sampler")
        steps = gradio.Slider(1, most, min(most, steps_of[first]), step=1, label="steps")
        sampler.change(lambda name: min(most, steps_of[name]), sampler, steps)
        controls |= {"sampler": sampler, "sampler.spacing.num_steps": steps}
        if guidances := _guidances(model):
            guidance = gradio.Dropdown(["none", *guidances], value="none", label="guidance")
            scale = gradio.Slider(0, 10, 2.0, step=0.1, label="guidance scale", visible=False)
            guidance.change(lambda name: gradio.Slider(visible=name != "none"), guidance, scale)
            controls |= {"guidance": guidance, "guidance.scale": scale}
    controls["num_images"] = gradio.Slider(1, 64, 20, step=1, label="images")
    controls["seed"] = gradio.Number(0, precision=0, minimum=0, maximum=_MOST_SEED, label="seed")
    return controls


def _samplers(model: Model) -> dict[str, int]:
    """Samplers with a number of steps -> its default; "" is the sampler of training."""
    names = ["", *sorted(file.stem for file in (CONF / "sampler").glob("*.yaml"))]
    spacings = {name: model.config("sample", [f"sampler={name}"] if name else []).sampler.spacing for name in names}
    return {name: spacing.num_steps for name, spacing in spacings.items() if "num_steps" in spacing}


def _guidances(model: Model) -> list[str]:
    """The guidances with a scale that this model can use without other options."""
    found = []
    for name in sorted(file.stem for file in (CONF / "guidance").glob("*.yaml")):
        with suppress(ValueError), model.drawing({"guidance": name, "guidance.scale": 2.0, "num_images": 1}):
            found.append(name)
    return found


def drawn(model: Model, options: Mapping[str, Any]) -> tuple[list[Image], str]:
    """Pictures of the states from noise to samples, and a line on their cost. ValueError, in one sentence, for a mistake."""
    began, states = time.perf_counter(), []
    with model.drawing(options) as ready:
        x: Any = None  # the samples; families without intermediate states draw them directly
        if num_steps := options.get("sampler.spacing.num_steps"):
            every = ceil(num_steps / _STATES)
            for number, (x_t, x) in enumerate(pairwise(ready.trajectory())):  # noqa: B007 (the last x is used)
                states += [x_t.cpu()] if number % every == 0 else []
        else:
            x = ready.images(progress_bar=False)
        seconds = time.perf_counter() - began
        columns, levels = ready.columns, ready.generator.num_levels
        shown = [*frames(states, levels, columns), picture(x.cpu(), levels, columns)]
        return shown, f"{len(ready.indices)} samples · {ready.generator.nfe} network evaluations each · {seconds:.1f} s"
