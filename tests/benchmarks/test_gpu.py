"""benchmarks/gpu.py on the CPU: every path, and that calls add up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def call(out, minutes):
    """The pieces that a call has left undone, and what it says."""
    command = [sys.executable, SCRIPT, "--device", "cpu", "--tiny", "--minutes", str(minutes), "--out", out]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stderr.strip().splitlines()[-1:], ended.stdout


@pytest.mark.thorough
@pytest.mark.needs("g++")
def test_calls_add_up(tmp_path):
    undone, said = call(tmp_path, 0)
    assert "golden" in undone[0]
    assert "the next call has it" in said
    undone, said = call(tmp_path, 8)
    log = (tmp_path / "log.txt").read_text()
    assert undone == [], said + log[-3000:]
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["failed"] == []
    assert {"unet 8 16² ours eager", "unet 8 16² ours compiled", "precisions", "golden", "training"} <= {
        *stored["results"]
    }
    assert stored["results"]["golden"]["largest_relative_difference"] == {"edm": 0}
    before = (tmp_path / "results.json").read_bytes()
    assert call(tmp_path, 8)[0] == []
    assert (tmp_path / "results.json").read_bytes() == before
    assert (tmp_path / "figure.png").stat().st_size > 1000
