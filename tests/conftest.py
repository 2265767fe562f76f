"""What tests of several folders need, and how the tests run: a thread a process, a process a core."""

import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import checked
from tests.commands.zygote import Zygote

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch; processes that tests start inherit it
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job; Ctrl-C has to reach what tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)
gc.disable()  # torch and Hydra are a large heap: to search it as often as usual is a sixth of the time; see below

# The kind of a test, by its place: the first that fits.
KINDS = {
    "contracts": ("tests/commands/test_conf.py", "tests/commands/test_pairs.py"),
    "theory": (
        *("tests/diffusion/", "tests/sampling/", "tests/analysis/"),
        *(
            f"tests/families/test_{name}.py"
            for name in ("adversarial", "couplings", "dequantization", "elbo", "likelihoods", "priors")
        ),
    ),
    "parity": ("tests/interop/", "tests/metrics/test_inception.py", "tests/metrics/test_vision_transformers.py"),
    "promises": (
        "tests/commands/",
        "tests/benchmarks/",
        *(f"tests/test_{name}.py" for name in ("contributing", "golden", "notebooks", "readme", "site", "wheel")),
    ),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No workers where only files are named: starting them would take longer than they save. Else xdist's count of cores."""
    named = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    return 0 if all(path.is_file() for path in named) else None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the kinds. Promises, where single tests take longest, run first: at the end only short tests are left.

    First of all run those that wait for Slurm, beside others that compute, then those that need the zygote: the first worker
    takes them, and the others need not start one.
    """
    for item in items:
        item.add_marker(next((kind for kind, places in KINDS.items() if item.nodeid.startswith(places)), "contracts"))
    items.sort(
        key=lambda item: (
            "cluster" not in item.fixturenames,
            "zygote" not in item.fixturenames,
            item.get_closest_marker("promises") is None,
        )
    )


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup() -> None:
    checked.begin_test()


def pytest_collection_finish() -> None:
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    """Garbage, about 1 GB in 10 million objects, is collected now and then, and what is left is not searched again."""
    if gc.get_count()[0] > 20_000_000:
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    gc.freeze()  # the process ends


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A test that is skipped without `needs`, which says what it needs, fails: nobody would notice that it never runs."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("needs") is None:
        report.outcome, report.longrepr = "failed", f"skipped, but no pytest.mark.needs says why: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory):
    """Nothing in a test finds, or leaves, a file in the user's own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk():
    """Tests kill processes, never the machine, and to wait for the disk is a third of a short training's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def hydra_in_less_time():
    from tests.commands.composing import less_composing  # which takes the theory a second

    with less_composing():
        yield


@pytest.fixture(autouse=True)
def signal_handlers_are_left_as_they_were():
    """One that stays would answer the signals of the tests, and of the jobs, that come after."""
    before = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    }
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.fixture(scope="session")
def zygote():
    """zygote.start(folder, "train", …) -> a real process, without the seconds of its imports."""
    process = Zygote()
    yield process
    process.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """The system's chromium, driven by Playwright; skips where it is not installed."""
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium; apt-get install chromium-headless-shell")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=Path(chromium), args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()
