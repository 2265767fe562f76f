import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from diffusion_lab.store import (
    ModelDirectory,
    RunError,
    model_directory,
    newest_model,
    run_directory,
    write_json,
)
from diffusion_lab.store.files import name_root, write_whole
from diffusion_lab.store.written import PlaceError


@pytest.mark.parametrize("content", [{"x": float("nan")}, {"x": object()}])
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path, content):
    path = tmp_path / "metrics.json"
    write_json(path, {"x": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(tmp_path.glob("[!.]*")) == [path]


def test_metrics_are_read_back_or_named(tmp_path):
    run = run_directory(tmp_path, "cell-1")
    with pytest.raises(RunError, match=r"there is no .*runs/cell-1/metrics.json"):
        run.read_metrics()
    run.write_metrics({"values": {"nfe": 50}})
    assert run.read_metrics() == {"values": {"nfe": 50}}
    for broken in (b'{"values": {"nf', b"", b"\xff\xfe", b"[1]"):
        run.metrics.write_bytes(broken)
        with pytest.raises(RunError, match=r"metrics.json"):
            run.read_metrics()


def test_a_model_directory_is_named_by_data_model_and_fingerprint(tmp_path):
    model = model_directory(tmp_path, "digits", "diffusion", "0123456789abcdef" * 4)
    assert model.path == tmp_path / "models" / "digits-diffusion-0123456789ab"
    assert not tmp_path.joinpath("models").exists()  # nothing is made by asking
    model.finish(steps=10, seconds=2.5, images=640, device="cpu")
    assert model.read_training() == {"steps": 10, "seconds": 2.5, "images": 640, "device": "cpu"}


def test_weights_are_listed_by_name(tmp_path):
    model = ModelDirectory(tmp_path)
    names = ["at_0.1", "at_1000steps", "at_1e-05", "at_2m", "ema_0.999", "ema_1e-05", "raw"]
    others = ["ema_0.999_mine", "ema_0.999.old", "at_2m_copy", "ema_0.999 (copy)", "Raw", "raw2", "ema_"]
    for name in names + others:
        model.weights(name).touch()
    assert model.weight_names == names


def test_the_newest_model_is_the_one_that_finished_last(tmp_path):
    for age, name in enumerate(["b", "c", "a"]):
        model = model_directory(tmp_path, name, "diffusion", "0" * 64)
        model.finish(1, 1.0, 1)
        os.utime(model.training, ns=(10**18 + age, 10**18 + age))
    unfinished = model_directory(tmp_path, "d", "diffusion", "0" * 64)
    unfinished.path.mkdir()
    unfinished.resume.touch()
    assert newest_model(tmp_path).path.name.startswith("a-")
    assert not unfinished.finished


def test_a_model_that_draws_nothing_is_taken_only_if_there_is_no_other(tmp_path):
    classifier, other, newer = (model_directory(tmp_path, name, "m", "0" * 64) for name in "abc")
    classifier.finish(1, 1.0, 1)
    write_json(classifier.accuracy, {})
    assert newest_model(tmp_path).path == classifier.path
    other.finish(1, 1.0, 1)
    newer.finish(1, 1.0, 1)
    for age, model in enumerate((other, newer, classifier)):
        os.utime(model.training, ns=(10**18 + age, 10**18 + age))
    assert newest_model(tmp_path).path == newer.path, "the classifier is newer"
    other.make_newest()
    assert newest_model(tmp_path).path == other.path


def test_no_finished_model_is_an_error_that_names_the_cure(tmp_path):
    with pytest.raises(RunError, match=r"no trained model in .*models; run `diffusion-lab train`"):
        newest_model(tmp_path)
    (tmp_path / "models" / "x").mkdir(parents=True)
    with pytest.raises(RunError, match=r"\(1 unfinished\)"):
        newest_model(tmp_path)
    with pytest.raises(RunError, match=r"training\.json is missing"):
        ModelDirectory(tmp_path / "models" / "x").read_training()


OURS = ("config.yaml", "choices.json", "metrics.csv", "resume.ckpt", "raw.safetensors", "ema_0.9.safetensors")
MINE = ("mine.png", "samples/mine.png", "notes.ckpt", "best.safetensors.bak")


def _trained(folder, what, steps=()):
    """A finished training in `folder`, every file of which says `what`."""
    model = ModelDirectory(folder)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    for name in OURS:
        write_whole(folder / name, what.encode())
    for step in steps:
        write_whole(model.samples / f"step_{step}.png", what.encode())
    model.finish(steps=1, seconds=1.0, images=1, what=what)


def _read(model):
    """What each part of a model says to who reads it."""
    parts = [model.config, model.choices, model.metrics_csv, *model.weight_files().values()]
    return {*(file.read_text() for file in parts), model.read_training()["what"]}


class _KilledError(BaseException):
    pass


def test_killed_at_any_moment_a_training_anew_leaves_the_old_model_whole_or_the_new(tmp_path, monkeypatch):
    """Before and after each single step of putting it in place; then it is put in place."""
    steps, limit = 0, 0

    def counted(function):
        def step(*arguments, **options):
            nonlocal steps
            steps += 1
            if steps > limit:
                raise _KilledError
            return function(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        for owner, name in ((os, "replace"), (os, "rename"), (Path, "unlink"), (Path, "touch"), (Path, "rmdir")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        for number in range(60):
            limit = 10**9
            model = ModelDirectory(tmp_path / str(number))
            _trained(model.path, "old", steps=(1, 2))
            for name in MINE:
                (model.path / name).write_text("mine")
            write_whole(model.accuracy, b"old")
            model.weights("ema_0.9").write_text("edited")
            _trained(model.retraining.path, "new", steps=(2, 3))
            (model.retraining.path / "training.json").rename(tmp_path / "ready")
            assert _read(model) == {"old", "edited"}
            (tmp_path / "ready").rename(model.retraining.path / "training.json")
            assert _read(model) == {"new"}
            steps, limit = 0, number
            try:
                model.put_in_place()
            except _KilledError:
                limit = 10**9
                assert model.finished
                assert _read(ModelDirectory(model.path)) == {"new"}
                model.put_in_place()
            else:
                break
            assert not model.retraining.finished
            assert model.retrained
            model.end_retraining()
            left = {path.relative_to(model.path).as_posix(): path.read_text() for path in model.path.rglob("[!.]*.*")}
            del left["training.json"]
            new = {name for name, said in left.items() if said == "new"}
            assert new == {*OURS, "samples/step_2.png", "samples/step_3.png"}
            assert left.keys() - new == {*MINE, "yours-ema_0.9.safetensors"}
            assert not model.retraining.path.exists()
    assert number > 12, "it takes that many steps"


def test_a_training_anew_follows_no_link_out(tmp_path):
    """Neither to the record of another folder, nor where its mark would be made."""
    there, model = tmp_path / "there", ModelDirectory(tmp_path / "outputs/models/m")
    name_root(tmp_path / "outputs")
    write_whole(there / "mine.txt", b"mine")
    for name, target in (("mine", there), ("in_place", tmp_path / "made")):
        _trained(model.path, "old", steps=(1,))
        _trained(model.retraining.path, "new", steps=(2,))
        (model.retraining.path / name).symlink_to(target)
        with suppress(PlaceError):
            model.put_in_place()
            (model.retraining.path / "deeper").symlink_to(target)
            model.end_retraining()
        assert (there / ".written").is_file()
        assert not (tmp_path / "made").exists()


def test_what_a_logger_wrote_is_replaced_by_a_new_training(tmp_path):
    """There is no record of it."""
    model = ModelDirectory(tmp_path / "model")
    for place, text in ((model, "old"), (model.retraining, "new")):
        place.finish(steps=1, seconds=1.0, images=1)
        (place.logs / "version_0").mkdir(parents=True)
        (place.logs / "version_0" / "hparams.yaml").write_text(text)
    model.put_in_place()
    assert [file.name for file in (model.logs / "version_0").iterdir()] == ["hparams.yaml"]
    assert (model.logs / "version_0" / "hparams.yaml").read_text() == "new"
