import os
import signal
import subprocess
import sys
import time

import pytest

from diffusion_lab.training.interruption import SIGNALS, Interrupted, Interruption, ending


def test_handlers_are_as_before_afterwards_even_if_somebody_took_them_meanwhile():
    before = [signal.getsignal(signum) for signum in SIGNALS]
    interruption = Interruption()
    with interruption.listening():
        signal.signal(signal.SIGTERM, lambda *_: None)  # as Lightning does
        interruption.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signum == signal.SIGTERM
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


def test_a_signal_that_ended_training_goes_on_to_the_clusters_handler_when_all_is_in_order():
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: heard.append((signum, list(order))))
    order = []
    interruption = Interruption()

    def train():
        with interruption.forwarding_signals():
            try:
                with interruption.listening():
                    os.kill(os.getpid(), signal.SIGUSR2)
                assert heard == []
                raise Interrupted(signal.SIGUSR2, "saved")
            finally:
                order.append("left in order")

    try:
        with pytest.raises(Interrupted, match="saved"):
            train()
        assert heard == [(signal.SIGUSR2, ["left in order"])]
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(("signum", "survives"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_forked_worker_dies_of_what_ends_it_and_not_of_the_terminals_ctrl_c(signum, survives):
    interruption = Interruption()
    with interruption.listening():
        worker = os.fork()
        if worker == 0:
            time.sleep(0.5)
            os._exit(0)
        time.sleep(0.1)
        os.kill(worker, signum)
        _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if survives else -signum)
    assert interruption.signum is None


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


SWALLOWED = {
    "an import": "import imported",
    "a guarded import": "try:\n        import imported\n    except BaseException:\n        pass",
    "a finalizer": "class A:\n        def __del__(self):\n            os.kill(os.getpid(), 15)\n    A()",
}


@pytest.mark.parametrize("where", SWALLOWED)
def test_a_signal_is_not_swallowed(tmp_path, where):
    (tmp_path / "imported.py").write_text("import os\nos.kill(os.getpid(), 15)\n")
    program = (
        f"import os\nfrom diffusion_lab.training.interruption import ending\nwith ending():\n    {SWALLOWED[where]}"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + 15, "diffusion-lab: ended by SIGTERM\n")
