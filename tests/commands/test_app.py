import logging
import subprocess
import sys

import pytest

from diffusion_lab.commands import prune


def test_what_hydra_refuses_waits_for_no_import_of_torch():
    """Hydra starts before torch and lightning are imported, which takes seconds: for the help of a command, or a wrong choice."""
    lines = [("train", "schedule=none"), ("evaluate", "--help"), ("import", "--help"), ("sample", "--help")]
    program = f"import sys; from diffusion_lab.commands.app import run; [run(c, [o]) for c, o in {lines}]; "
    program += "print({'torch', 'lightning', 'matplotlib'} & {*sys.modules}, file=sys.stderr)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stderr.endswith("set()\n"), told


@pytest.mark.parametrize(("command", "removed"), [("train", "trainer"), ("prune", "days")])
def test_an_option_that_the_user_removed_is_named(lab, command, removed):
    lab.refused(command, f"~{removed}", said=f"there is no option '{removed}")


def test_flags_may_stand_between_options(lab):
    (lab.folder / "mine" / "schedule").mkdir(parents=True)
    (lab.folder / "mine" / "schedule" / "mine.yaml").write_text("defaults: [linear]\n")
    out = lab.done("schedule", "to=there", "--config-dir", "mine", "schedule=mine", "--cfg", "job", "num_images=3")
    assert "to: there\n" in out
    assert "num_images: 3\n" in out


def test_outputs_that_are_a_file_are_named(lab):
    (lab.folder / "notes").write_text("mine")
    lab.refused("prune", "outputs=notes", said="outputs=notes is a file")


def test_a_log_level_is_hydras(lab, monkeypatch):
    """hydra.verbose, which shows nothing without a handler."""
    log = logging.getLogger("somebody")
    monkeypatch.setattr(prune, "run", lambda cfg: log.debug("in detail"))
    assert "in detail" not in lab.done("prune", "hydra.verbose=true")
    assert "in detail" in lab.done("prune", "hydra/job_logging=stdout", "hydra.verbose=true")
