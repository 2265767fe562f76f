import os
import subprocess
import sys
from dataclasses import replace

from diffusion_lab.store.processes import Process

WAIT = [sys.executable, "-c", "input()"]


def test_this_process_lives_and_another_with_its_id_does_not():
    me = Process.of(os.getpid())
    assert me.pid == os.getpid()
    assert me.lives()
    assert not replace(me, started="0").lives()
    assert replace(me, started=None).lives(), "where the system does not tell, the id is all there is"
    assert not replace(me, machine="another boot").lives()


def test_a_dead_process_is_dead_before_and_after_it_is_buried():
    child = subprocess.Popen(WAIT, stdin=subprocess.PIPE)
    process = Process.of(child.pid)
    assert process.lives()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie from here on
    assert not process.lives()
    child.communicate()
    assert not process.lives()
