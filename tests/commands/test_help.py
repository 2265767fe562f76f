import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.commands import completion
from diffusion_lab.commands.main import COMMANDS, main
from diffusion_lab.versions import versions

from .conftest import files
from .test_conf import choices


def test_help_answers_without_torch(process):
    done = process("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w.+\w$", done.stdout, re.MULTILINE)
    assert "diffusion_lab.commands.main" in done.stderr
    assert "torch" not in done.stderr
    assert "hydra" not in done.stderr


def test_versions_are_told_without_torch(process):
    done = process("--version", PYTHONPROFILEIMPORTTIME="1")
    assert dict(line.split(" ", 1) for line in done.stdout.splitlines()) == versions()
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "diffusion_lab.versions" in imported
    assert not {"torch", "lightning", "hydra", "torchmetrics"} & imported


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_of_a_command(lab, command):
    """Every command says what it does and shows its choices and options."""
    out = lab.done(command, "--help")
    assert out.startswith(f"diffusion-lab {command}: ")
    assert "powered by Hydra" not in out
    for group in ("schedule", "sampler"):
        assert f"{group}: {', '.join(choices(group))}\n" in out
    for words in ("num_steps: 25", "--cfg job"):
        assert words in out
    assert files(lab.folder) == []


@pytest.mark.parametrize(
    "options",
    [["--help"], *(pytest.param(["train", *o], marks=pytest.mark.thorough) for o in (["--help"], ["--cfg", "job"]))],
    ids=str,
)
def test_output_that_is_not_read_to_its_end_is_no_error(tmp_path, options):
    """As with `| head`: the reader is gone before the first word."""
    command = Path(sys.executable).parent / "diffusion-lab"
    with subprocess.Popen(
        [command, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        started.stdout.close()
        said = started.stderr.read()
    assert started.returncode == 128 + signal.SIGPIPE
    assert said == ""


def test_another_broken_pipe_is_not_taken_for_ours(monkeypatch, capfd):
    def broken(command, options):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr("diffusion_lab.commands.app.run", broken)
    monkeypatch.setattr("sys.argv", ["diffusion-lab", "train"])
    with capfd.disabled(), pytest.raises(BrokenPipeError, match="of a worker"):
        main()


def test_completion_knows_commands_options_and_choices(lab, monkeypatch, capfd):
    def candidates(line):
        monkeypatch.setenv("COMP_LINE", line)
        assert completion.complete(["query=fish"], COMMANDS) == 0
        return capfd.readouterr().out.splitlines()

    assert candidates("diffusion-lab tr") == ["train "]
    assert candidates("diffusion-lab trian sched") == []
    assert "samples=" in candidates("diffusion-lab evaluate samp")  # without any model
    assert "schedule=" in candidates("diffusion-lab train sched")
    assert set(candidates("diffusion-lab train schedule=")) >= {
        "schedule=cosine",
        "schedule=linear",
        "schedule=sigmoid",
    }
    assert any("trainer.max_steps=" in c for c in candidates("diffusion-lab train trainer.max_s"))


def test_completion_can_be_installed(process):
    script = process("-sc", "install=bash").stdout
    assert "complete -o nospace -o default -F _diffusion_lab diffusion-lab" in script
    answered = process("-sc", "query=bash", COMP_LINE="diffusion-lab eval")
    assert answered.stdout.split() == ["evaluate"]
