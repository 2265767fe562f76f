import pytest

from diffusion_lab.metrics import drawer
from diffusion_lab.metrics.effort import Effort, peak_memory, seconds_per_1000, timed
from diffusion_lab.metrics.reference import UnmeasurableError
from tests.metrics.stand_ins import GaussianModel
from tests.metrics.test_drawer import CPU, STREAM, Counting, draw


def test_times_on_different_machines_are_no_time(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, Counting(stop_at=200))
    monkeypatch.setattr(drawer, "device_name", lambda device: "another card")
    efforts = draw(tmp_path).efforts
    with pytest.raises(UnmeasurableError, match=r"some samples were drawn on another card .*, others on cpu"):
        seconds_per_1000(efforts)
    assert sum(images for images, _ in timed(efforts)) == 300 - 2 * 16, "nor the first batch of each process"


def test_the_first_batch_of_a_process_does_not_count(monkeypatch):
    def effort(*laps, cold=True):
        return Effort(list(laps), cold, "cpu", 1, 5, None, "unknown")

    four = [effort((10, 0.3), (10, 0.01)), effort((10, 0.5), (10, 0.02))]
    assert timed(four) == [(10, 0.01), (10, 0.02)]
    assert seconds_per_1000(four) == pytest.approx(1.5)
    assert timed([effort((10, 0.3)), effort((5, 0.2), cold=False)]) == [(5, 0.2)]
    assert seconds_per_1000([effort((10, 0.01))]) == pytest.approx(1), "an only batch counts"

    clock, laps = iter([1.0, 3.0, 10.0, 10.5]), []
    monkeypatch.setattr("diffusion_lab.metrics.effort.perf_counter", lambda: next(clock))
    list(STREAM.batches(GaussianModel(), range(20), laps))
    assert laps == [(16, 2.0), (4, 0.5)]


@pytest.mark.needs("Unix")
def test_peak_memory_is_that_of_the_kernel_in_mib():
    pytest.importorskip("resource")
    peak, what = peak_memory(CPU)
    assert "process" in what
    assert 100 < peak < 100_000  # torch alone takes more than 100
