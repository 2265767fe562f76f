from itertools import pairwise

from diffusion_lab.commands import doctor
from diffusion_lab.doctor.finding import Check, Finding

from .conftest import files


def test_each_finding_says_what_to_do_and_a_machine_that_can_train_is_fine(lab, monkeypatch):
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)
    monkeypatch.setattr("diffusion_lab.doctor.services.ask", lambda *command, seconds: None)  # it may take ten seconds
    code, out, err = lab("doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "`diffusion-lab train` works here."
    for line, following in pairwise(lines):
        assert following.strip().startswith("→") == line.startswith("missing")
    assert files(lab.folder) == []


def test_what_was_found_is_one_column(lab, monkeypatch):
    names = ["short", "extra denoising-diffusion-pytorch", "a name that is even longer than that"]
    found = [Finding(name, "missing", "@", "#") for name in names]
    monkeypatch.setattr(doctor, "checks", lambda outputs: [Check("all", lambda: found)])
    _, out, _ = lab("doctor")
    lines = [line for line in out.splitlines() if "@" in line or "#" in line]
    assert len({line.index("@") for line in lines if "@" in line}) == 1
    assert {line.index("→") for line in lines if "#" in line} == {lines[0].index("@")}


def test_what_the_default_command_needs_ends_in_an_error(lab, monkeypatch):
    # Online, wandb warns where an earlier test of this process has set it up offline; in a process of its own it is silent.
    monkeypatch.setenv("WANDB_MODE", "offline")
    (lab.folder / "mine").touch()
    code, out, err = lab("doctor", "outputs=mine/outputs")
    assert code == 1
    assert "broken  disk" in out
    assert err == "diffusion-lab doctor: `diffusion-lab train` does not work here; fix disk first (see above)\n"
