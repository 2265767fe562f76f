"""branch_from: a training goes on from what it has in common with one of another length, and is what it would have been."""

import pytest

from diffusion_lab.store import ModelDirectory, newest_model

from .conftest import files
from .test_resume import EVERYTHING, Training, assert_same_bits

RATE = ["lr_scheduler=warmup_stable_decay", "lr_scheduler.warmup_steps=2", "lr_scheduler.decay_share=0.5"]
TRUNK = [*EVERYTHING, *RATE, "trainer.max_steps=16", "snapshots.branches=[2steps,5steps]"]
BRANCH = [*EVERYTHING, *RATE, "trainer.max_steps=10", "snapshots.at=[0.1,0.3,0.9]", "snapshots.averages=2"]


def trunk_in(lab, *options: str) -> ModelDirectory:
    lab.given("train", *TRUNK, *options)
    return newest_model(lab.folder / "outputs")


def test_a_branch_is_bit_for_bit_the_training_of_its_length(lab, tmp_path):
    trunk = trunk_in(lab, "snapshots.at=[1steps,3steps]", "snapshots.averages=16")
    assert list(trunk.branches) == [2, 5]
    out = lab.done("train", *BRANCH, f"branch_from={trunk.path}", "outputs=branched")
    assert f"branching from step 5 of {trunk.path}" in out
    lab.given("train", *BRANCH, "outputs=plain")
    branched, plain = (newest_model(lab.folder / name) for name in ("branched", "plain"))
    assert branched.path.name == plain.path.name
    assert {file.name for file in branched.files} == {file.name for file in plain.files}
    pair = [Training(None, lab.folder) for _ in range(2)]
    for training, directory in zip(pair, (branched, plain), strict=True):
        training.__class__ = type("Found", (Training,), {"directory": directory})
    assert_same_bits(*pair)
    facts = branched.read_training()
    assert (facts["branched_from"], facts["branched_at"]) == (trunk.path.name, 5)
    same_facts = ("steps", "images", "fingerprint", "ended_by")
    assert [facts[key] for key in same_facts] == [plain.read_training()[key] for key in same_facts]
    before = files(lab.folder)
    assert lab("train", *BRANCH, "branch_from=nowhere", "outputs=branched")[0] == 0  # it is trained already
    assert files(lab.folder) == before


@pytest.mark.thorough
def test_what_the_longer_training_did_not_keep_is_said(lab):
    trunk = trunk_in(lab, "snapshots.at=[3steps]", "snapshots.averages=0")
    out = lab.done("train", *BRANCH, f"branch_from={trunk.path}")
    assert f"{trunk.path} did not keep at_0.1 (step 1), power_0.5 (step 5); this model will not have them either" in out
    names = newest_model(lab.folder / "outputs").weight_names
    assert {"at_0.3", "at_0.9"} < set(names)
    assert "at_0.1" not in names


@pytest.mark.thorough
def test_what_cannot_branch_is_refused_in_a_sentence(lab):
    trunk = trunk_in(lab, "snapshots.averages=0")
    for option, said in (
        ("data.batch_size=4", "only the length may differ, but it differs in data.batch_size"),
        ("lr_scheduler.decay_share=0.25", "only the length may differ, but it differs in lr_scheduler.decay_share"),
        ("trainer.max_steps=2", "they share 1 steps, but the first checkpoint that was kept is from step 2"),
        ("trainer.max_time=00:00:01:00", "the length of both trainings must be in steps (trainer.max_steps)"),
        ("snapshots.branches=[11steps]", "snapshots.branches: training ends before 11steps (trainer.max_steps=10)"),
    ):
        lab.refused("train", *BRANCH, f"branch_from={trunk.path}", option, said=said)
