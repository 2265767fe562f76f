"""A checkpoint of a stranger: tensors are read, nothing runs, and what cannot be read is said in one sentence."""

import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from diffusion_lab.interop.checkpoints import CheckpointError, read_tensors
from tests.hostile import Harm

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_tensors_come_back(tmp_path, form):
    path = tmp_path / ("file.safetensors" if form == "safetensors" else "file.pt")
    if form == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(OrderedDict(TENSORS), path, _use_new_zipfile_serialization=form == "zip")
    found = read_tensors(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_file_does_not_run(tmp_path, monkeypatch, recwarn, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pt"
    if form == "torch":
        torch.save({"a": TENSORS["a"], "b": Harm()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Harm()}))
    with pytest.raises(CheckpointError, match=r"file\.pt (holds more than tensors|is damaged)"):
        read_tensors(path)
    assert not (tmp_path / "harm").exists()
    assert not recwarn.list


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 100])
def test_half_a_file_is_damaged(tmp_path, suffix, kept):
    path = tmp_path / f"file{suffix}"
    (torch.save if suffix == ".pt" else save_file)(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {1: torch.ones(1)}, torch.ones(3)])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    path = tmp_path / "file.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is not a state dict"):
        read_tensors(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_tensors(tmp_path / "file.pt")
