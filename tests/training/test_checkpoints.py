"""A checkpoint is there whole, or the one before it is."""

from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.training.checkpoints import Saving, WholeCheckpoints, load_state, newest_good, previous_of


def save(path, **state):
    WholeCheckpoints().save_checkpoint({"global_step": 7} | state, path)


def test_the_one_before_is_kept(tmp_path):
    path = tmp_path / "resume.ckpt"
    for n in range(3):
        save(path, n=n)
    assert load_state(path)["n"] == 2
    assert load_state(previous_of(path))["n"] == 1
    assert newest_good(path) == (path, 7, {}, [])


def test_the_newest_that_is_whole(tmp_path):
    path = tmp_path / "resume.ckpt"
    assert newest_good(path) == (None, 0, {}, [])
    save(path, made_by={"precision": "32-true"})
    save(path)
    content = path.read_bytes()
    for damaged in (b"", content[:100], content[:-1]):
        path.write_bytes(damaged)
        skipped = [f"{path} is damaged, or holds more than tensors and plain values"]
        assert newest_good(path) == (previous_of(path), 7, {"precision": "32-true"}, skipped)
    path.unlink()  # as after a crash between the two moves
    assert newest_good(path) == (previous_of(path), 7, {"precision": "32-true"}, [])


@pytest.mark.needs("mount")
def test_checkpoints_do_not_pass_through_the_temporary_folder(tmp_path, small_disk, monkeypatch):
    """Another file system that is full: Lightning's own writer stages there."""
    monkeypatch.setenv("TMPDIR", str(small_disk))
    (small_disk / "filler").write_bytes(bytes(int(2.9 * 2**20)))
    state = {"weights": torch.zeros(2**19)}
    WholeCheckpoints().save_checkpoint(state, tmp_path / "resume.ckpt")
    WholeCheckpoints().save_checkpoint(state, tmp_path / "resume.ckpt")
    for file in (tmp_path / "resume.ckpt", previous_of(tmp_path / "resume.ckpt")):
        assert torch.equal(load_state(file)["weights"], state["weights"])


@pytest.mark.parametrize("running", [0, 1], ids=["after validation", "at the end of a part"])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (4, 1), (2, 2)])
def test_other_parts_count_on_from_a_whole_batch(tmp_path, before, after, running):
    """Lightning sees by `completed`, one behind, that a checkpoint was saved at the end of a part; else it would repeat parts."""
    done = 23 * before
    counted = {"ready": done, "started": done, "processed": done, "completed": done - running}
    progress = {"total": counted, "current": dict(counted)}
    checkpoint = {"ended": False, "parts": before, "loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}
    saving = Saving(tmp_path / "resume.ckpt", SimpleNamespace(), every_n_steps=0, every_minutes=0)
    saving.on_load_checkpoint(SimpleNamespace(accumulate_grad_batches=after), SimpleNamespace(), checkpoint)
    for count in progress.values():
        assert count["ready"] == count["started"] == count["processed"] == 23 * after
        assert count["completed"] == 23 * after - running
