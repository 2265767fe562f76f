import json
import os
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
from diffusion_lab.store.directories import to_trash
from diffusion_lab.store.files import write_whole
from diffusion_lab.store.places import finish_swaps, models_in


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


class _KilledError(BaseException):
    pass


def _trained(model, what):
    write_whole(model.config, what.encode())
    write_whole(model.weights("raw"), what.encode())
    model.finish(steps=1, seconds=1.0, images=1, what=what)


def _read(model):
    return {model.config.read_text(), model.weights("raw").read_text(), model.read_training()["what"]}


def test_killed_at_any_moment_a_swap_is_finished_by_the_next_command(tmp_path, monkeypatch):
    """The old model or the new one is whole, and the files that the user put to the old one are kept."""
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
        for owner, name in ((os, "replace"), (os, "rename"), (Path, "rename"), (Path, "mkdir")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        for number in range(20):
            limit, outputs = 10**9, tmp_path / str(number)
            model = ModelDirectory(outputs / "models" / "m")
            _trained(model, "old")
            (model.path / "status.json").write_text("{}")
            (model.path / "mine.png").write_text("mine")
            _trained(model.beside, "new")
            assert [each.path for each in models_in(outputs)] == [model.path]
            steps, limit = 0, number
            try:
                model.swap()
            except _KilledError:
                limit = 10**9
                assert not model.finished or len(_read(model)) == 1
                finish_swaps(outputs)
                assert _read(model) == {"new"}
            else:
                break
            assert (model.path / "status.json").is_file()
            assert not model.beside.path.exists()
            assert (outputs / "trash" / "models" / "m" / "mine.png").is_file()
            assert [path.name for path in model.path.parent.iterdir()] == ["m"]
    assert number > 3, "it takes that many steps"


def test_what_is_in_the_trash_stays(tmp_path):
    for content in ("1", "2"):
        write_whole(tmp_path / "models" / "m" / "file", content.encode())
        to_trash(tmp_path, tmp_path / "models" / "m")
    trashed = tmp_path / "trash" / "models"
    assert [(trashed / name / "file").read_text() for name in ("m", "m.1")] == ["1", "2"]
