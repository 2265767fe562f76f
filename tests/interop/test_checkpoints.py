"""A checkpoint of a stranger: tensors are read, nothing runs, and what cannot be read is said in one sentence."""

import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from diffusion_lab.interop.checkpoints import CheckpointError, read_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


class Code:
    def __reduce__(self):
        return (open, ("ran", "w"))  # leaves a trace where it runs


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
def test_code_in_a_file_does_not_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pt"
    if form == "torch":
        torch.save({"a": TENSORS["a"], "b": Code()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Code()}))
    with pytest.raises(CheckpointError, match=r"file\.pt (holds more than tensors|is damaged)"):
        read_tensors(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 100])
def test_half_a_file_is_damaged(tmp_path, suffix, kept):
    path = tmp_path / f"file{suffix}"
    (torch.save if suffix == ".pt" else save_file)(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(path)


# What cannot be turned into a dense tensor of plain numbers.
SPARSE, EMPTY = torch.eye(3).to_sparse(), torch.ones(3, device="meta")
COMPLEX, EIGHT_BITS = torch.ones(3, dtype=torch.complex64), torch.ones(3).to(torch.float8_e4m3fn)
REFUSED = [
    *((content, "is not a state dict") for content in ([1, 2], {}, {"a": 1}, {1: torch.ones(1)}, torch.ones(3))),
    ({"a": torch.zeros(1).expand(2**40)}, "more than the file"),
    *(({**TENSORS, "c": c}, "c is a tensor of .* only dense tensors") for c in (SPARSE, EMPTY, COMPLEX, EIGHT_BITS)),
]


@pytest.mark.parametrize(("content", "said"), REFUSED)
def test_what_is_no_state_dict_is_refused(tmp_path, content, said):
    path = tmp_path / "file.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=said):
        read_tensors(path)


def test_a_compressed_file_is_refused_before_it_unfolds(tmp_path):
    path, packed = tmp_path / "file.pt", tmp_path / "packed.pt"
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + (bytes(2**20) if name.endswith("data.pkl") else b""))
    with pytest.raises(CheckpointError, match=r"a compressed file, file/data\.pkl"):
        read_tensors(packed)


class Bytes:
    def __reduce__(self):
        return (bytearray, (2**50,))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_that_asks_for_bytes_gets_none(tmp_path, is_zip):
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(1), "b": Bytes()}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match="an array of bytes, which may be of any length"):
        read_tensors(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_tensors(tmp_path / "file.pt")
