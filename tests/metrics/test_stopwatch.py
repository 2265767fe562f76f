from pathlib import Path

import pytest
import torch

from diffusion_lab.metrics.stopwatch import Lap, PeakMemory, Stopwatch, counted, num_parameters, seconds_per_1000
from tests.metrics.stand_ins import GaussianModel

CPU = torch.device("cpu")


def test_the_first_batch_of_each_process_does_not_count():
    laps = [Lap(10, 0.3, first=True), Lap(10, 0.01, first=False), Lap(10, 0.5, first=True), Lap(10, 0.02, first=False)]
    assert counted(laps) == [laps[1], laps[3]]
    assert seconds_per_1000(laps) == pytest.approx(1.5)


def test_an_only_batch_counts():
    assert seconds_per_1000([Lap(10, 0.01, first=True)]) == pytest.approx(1)


def test_a_stopwatch_times_its_blocks_and_nothing_between_them(monkeypatch):
    clock = iter([1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr("diffusion_lab.metrics.stopwatch.perf_counter", lambda: next(clock))
    stopwatch = Stopwatch(CPU)
    for images in (3, 5):
        with stopwatch.lap(images):
            pass
    assert stopwatch.laps == [Lap(3, 2.0, first=True), Lap(5, 0.5, first=False)]


@pytest.mark.needs("Unix")
def test_peak_memory_is_that_of_the_kernel_in_mib():
    pytest.importorskip("resource")
    peak, what = PeakMemory(CPU).mib
    assert "process" in what
    assert peak > 100  # torch alone takes more
    status = Path("/proc/self/status")
    if status.exists():
        (kib,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        assert peak == pytest.approx(int(kib) / 1024, rel=0.05)


def test_parameters_are_counted():
    assert num_parameters(torch.nn.Linear(3, 2)) == 8
    assert num_parameters(GaussianModel()) == 1
