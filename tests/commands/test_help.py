import os
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
    "train --help": ("commands.help", ["schedule=cosine ", "seed=1 "]),
    "--version": ("versions", [f"{name} {version}" for name, version in versions().items()]),
    "status": ("sweeps.watch", ["there is no training"]),
}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.thorough if line in ("--help", "--version", "status") else ())
        for line in QUICK
    ],
)
def test_it_answers_without_torch(process, line):
    done = process(*line.split(), PYTHONPROFILEIMPORTTIME="1")
    module, words = QUICK[line]
    imported = {entry.rsplit("|", 1)[-1].strip() for entry in done.stderr.splitlines()}
    assert f"diffusion_lab.{module}" in imported
    assert not {"torch", "lightning", "torchmetrics"} & imported
    assert all(word in done.stdout + done.stderr for word in words)
    assert [*process.folder.iterdir()] == []


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_of_a_command_is_two_screens(lab, command):
    """The choices of each group, and options with their comments."""
    out = lab.done(command, "--help")
    assert out.startswith(f"diffusion-lab {command}: ")
    assert out.count("\n") <= 100
    said = " ".join(out.split())  # a terminal breaks lines
    for group, default in (("sampler", "dpm_solver_sde"), ("sampler/spacing", "log_snr"), ("guidance", "none")):
        assert f" {group}={default} {' '.join(name for name in choices(group) if name != default)} " in said
    assert " outputs=outputs where " in said
    assert "--cfg job" in said
    assert files(lab.folder) == []


@pytest.mark.parametrize(
    ("asked", "expected"),
    {
        "sampler": [
            "heun Heun's second-order rule (",
            "sampler.stochastic=true true: the reverse process with its noise",
        ],
        "data=image_folder data": ["digits Handwritten digits, 1x8x8", "data.root=… folder with your images;"],
        "network=diffusion/28x28 network": ["network.base_channels=16 channels of the finest level"],  # said by 8x8
        "val": ["val.every_n_steps=200 0: never"],
        "schedule=mine schedule": ["mine The user's own", "schedule.num_timesteps=7 T of mine"],
    }.items(),
)
def test_help_of_a_group_has_a_line_for_each_choice_and_option(lab, asked, expected):
    """The comments of the yaml files, also of the user's own and of those that a choice begins with."""
    (lab.folder / "conf" / "schedule").mkdir(parents=True)
    own = "# The user's own. And more.\n_target_: mine.Mine\nnum_timesteps: 7 # T of mine\n"
    (lab.folder / "conf" / "schedule" / "mine.yaml").write_text(own)
    said = " ".join(lab.done("train", *asked.split(), "--help").split())
    assert all(f" {words}" in said for words in expected), said
    lab.refused("train", "--help", "optimzer", said="did you mean optimizer?")


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
