"""With memory kept, a large tensor that was freed comes back without a page fault."""

import platform
import subprocess
import sys

import pytest

from diffusion_lab.networks import memory

SCRIPT = """
import resource, torch
from diffusion_lab.networks.memory import keep_freed_memory
assert keep_freed_memory()
torch.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


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
    assert memory.keep_freed_memory() is False
