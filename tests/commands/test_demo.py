"""The demo of a trained model: it draws what `diffusion-lab sample` draws, and works in a browser on a desk and on a phone."""

import base64
import http.client
import json
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from diffusion_lab.commands.demo import Playground
from diffusion_lab.demo.server import DemoServer
from diffusion_lab.runs import ModelDirectory

from ..report.conftest import browser  # noqa: F401


@pytest.fixture(scope="module")
def shown(trained_model):
    return Playground(ModelDirectory(trained_model("diffusion_conditional")))


def test_it_offers_what_the_model_can_do_and_draws_what_the_command_draws(shown, lab):
    assert shown.offers.guidances == ("none", "classifier_free")
    assert "ddpm" not in shown.offers.samplers  # it takes all steps
    assert shown.offers.samplers["ddim"] == ("even", 24)
    values = {
        **shown.start,
        "num_steps": 2,
        "num_images": 4,
        "guidance": "classifier_free",
        "scale": 1.5,
        "label": 3,
        "compare": "linear",
    }
    answer = shown.answer(values)
    assert "4 samples · 4 network evaluations each" in answer["summary"]
    curves = answer["curves"]
    assert curves["visited"]["x"][-1] == curves["own"]["x"][-1] == 1
    assert len(curves["visited"]["x"]) == 2
    assert curves["compared"]["signal"] != curves["own"]["signal"]
    _, command, *options = shlex.split(answer["command"])
    assert lab(command, *options)[0] == 0
    assert (lab.folder / "samples" / "samples.png").read_bytes() == base64.b64decode(answer["png"])


def test_what_cannot_be_drawn_is_one_sentence(shown, trained_model):
    with pytest.raises(ValueError, match="num_steps must be a whole number from 1 to 24"):
        shown.answer({**shown.start, "num_steps": 25})
    with pytest.raises(ValueError, match="generates no samples"):
        Playground(ModelDirectory(trained_model("noisy_classifier")))


def test_a_family_without_steps_has_fewer_controls(trained_model):
    gan = Playground(ModelDirectory(trained_model("gan")))
    assert (gan.offers.samplers, gan.offers.guidances, gan.offers.schedules) == ({}, (), ())
    answer = gan.answer({**gan.start, "num_images": 2})
    assert answer["curves"] is None
    assert "2 samples" in answer["summary"]


def test_without_a_model_or_a_free_port_it_says_so_in_one_sentence(lab, trained_model):
    code, _, err = lab("demo")
    assert (code, err.count("\n")) == (1, 1)
    assert "there is no trained model in outputs/models" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = lab("demo", f"model_dir={trained_model('diffusion_conditional')}", f"port={port}", "open=false")
    assert code == 1
    assert f"port={port} on 127.0.0.1: " in err


def test_an_unforeseen_error_is_a_sentence_and_a_line(capsys):
    def fail(request):
        raise KeyError("lost")

    with DemoServer(0, {}, fail) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request("POST", "/sample", "{}", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = json.loads(answer.read())["error"]
        connection.close()
        left = socket.create_connection(("127.0.0.1", server.server_port))  # a browser that leaves
        left.sendall(b"POST /sample HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % server.server_port)
        left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left.close()
        server.shutdown()
    assert answer.status == 500
    assert "KeyError" in said
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    "sent", ["", "{}", "[]", "[" * 4000, '{"seed": 1e999}', "\x00", '{"label": "\\ud800"}', "null"]
)
def test_a_malformed_request_is_a_sentence(shown, sent):
    with DemoServer(0, {}, shown.answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request("POST", "/sample", sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 400
        assert json.loads(answer.read())["error"]
        connection.close()
        server.shutdown()


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.thorough)])
def test_in_a_browser(shown, browser, width):  # noqa: F811
    offers = shown.offers.as_json() | {"start": {**shown.start, "num_steps": 2, "num_images": 4}}
    with DemoServer(0, offers, shown.answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        context = browser.new_context(viewport={"width": width, "height": 800})
        page = context.new_page()
        page.set_default_timeout(20_000)
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))

        def drawn(what):
            """The picture after an action."""
            with page.expect_response("**/sample") as reply:
                what()
            assert reply.value.ok, reply.value.text()
            page.wait_for_selector("body:not(.busy)")
            return page.get_attribute("#samples", "src")

        first = drawn(lambda: page.goto(server.address))
        assert page.inner_text("#status").startswith("4 samples · 2 network evaluations each")
        assert page.locator("#curves circle.signal").count() == 2
        assert page.is_hidden("label.scale")
        assert drawn(lambda: page.click("#again")) != first
        assert drawn(lambda: page.fill("[name=seed]", "0")) == first
        drawn(lambda: page.select_option("[name=guidance]", "classifier_free"))
        assert page.is_visible("label.scale")
        assert "guidance=classifier_free guidance.scale=2.0" in page.inner_text("#command")
        drawn(lambda: page.select_option("[name=compare]", "linear"))
        assert page.locator("#curves path.compared").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#samples").bounding_box()["width"] > 300
        context.close()
        server.shutdown()
    assert said == []


@pytest.mark.thorough
def test_it_takes_a_free_port_prints_its_address_and_ends_on_ctrl_c(tmp_path, trained_model):
    command = [Path(sys.executable).parent / "diffusion-lab", "demo", f"model_dir={trained_model('gan')}", "open=false"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as started:
        try:
            line = started.stdout.readline()
            port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(f"GET /offers HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                reply = b"".join(iter(lambda: connection.recv(4096), b""))
            assert json.loads(reply.partition(b"\r\n\r\n")[2])["model"] == "gan"
            started.send_signal(signal.SIGINT)
            out, err = started.communicate(timeout=60)
        finally:
            started.kill()  # one that did not end would be waited for
    assert (started.returncode, out, err) == (0, "stopped\n", "")
