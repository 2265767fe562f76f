"""Without a compiler there is one line of notice and the network works as before; memory that is kept costs no page faults."""

import contextlib
import platform
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.networks import MLP
from diffusion_lab.training.speed import check_compile, compile_network, keep_freed_memory, missing_for

ROOT = Path(__file__).parents[2]
SCRIPT = """
import resource, torch
from diffusion_lab.training.speed import keep_freed_memory
assert keep_freed_memory()
torch.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_without_a_compiler_there_is_one_line_of_notice(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    network = MLP(2, 2)
    notice = compile_network(network)
    assert "no-such-compiler" in notice
    assert "\n" not in notice
    assert network(torch.randn(3, 2), torch.arange(3)).shape == (3, 2)


def test_without_pythons_headers_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "sh")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in compile_network(MLP(2, 2))


COMPILED_STEP = """
import torch
from diffusion_lab.networks.dropout import keyed, set_keys
from diffusion_lab.training.speed import compile_model, compile_network
from tests.models.test_no_host_sync import CONTINUOUS, built

HYBRID = ["objective=hybrid", "prediction=edm"]
WAYS = [True, *HYBRID], ["graphs", *HYBRID], [True, "schedule=learned", *CONTINUOUS]
for how, *options in WAYS:
    options += ["network.dropout=0.3", "network.num_layers=1"]
    models = [built("diffusion", *options, data="mixture").train() for _ in range(2)]
    assert compile_model(models[1], how) is None
    assert list(models[0].state_dict()) == list(models[1].state_dict())
    assert (models[1]._terms is models[1].objective) == (models[1].trained_schedule is not None)
    for step in range(3):
        x_0, eps, y = torch.randn(8, 2), torch.randn(8, 2), torch.arange(8) % 10
        t, _ = models[0].timesteps(8, torch.Generator().manual_seed(step))
        gradients = []
        for model in models:
            set_keys(keyed(model), step, torch.arange(8))
            model.zero_grad()
            model._terms(model.forward_process, model.reverse, x_0, t, eps, y)["loss"].mean().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert gradients[0].norm() > 0
        assert (gradients[1] - gradients[0]).norm() < 1e-4 * gradients[0].norm()
    generators = [model.generator() for model in models]
    assert compile_network(generators[1].networks["network"], how) is None
    with torch.no_grad():
        drawn = [generator.sample(torch.arange(8), 0, y) for generator in generators]
    torch.testing.assert_close(*drawn)
assert not torch._dynamo.utils.counters["graph_break"]
"""


@pytest.mark.thorough
@pytest.mark.needs("g++")
@pytest.mark.skipif(missing_for(torch.device("cpu")) is not None, reason="nothing compiles here")
def test_a_compiled_step_has_the_same_gradients():
    """The process, the objective and the network in one, with dropout; the network alone where the schedule is trained, and in
    sampling. A CPU computes "graphs" without graphs.

    In a process of its own, without the checks of types in tests, which cannot be compiled.
    """
    ran = subprocess.run([sys.executable, "-c", COMPILED_STEP], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("how", "on_gpu", "parts", "said"),
    [
        ("fast", None, 1, "choose true, graphs or false"),
        ("graphs", False, 1, "needs a GPU"),
        ("graphs", True, 2, "accumulate_grad_batches=1"),
        ("graphs", True, 1, None),
        ("graphs", True, None, None),
        (True, False, None, None),
        (True, False, 2, None),
    ],
)
def test_graphs_need_a_gpu_and_whole_batches(how, on_gpu, parts, said):
    model = SimpleNamespace(check_compile=lambda how, trained: None)
    with pytest.raises(ValueError, match=said) if said else contextlib.nullcontext():
        check_compile(how, on_gpu, parts, model)
    if how == "graphs" or parts is None:
        with pytest.raises(ValueError, match="compile="):
            check_compile(
                how, on_gpu, parts, SimpleNamespace(check_compile=partial(TrainableModel.check_compile, None))
            )


@pytest.mark.thorough
@pytest.mark.needs("glibc")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_a_freed_tensor_costs_no_page_faults():
    """In a process of its own: the setting cannot be undone. Ten tensors of 32 MiB are 82,000 pages."""
    faults = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert int(faults) < 1000


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert keep_freed_memory() is False
