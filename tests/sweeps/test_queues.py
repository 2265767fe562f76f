"""What a cluster says of a job that ended without a word of its own; the real one is asked in tests/commands/test_slurm*.py."""

import pytest

from diffusion_lab.sweeps import queues
from diffusion_lab.sweeps.queues import SlurmQueue


@pytest.mark.parametrize(
    ("shown", "fate"),
    [
        (
            "JobState=FAILED Reason=NonZeroExitCode Requeue=1 ExitCode=137:0 RunTime=1",
            "Slurm says FAILED after SIGKILL",
        ),
        ("JobState=CANCELLED Reason=None Requeue=1 ExitCode=0:15 RunTime=1", "Slurm says CANCELLED after SIGTERM"),
        ("JobState=CANCELLED Reason=None Requeue=1 ExitCode=0:0 RunTime=0", "Slurm says CANCELLED"),
        ("JobState=FAILED Reason=NonZeroExitCode Requeue=1 ExitCode=1:0 RunTime=1", "Slurm says FAILED"),
        ("JobState=OUT_OF_MEMORY Reason=OutOfMemory Requeue=1 ExitCode=0:125 RunTime=1", "Slurm says OUT_OF_MEMORY"),
        (None, "it left Slurm's queue without a word"),
    ],
)
def test_the_fate_of_a_job(tmp_path, monkeypatch, shown, fate):
    monkeypatch.setattr(queues, "_ask", lambda *command: shown and f"JobId=1 {shown} TimeLimit=04:00:00\n")
    assert SlurmQueue(tmp_path, {"nodes": 1, "ntasks_per_node": 1}, 0).fate("1") == fate
