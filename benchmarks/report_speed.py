"""How long a report on 500 finished runs takes, and how long its page takes to open, to sort and to show samples.

    python benchmarks/report_speed.py          (needs the test extra and chromium; about a minute)

The runs are made by the tests' generator: no model is trained. Times are of one process on an otherwise idle machine.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from playwright.sync_api import sync_playwright

from diffusion_lab.report.make import make_report
from tests.report.synthetic import AXES, write_sweep

STEPS = [str(k) for k in range(10, 92, 2)]  # 41 values: 2 · 3 · (1 + 2 · 41) = 498 rows of one seed each
SEEDS = [str(seed) for seed in range(1, 18)]  # 2 · 3 · 5 rows of 17 seeds each: 510 runs
SWEEPS = {
    "498 rows of one seed": {**AXES, "sampler.spacing.num_steps": STEPS, "seed": ["1"]},
    "30 rows of 17 seeds": {**AXES, "seed": SEEDS},
}
SORT = """() => {
    const start = performance.now();
    [...document.querySelectorAll("thead button")].find(b => b.textContent.startsWith("fd_")).click();
    document.body.offsetHeight;
    return performance.now() - start;
}"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, axes) in enumerate(SWEEPS.items()):
            sweep = write_sweep(Path(folder) / str(number), axes=axes)
            start, cpu = time.perf_counter(), time.process_time()
            page = make_report(sweep)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            size = page.stat().st_size / 2**20
            print(f"{name}: report in {wall:.1f} s ({cpu:.1f} s of processor), page of {size:.1f} MiB")
            open_page(page)


def open_page(path: Path) -> None:
    """Print how long the page takes to open, to sort and to show the samples of a row."""
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        start = time.perf_counter()
        page.goto(path.as_uri())
        opened = time.perf_counter() - start
        sorting = page.evaluate(SORT)
        start = time.perf_counter()
        page.locator("tbody tr[data-row][aria-selected=false]").first.click()
        page.locator(".picture[data-drawn=true]").last.wait_for(state="attached")
        shown = time.perf_counter() - start
        print(f"  opened in {opened:.2f} s, sorted in {sorting:.0f} ms, samples after a click in {1000 * shown:.0f} ms")
        browser.close()


if __name__ == "__main__":
    main()
