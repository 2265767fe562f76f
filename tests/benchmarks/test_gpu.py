"""benchmarks/gpu.py on the CPU: every path, and that calls add up."""

import contextlib
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from diffusion_lab.commands import app

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
TINY = ["--device", "cpu", "--tiny"]


def in_one_process(out, minutes):
    """A call whose pieces and commands are run by the process itself, without the seconds that each process's imports take.

    A network is captured as a graph with its gradients, but no kernels are generated: tests/training/test_speed.py runs such.
    """
    spec = spec_from_file_location("gpu", SCRIPT)
    gpu = module_from_spec(spec)
    spec.loader.exec_module(gpu)

    def lab(folder, command, *options):
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(folder):
            assert app.run(command, [*options]) == 0

    def run_piece(name, options, seconds):
        work = next(work for piece, _, work in gpu.pieces(options) if piece == name)
        return 0, json.loads(json.dumps(work()))

    gpu.lab, gpu.run_piece = lab, run_piece
    gpu.compile_network = lambda network: network.compile(backend="aot_eager")
    sys.argv = [str(SCRIPT), *TINY, "--minutes", minutes, "--out", out]
    try:
        gpu.main()
    except SystemExit as undone:
        print(undone)


@pytest.mark.thorough
def test_calls_add_up(tmp_path, zygote):
    ended = zygote.call(tmp_path, in_one_process, str(tmp_path), "0")
    out, err = ended.communicate()
    assert "golden" in out.splitlines()[-1], err
    assert "the next call has it" in out
    ended = zygote.call(tmp_path, in_one_process, str(tmp_path), "8")
    out, err = ended.communicate()
    assert ended.returncode == 0, out + err
    assert "not finished" not in out
    whole = json.loads((tmp_path / "results.json").read_text())
    assert whole["failed"] == []
    assert {"unet 8 16² ours eager", "unet 8 16² ours compiled", "precisions", "golden", "training"} <= {
        *whole["results"]
    }
    assert whole["results"]["golden"]["largest_relative_difference"] == {"edm": 0}
    assert (tmp_path / "figure.png").stat().st_size > 1000

    del whole["results"]["training"]  # a piece that runs a command, both in processes of their own as for a user
    (tmp_path / "results.json").write_text(json.dumps(whole))
    command = [sys.executable, SCRIPT, *TINY, "--minutes", "8", "--out", tmp_path]
    subprocess.run(command, capture_output=True, text=True, check=True)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["failed"] == []
    assert len(stored["results"]) == len(whole["results"]) + 1
    assert whole["results"].items() <= stored["results"].items()
