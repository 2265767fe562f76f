"""Real processes of the command without the seconds that its start takes: one process has imported all, trained once, and forks.

    python -m tests.commands.zygote      a line of JSON in, a line of JSON out

Each fork is a process of its own: it has its session, files and signals, and kill -9 ends it like any other.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


class Fork:
    """A process in `folder`; used like subprocess.Popen. request: what it runs, see `Zygote`."""

    def __init__(self, zygote: Zygote, folder: Path, environment: dict[str, str], **request: list[str]) -> None:
        self._zygote, self._folder = zygote, folder
        self.returncode: int | None = None
        self.pid = zygote.ask(folder=str(folder), environment=environment, **request)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._zygote.ask(poll=self.pid)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """(stdout, stderr) when it has ended."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"no end after {timeout} s: {(self._folder / 'err').read_text()}")
            time.sleep(0.01)
        return (self._folder / "out.log").read_text(), (self._folder / "err.log").read_text()


class Zygote:
    """The process that forks. root: the clone whose code it runs; environment: what it and its forks find more in theirs."""

    def __init__(self, root: Path = ROOT, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=root,
            # A service of W&B in the process that asks would be shared; a command that a test called forbids to import from here.
            env={key: value for key, value in os.environ.items() if key not in ("WANDB_SERVICE", "PYTHONSAFEPATH")}
            | {"OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: object) -> int | None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, folder: Path, *arguments: str, **environment: str) -> Fork:
        """A process of `diffusion-lab <arguments>`."""
        return Fork(self, folder, environment, command=list(arguments))

    def call(self, folder: Path, function: Callable[..., None], *arguments: str) -> Fork:
        """A process that calls a function of a module."""
        return Fork(self, folder, {}, call=[function.__module__, function.__name__, *arguments])

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    gc.disable()  # importing makes no garbage, and searching for it takes a tenth of the time
    from diffusion_lab.commands import app, evaluate, sample, train  # noqa: F401 - what a fork would import
    from diffusion_lab.commands.fit import fit  # noqa: F401
    from diffusion_lab.commands.main import main
    from diffusion_lab.metrics.score import score  # noqa: F401

    from .composing import less_composing

    os.fsync = lambda file: None  # no test of a process turns the machine off
    with less_composing():
        _train_once(app)
        gc.freeze()  # the forks share this heap, and search none of it for garbage
        gc.enable()
        _serve(main)


def _serve(main: Callable[[], None]) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _run(main, request)
        print(json.dumps(answer), flush=True)


def _train_once(app: object) -> None:
    """Fills the caches of Hydra's parser and imports what is imported late, once for all forks."""
    from .conftest import STRIDED, TINY

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        assert app.run("train", [*TINY, *STRIDED, "score=false"]) == 0


def _run(main: Callable[[], None], request: dict) -> None:
    """In the fork: become the command or the function, and never come back."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.path[:0] = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    for stream, name in ((sys.stdin, "/dev/null"), (sys.stdout, "out.log"), (sys.stderr, "err.log")):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
    code = 1
    try:
        if "call" in request:
            module, name, *arguments = request["call"]
            getattr(import_module(module), name)(*arguments)
            code = 0
        else:
            sys.argv = ["diffusion-lab", *request["command"]]
            main()
            code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
