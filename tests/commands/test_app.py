import subprocess
import sys

import pytest

from diffusion_lab.commands.main import COMMANDS


def test_what_hydra_refuses_waits_for_no_import_of_torch():
    """Every command starts Hydra before it imports torch and lightning, which take seconds."""
    modules = [f"diffusion_lab.commands.{name}" for name in ("app", *COMMANDS)]
    program = f"import sys; [__import__(m) for m in {modules}]; print({{'torch', 'lightning'}} & {{*sys.modules}})"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout == "set()\n", told


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
