"""The server: who may ask, and what comes back. No model."""

import http.client
import json
import threading

import pytest

from diffusion_lab.demo.server import DemoServer


@pytest.fixture
def server():
    def answer(request):
        if request == {"bad": True}:
            raise ValueError("bad must not be true")
        return {"got": request}

    with DemoServer(0, {"model": "m"}, answer) as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def ask(server, method, path, body=None, **headers):
    """(status, headers, content)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Content-Type": "application/json", **names} if body else names)
    reply = connection.getresponse()
    try:
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def test_the_page_and_what_it_offers(server):
    for path, kind in (("/", "text/html"), ("/demo.css", "text/css"), ("/demo.js", "text/javascript")):
        status, headers, content = ask(server, "GET", path)
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
        assert content
        assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert json.loads(ask(server, "GET", "/offers")[2]) == {"model": "m"}
    for path in ("/demo.py", "/../server.py", "/page/demo.css", "/sample"):
        assert ask(server, "GET", path)[0] == 404


def test_json_is_answered_and_a_mistake_is_its_sentence(server):
    status, _, content = ask(server, "POST", "/sample", b'{"a": 1}')
    assert (status, json.loads(content)) == (200, {"got": {"a": 1}})
    status, _, content = ask(server, "POST", "/sample", b'{"bad": true}')
    assert (status, json.loads(content)) == (400, {"error": "bad must not be true"})
    assert ask(server, "POST", "/sample", b"{")[0] == 400
    assert ask(server, "POST", "/sample", b"[" * 4000)[0] == 400


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}], ids=str
)
def test_other_sites_are_refused(server, headers):
    assert ask(server, "GET", "/", **headers)[0] == 403
    assert ask(server, "POST", "/sample", b"{}", **headers)[0] == 403


def test_forms_and_large_requests_are_refused(server):
    assert ask(server, "POST", "/sample", b"{}", Content_Type="text/plain")[0] == 404
    assert ask(server, "POST", "/sample", b" " * 5000)[0] == 413
    assert ask(server, "POST", "/", b"{}")[0] == 404


def test_it_listens_on_this_machine_only_and_localhost_is_its_name(server):
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "GET", "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_a_request_that_a_newer_one_replaces_is_not_answered():
    drawing, drawn = threading.Event(), threading.Event()
    answered = []

    def answer(request):
        drawing.set()
        drawn.wait(10)
        return {"request": request}

    with DemoServer(0, {}, answer) as server:
        threads = []
        for request in range(3):
            threads.append(threading.Thread(target=lambda request=request: answered.append(server.answer(request))))
            threads[-1].start()
            assert drawing.wait(10)
            while server._newest != request + 1:
                pass
        drawn.set()
        for thread in threads:
            thread.join()
    assert answered.count(None) == 1
    assert {"request": 0} in answered
    assert {"request": 2} in answered
