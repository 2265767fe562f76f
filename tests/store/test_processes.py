import os
import subprocess
import sys

from diffusion_lab.store.processes import is_running


def test_a_dead_process_is_dead_before_and_after_it_is_buried():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie from here on
    assert not is_running(child.pid)
    child.communicate()
    assert not is_running(child.pid)
