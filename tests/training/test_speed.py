"""Without a compiler there is one line of notice and the network works as before; memory that is kept costs no page faults."""

import platform
import subprocess
import sys
import sysconfig

import pytest
import torch

from diffusion_lab.networks import MLP, UNet
from diffusion_lab.training.speed import compile_network, keep_freed_memory

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
    """Without pythons headers there is one line of notice."""
    monkeypatch.setenv("CXX", "sh")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in compile_network(MLP(2, 2))


@pytest.mark.thorough
@pytest.mark.needs("g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_has_the_same_keys_values():
    """A compiled network has the same keys values and gradients."""

    def build():
        torch.manual_seed(0)
        network = UNet(
            1,
            1,
            image_size=8,
            base_channels=16,
            channel_multipliers=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(4,),
            head_channels=16,
        )
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        return network

    plain, compiled = build(), build()
    notice = compile_network(compiled)
    if notice:
        pytest.skip(notice)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    x_t, timesteps = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    outputs = [network(x_t, timesteps) for network in (plain, compiled)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    for output in outputs:
        output.square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 1e-4 * theirs.grad.norm()


@pytest.mark.needs("glibc")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_a_freed_tensor_costs_no_page_faults():
    """A freed tensor costs no page faults when it comes back.

    In a process of its own: the setting cannot be undone. Ten tensors of 32 MiB are 82,000 pages.
    """
    faults = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert int(faults) < 1000


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert keep_freed_memory() is False
