"""diffusion-lab demo: a local page that draws samples from a trained model and shows their way from noise to image.

Controls set class, sampler, steps, guidance and seed. The page uses gradio (the extra demo) without its telemetry and public
links. It serves only browsers on this machine, refuses requests from pages of other sites, and accepts no files. The model
runs in this process, on one device.
"""

from __future__ import annotations

import os
import random
import shlex
import threading
import time
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from math import ceil
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.interruption import Interrupted
from diffusion_lab.versions import is_installed

if TYPE_CHECKING:
    from gradio import Blocks
    from gradio.components import Component
    from PIL.Image import Image
    from starlette.types import ASGIApp, Receive, Scope, Send

    from diffusion_lab.commands.library import Model

HOST = "127.0.0.1"
MOST_IMAGES, MOST_SCALE, MOST_SEED = 64, 10.0, 2**31 - 1
STATES = 25  # about this many pictures show a chain of any length
_DRAWING, _STOPPED = threading.Lock(), threading.Event()  # one drawing at a time, and none after Ctrl-C
_FONTS = ("system-ui", "sans-serif")  # installed fonts, so that the page downloads none
_CSS = """
#picture .image-frame {width: 100%}
#picture img {width: 100%; height: auto; max-height: 75vh; object-fit: contain; image-rendering: pixelated}
"""


def run(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    from diffusion_lab.commands.library import load

    if not 0 <= cfg.port <= 65535:
        raise MistakeError(f"port={cfg.port}: choose a port from 0 to 65535")
    if not is_installed("gradio"):
        raise MistakeError("install gradio first: pip install 'diffusion-lab[demo]'")

    with users_mistakes():
        model = load(cfg.model_dir, cfg.outputs)
    console = Terminal()
    with TemporaryDirectory(prefix="diffusion-lab-demo-") as pictures:
        # The folder of gradio's temporary files; and no proxy for its first request, which goes to itself.
        os.environ |= {"GRADIO_TEMP_DIR": pictures, "no_proxy": f"{HOST},{getproxies().get('no', '')}"}
        page = page_of(model)
        address = launched(page, cfg.port)
        console.print(f"demo of {model.path}: {address}  (Ctrl-C stops it)")
        if cfg.open:
            webbrowser.open(address)
        try:
            threading.Event().wait()
        except (KeyboardInterrupt, Interrupted):
            console.print("stopped")
        finally:
            _STOPPED.set()
            with _DRAWING:  # torch aborts if the process ends while a thread computes
                page.close(verbose=False)


def launched(page: Blocks, port: int) -> str:
    """Serve the page and return its address; `close` stops it. MistakeError if the port is taken; 0 is a free one."""
    import gradio
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # another name may be rebound to HOST
    theme = gradio.themes.Default(font=_FONTS, font_mono=("monospace",))
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port or None,
            share=False,
            theme=theme,
            css=_CSS,
            footer_links=[],
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=0,  # gradio has an address for uploads, which this page does not use
            app_kwargs={"middleware": [hosts, Middleware(_same_origin)]},
        )
    except OSError as error:
        raise MistakeError(f"port={port} on {HOST} is taken; choose another port, or port=0 for a free one") from error
    return address


def _same_origin(app: ASGIApp) -> ASGIApp:
    """Middleware that refuses requests from pages of other sites, which gradio would carry out without showing the reply."""
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(raw=scope.get("headers", []))
        own = headers.get("origin") in (None, f"http://{headers.get('host')}")
        await (app if own else PlainTextResponse("open the demo at its own address", 403))(scope, receive, send)

    return answered


def page_of(model: Model) -> Blocks:
    """The page: the controls that apply to this model, and the images that they draw."""
    import gradio

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
        states = gradio.State([])

        def answer(*values: Any) -> tuple[Any, ...]:
            given = dict(zip(controls, values, strict=True))
            try:
                found, said = drawn(model, given)
            except ValueError as error:
                raise gradio.Error(str(error), duration=None, print_exception=False) from None
            last = len(found) - 1
            slider = gradio.Slider(maximum=max(last, 1), value=last, visible=last > 0)
            return found[-1], found, slider, said, command_of(model, given)

        inputs, outputs = list(controls.values()), [image, states, way, summary, command]
        gradio.on([page.load, draw.click], answer, inputs, outputs)
        another.click(lambda: random.randint(0, MOST_SEED), None, controls["seed"]).then(answer, inputs, outputs)
        way.input(lambda found, number: found[number], [states, way], image, show_progress="hidden")
    return page


