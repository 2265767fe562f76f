import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.commands.main import COMMANDS
from diffusion_lab.versions import versions

from .conftest import files
from .test_conf import choices

# The arguments -> the module that answers, and its words.
QUICK = {
    "": ("commands.next_steps", ["There is no trained model in outputs yet.", "  diffusion-lab train  "]),
    "--help": ("commands.main", [f"  {command} " for command in COMMANDS]),
    "--version": ("versions", [f"{name} {version}" for name, version in versions().items()]),
    "status": ("sweeps.watch", ["there is no training"]),
}


@pytest.mark.parametrize("line", QUICK)
def test_it_answers_without_torch(process, line):
    done = process(*line.split(), PYTHONPROFILEIMPORTTIME="1")
    module, words = QUICK[line]
    imported = {entry.rsplit("|", 1)[-1].strip() for entry in done.stderr.splitlines()}
    assert f"diffusion_lab.{module}" in imported
    assert not {"torch", "lightning", "torchmetrics"} & imported
    assert all(word in done.stdout + done.stderr for word in words)
    assert [*process.folder.iterdir()] == []


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_of_a_command(lab, command):
    out = lab.done(command, "--help")
    assert out.startswith(f"diffusion-lab {command}: ")
    assert "powered by Hydra" not in out
    for group in ("schedule", "sampler"):
        listed = re.search(rf"\b{group}: ([\w, ]+)", " ".join(out.split()))[1]  # a terminal breaks lines
        assert all(f" {choice}," in f" {listed}," or f" {choice} " in f" {listed} " for choice in choices(group))
    for words in ("num_steps: 25", "--cfg job"):
        assert words in out
    assert files(lab.folder) == []


def test_output_that_is_not_read_to_its_end_is_no_error(tmp_path):
    """As with `| head`: the reader is gone before the first word."""
    command = Path(sys.executable).parent / "diffusion-lab"
    with subprocess.Popen(
        [command, "--help"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        started.stdout.close()
        said = started.stderr.read()
    assert started.returncode == 128 + signal.SIGPIPE
    assert said == ""


def test_completion_knows_commands_options_and_choices(process):
    def candidates(line):
        return process("-sc", "query=bash", COMP_LINE=line).stdout.split()

    assert candidates("diffusion-lab tr") == ["train"]
    assert candidates("diffusion-lab trian sched") == []
    assert "samples=" in candidates("diffusion-lab evaluate samp")  # without any model
    assert {*candidates("diffusion-lab train schedule=")} == {f"schedule={choice}" for choice in choices("schedule")}
    assert "trainer.max_steps=" in candidates("diffusion-lab train seed=1 trainer.max_s")


def test_completion_in_bash(tmp_path):
    """As the shell does after the Tab key, with Hydra's function."""
    asked = (
        'eval "$(diffusion-lab -sc install=bash)"; '
        'COMP_LINE="diffusion-lab train schedule=li"; COMP_POINT=31; COMP_CWORD=2; hydra_bash_completion; echo "$COMPREPLY"'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert (done.stdout, done.stderr) == ("schedule=linear\n", "")
