import os
import signal
import time
from contextlib import suppress

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


def in_a_fork(signum):
    """The exit code of a forked process that gets a signal, as one that loads data."""
    worker = os.fork()
    if worker == 0:
        with suppress(BaseException):
            time.sleep(0.5)
        os._exit(0)
    time.sleep(0.1)
    os.kill(worker, signum)
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])


def test_a_process_that_loads_data_goes_on_while_training_saves():
    interruption = Interruption()
    with interruption.listening():
        assert in_a_fork(signal.SIGTERM) == in_a_fork(signal.SIGINT) == 0
    assert interruption.signum is None


def test_a_signal_ends_a_command_and_what_it_forked():
    with ending():
        assert in_a_fork(signal.SIGINT) == 128 + signal.SIGINT
        with pytest.raises(Interrupted, match="ended by SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
