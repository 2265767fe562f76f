import time
from pathlib import Path

import pytest
import torch

from diffusion_lab.evaluation.cost import Stopwatch, num_parameters, peak_memory_mib
from tests.evaluation.stand_ins import GaussianModel

CPU = torch.device("cpu")


def watched(*seconds, images=10):
    stopwatch = Stopwatch(CPU)
    for pause in seconds:
        with stopwatch.lap(images):
            time.sleep(pause)
    return stopwatch


def test_the_first_batch_does_not_count():
    stopwatch = watched(0.3, 0.01, 0.02)
    assert stopwatch.timed_images == 20
    assert 1.5 <= stopwatch.seconds_per_1000 < 10  # 30 ms / 20 images; with the first batch 11


def test_an_only_batch_counts():
    stopwatch = watched(0.01)
    assert stopwatch.timed_images == 10
    assert stopwatch.seconds_per_1000 >= 1


def test_peak_memory_is_that_of_the_kernel_in_mib():
    pytest.importorskip("resource")
    peak, what = peak_memory_mib(CPU)
    assert "process" in what
    assert peak > 100  # torch alone takes more
    status = Path("/proc/self/status")
    if status.exists():
        (kib,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        assert peak == pytest.approx(int(kib) / 1024, rel=0.05)


def test_parameters_are_counted():
    assert num_parameters(torch.nn.Linear(3, 2)) == 8
    assert num_parameters(GaussianModel()) == 1
