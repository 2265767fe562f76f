"""The demo of a trained model: it draws what `diffusion-lab sample` draws, on a page of gradio's that stays on this machine."""

import gc
import json
import shlex
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from diffusion_lab.commands import demo
from diffusion_lab.commands.library import load

needs_gradio = pytest.mark.needs("gradio")
pytestmark = [
    pytest.mark.thorough,
    # gradio 6.31 closes no event loop, and is written for pandas 2
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def page_of():
    """`demo.page_of`, with what gradio leaves open collected here."""
    if find_spec("gradio") is None:
        pytest.skip("there is no gradio; pip install 'diffusion-lab[demo]'")
    yield demo.page_of
    gc.collect()


def drawing_of(page):
    """(its function, label -> value of its controls)."""
    function = next(each for each in page.fns.values() if len(each.outputs) == 5)
    return function.fn, {control.label: control.value for control in function.inputs}


@needs_gradio
def test_it_draws_what_the_command_draws(page_of, trained_model, lab):
    from gradio import Error

    draw, controls = drawing_of(page_of(load(trained_model("diffusion_conditional"))))
    assert list(controls) == ["class", "sampler", "steps", "guidance", "guidance scale", "images", "seed"]
    assert len(draw(*(controls | {"steps": 3, "images": 1}).values())[1]) == 4, "as in training: x_T and three steps"
    controls |= {"class": 3, "sampler": "ddim", "steps": 2, "images": 4, "guidance": "classifier_free"}
    picture, states, _, said, command = draw(*(controls | {"guidance scale": 1.5}).values())
    assert said.startswith("4 samples · 4 network evaluations each")
    assert (len(states), states[-1]) == (3, picture)
    _, name, *options = shlex.split(command)
    assert {"condition=3", "guidance.scale=1.5", "sampler.spacing.num_steps=2"} <= set(options)
    assert lab(name, *options)[0] == 0
    with Image.open(lab.folder / "samples" / "samples.png") as drawn:
        assert drawn.tobytes() == picture.tobytes()
    with pytest.raises(Error, match="num_steps"):
        draw(*(controls | {"steps": 25}).values())


@needs_gradio
def test_a_family_without_steps_has_fewer_controls(page_of, trained_model):
    draw, controls = drawing_of(page_of(load(trained_model("gan"))))
    assert list(controls) == ["images", "seed"]
    _, states, way, said, _ = draw(2, 0)
    assert (len(states), way.visible, said.partition(" · ")[0]) == (1, False, "2 samples")


@needs_gradio
def test_mistakes_are_one_sentence(lab, page_of, trained_model):
    lab.refused("demo", said="there is no trained model in outputs/models")
    lab.refused("demo", f"model_dir={trained_model('noisy_classifier')}", said="generates no samples")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = [f"model_dir={trained_model('gan')}", "open=false", f"port={port}"]
        lab.refused("demo", *options, said=f"port={port} on 127.0.0.1 is taken; choose another port")


@needs_gradio
@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page_of, trained_model, browser, width):
    page = page_of(load(trained_model("diffusion_conditional")))
    address = demo.launched(page, 0)
    context = browser.new_context(viewport={"width": width, "height": 800})
    shown = context.new_page()
    shown.set_default_timeout(20_000)
    said, asked = [], []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    try:
        shown.goto(address)
        picture = shown.locator("#picture img")
        last = picture.get_attribute("src")
        shown.get_by_label("range slider for from noise to image").press("Home")
        shown.wait_for_function("last => document.querySelector('#picture img').getAttribute('src') != last", arg=last)
        shown.get_by_label("guidance", exact=True).click()
        shown.get_by_role("option", name="classifier_free").click()
        shown.get_by_text("guidance scale").wait_for()
        shown.get_by_role("button", name="Draw", exact=True).click()
        shown.wait_for_function(
            "[...document.querySelectorAll('textarea')].some(t => t.value.includes('guidance.scale=2'))"
        )
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert picture.bounding_box()["width"] > 300
    finally:
        context.close()
        page.close(verbose=False)
    assert said == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@needs_gradio
def test_it_takes_a_free_port_and_ends_on_ctrl_c(page_of, tmp_path, trained_model):
    """Also while it draws."""
    model = trained_model("diffusion_conditional")
    command = [Path(sys.executable).parent / "diffusion-lab", "demo", f"model_dir={model}", "open=false"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            address = started.stdout.readline().split()[3]
            with urlopen(address, timeout=20) as reply:
                assert b"diffusion-lab demo" in reply.read()
            values = json.dumps({"data": ["", "ddim", 24, "classifier_free", 2, 64, 0]}).encode()
            request = Request(f"{address}gradio_api/call/answer", values, {"Content-Type": "application/json"})
            with urlopen(request, timeout=20) as reply:
                assert b"event_id" in reply.read()
            started.send_signal(signal.SIGINT)
            out, err = started.communicate(timeout=60)
        finally:
            started.kill()  # one that did not end would be waited for
    assert address.startswith("http://127.0.0.1:")
    assert (started.returncode, out, err) == (0, "stopped\n", "")
    assert list(tmp_path.iterdir()) == []
