import sys

from diffusion_lab.commands.app import look_in_working_directory


def test_modules_in_the_working_directory_are_found_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = [*sys.path]
    look_in_working_directory()
    look_in_working_directory()
    assert sys.path == [*before, str(tmp_path)]


def test_a_module_in_the_working_directory_can_be_a_target(lab):
    (lab.folder / "my_schedules.py").write_text("from diffusion_lab.diffusion import CosineSchedule as Mine\n")
    code, _, err = lab("schedule", "schedule._target_=my_schedules.Mine", "sampler.spacing.num_steps=10")
    assert code == 0, err
