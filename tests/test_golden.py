"""The commands write the numbers that are stored in golden.json (scripts/golden). docs/extend/maintaining.md has its rules."""

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "golden"


@pytest.fixture(scope="module")
def golden():
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("golden", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("golden", loader))
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("which", ["--quick", pytest.param("--slow", marks=pytest.mark.thorough)])
def test_commands_write_the_stored_numbers(which):
    command = [sys.executable, SCRIPT, which]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_case_is_stored(golden):
    assert list(json.loads(golden.STORED.read_text())) == list(golden.cases()[1])


def test_a_change_of_a_weight_is_a_difference(golden):
    before = {"0/models/raw.safetensors:a": np.ones(100, np.float32)}
    after = {"0/models/raw.safetensors:a": np.ones(100, np.float32)}
    after["0/models/raw.safetensors:a"][3] += 1e-6
    (key,) = before
    assert golden.same_value(before[key], before[key].copy(), None)
    assert not golden.same_value(after[key], before[key], None)
    assert golden.same_value(after[key], before[key], 1e-5)
    assert golden.same_summary(*(golden.summaries(x)[key.partition(":")[0]] for x in (after, before)))
    after[key][3] += 0.1
    assert not golden.same_value(after[key], before[key], 1e-5)
    assert not golden.same_summary(*(golden.summaries(x)[key.partition(":")[0]] for x in (after, before)))


def test_names_and_times_do_not_count(golden, tmp_path):
    values = []
    for name, seconds in (("digits-diffusion-0123456789ab", 1.0), ("digits-diffusion-ba9876543210", 2.0)):
        file = tmp_path / name / "outputs" / "runs" / name / "metrics.json"
        file.parent.mkdir(parents=True)
        content = {"values": {"fd_pixels": 3.0, "training_seconds": seconds}, "protocol": {"fingerprint": name}}
        file.write_text(json.dumps(content))
        values.append(golden.read(tmp_path / name, {}))
    assert values[0] == values[1] == {"runs/metrics.json:values.fd_pixels": 3.0}


def test_only_columns_of_seconds_are_left_out(golden):
    page = """<p>5 rows</p><table><tr><th>fd</th><th title="seconds for 1000 samples">s / 1000</th><th>kd</th></tr>
    <tr><td>1.5</td><td>0.7</td><td>2.5</td></tr><tr><td>3.5</td><td>0.9</td><td>4.5</td></tr></table>"""
    assert golden._numbers_in_text(page).tolist() == [1.5, 2.5, 3.5, 4.5, 5.0]