def _controls(model: Model) -> dict[str, Component]:
    """Controls by the option of `diffusion-lab sample` that each sets, in their order on the page."""
    import gradio

    controls: dict[str, Component] = {}
    with model.drawing({"num_images": 1}) as ready:
        classes, saved = ready.options.conditions.classes, ready.options.saved
    if classes is not None:
        found = classes.shares is not None
        every = ("as often as in the data" if found else "all in turn", "")
        choices = [every, *((name, str(number)) for number, name in enumerate(classes.names))]
        controls["condition"] = gradio.Dropdown(choices, value="", label="cluster" if found else "class")
    if "sampler" in saved:
        steps_of = _samplers(model, saved.schedule.num_timesteps)
        first = next(iter(steps_of))
        samplers = [(name or "as in training", name) for name in steps_of]
        controls["sampler"] = sampler = gradio.Dropdown(samplers, value=first, label="sampler")
        most = saved.schedule.num_timesteps
        controls["sampler.spacing.num_steps"] = steps = gradio.Slider(1, most, steps_of[first], step=1, label="steps")
        sampler.change(steps_of.get, sampler, steps)
        if len(guidances := _guidances(model)) > 1:
            controls["guidance"] = guidance = gradio.Dropdown(guidances, value="none", label="guidance")
            scale = gradio.Slider(0, MOST_SCALE, 2.0, step=0.1, label="guidance scale", visible=False)
            controls["guidance.scale"] = scale
            guidance.change(lambda name: gradio.Slider(visible=name != "none"), guidance, scale)
    controls["num_images"] = gradio.Slider(1, MOST_IMAGES, 20, step=1, label="images")
    controls["seed"] = gradio.Number(0, precision=0, minimum=0, maximum=MOST_SEED, label="seed")
    return controls


def drawn(model: Model, given: Mapping[str, Any]) -> tuple[list[Image], str]:
    """Pictures of the states from noise to samples, and a line on their cost.

    given: the values of the controls. ValueError, in one sentence, for what cannot be drawn.
    """
    from diffusion_lab.data.pictures import frames, picture

    began, states = time.perf_counter(), []
    x: Any  # a sample; families without intermediate states draw it directly
    with _DRAWING, model.drawing(_options(given)) as ready:
        columns, levels = ready.columns, ready.generator.num_levels
        if "sampler" in given:
            every = ceil(given["sampler.spacing.num_steps"] / STATES)
            for number, (x_t, x) in enumerate(pairwise(ready.trajectory())):  # noqa: B007 (the last x is used)
                if _STOPPED.is_set():
                    raise ValueError("the demo was stopped")
                if number % every == 0:
                    states.append(x_t.cpu())
        else:
            x = ready.images(progress_bar=False)
        seconds = time.perf_counter() - began
        shown = [*frames(states, levels, columns), picture(x.cpu(), levels, columns)]
        return shown, f"{len(ready.indices)} samples · {ready.generator.nfe} network evaluations each · {seconds:.1f} s"


def command_of(model: Model, given: Mapping[str, Any]) -> str:
    """The command that draws the shown images."""
    options = {"model_dir": model.path, **_options(given)}
    return shlex.join(["diffusion-lab", "sample", *(f"{name}={value}" for name, value in options.items())])


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `sample` for the values of the controls, except those that are unset or have no effect."""
    found = {name: value for name, value in given.items() if value not in ("", None)}
    if found.get("guidance", "none") == "none":
        found.pop("guidance.scale", None)
    if "condition" in found:
        found["condition"] = int(found["condition"])
    return found


def _samplers(model: Model, num_timesteps: int) -> dict[str, int]:
    """Samplers with a number of steps -> its default; "" is the sampler of training."""
    found = {}
    for name in ("", *sorted(file.stem for file in (CONF / "sampler").glob("*.yaml"))):
        spacing = model.config("sample", [f"sampler={name}"] if name else []).sampler.spacing
        if "num_steps" in spacing:
            found[name] = min(spacing.num_steps, num_timesteps)
    return found


def _guidances(model: Model) -> list[str]:
    """No guidance, and the guidances with a scale that fit this model."""
    found = ["none"]
    for file in sorted((CONF / "guidance").glob("*.yaml")):
        options: Any = OmegaConf.to_container(OmegaConf.load(file))
        if "scale" in options and "???" not in options.values():  # needs nothing else, such as a folder
            with suppress(ValueError), model.drawing({"guidance": file.stem, "num_images": 1}):
                found.append(file.stem)
    return found
