"""What a class takes is read from its source, as importing it would say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
import yaml
from hydra.utils import get_object

from diffusion_lab.conf_dir import CONF
from diffusion_lab.definitions import Code
from diffusion_lab.from_config.kinds import _kinds
from diffusion_lab.from_config.signatures import written_annotations


def targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for child in node.values():
            yield from targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from targets(child)


OURS = sorted(
    {
        target
        for path in CONF.rglob("*.yaml")
        for target in targets(yaml.safe_load(path.read_text()))
        if target.startswith("diffusion_lab.")
    }
)
CODE = Code()


@pytest.mark.parametrize("target", OURS)
def test_what_is_written_is_what_an_import_finds(target):
    found = get_object(target)
    imported = get_type_hints(found.__init__ if isinstance(found, type) else found)
    written = written_annotations(CODE, target)
    assert {name: set(_kinds(annotation)) for name, annotation in written.items()} == {
        name: set(_kinds(imported[name])) for name in written
    }


def test_most_options_need_no_import():
    assert len(OURS) > 100
    assert sum(len(written_annotations(CODE, target)) for target in OURS) > 300


def test_a_class_may_be_named_as_the_one_that_it_extends(tmp_path):
    (tmp_path / "theirs.py").write_text("class Net:\n    def __init__(self, width: int, name: str | None): ...\n")
    (tmp_path / "mine.py").write_text("from theirs import Net\n\n\nclass Net(Net):\n    pass\n")
    assert written_annotations(Code([str(tmp_path)]), "mine.Net") == {"width": int, "name": str | None}


def test_what_is_not_plain_is_left_to_an_import():
    found = written_annotations(CODE, "diffusion_lab.from_config.worse.TrainedAutoguidance")
    assert "scale" in found
    assert "schedule" not in found


@pytest.mark.parametrize(
    "option", ["data.batch_size=abc", "network.base_channels=abc", "trainer.log_every_n_steps=abc"]
)
def test_a_word_for_a_number_is_refused_before_torch_is_imported(tmp_path, option):
    program = "import sys; from diffusion_lab.commands import app; app.run('train', sys.argv[1:]); print('torch' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program, option], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f"{option}: this option must be a whole number" in said.stderr
    assert said.stdout.split() == ["False"]
