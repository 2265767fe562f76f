from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_lab.store import SweepDirectory

from .synthetic import write_sweep

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepDirectory:
    """The sweep of issue and README, finished: 60 cells, 30 rows."""
    return write_sweep(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """The system's chromium, driven by Playwright; skips where it is not installed."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium; apt-get install chromium-headless-shell")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=Path(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()
