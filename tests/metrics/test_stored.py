import pytest
import torch

from diffusion_lab.metrics.stored import digest, read_tensors, write_tensors

TENSORS = {"features": torch.randn(8, 4), "count": torch.tensor(3)}


def test_a_broken_file_is_as_good_as_none(tmp_path):
    """Cut off, one bit flipped, with other facts, and of another key."""
    path = tmp_path / "file"
    write_tensors(path, "mine", TENSORS, "seconds")
    tensors, facts = read_tensors(path, "mine")
    assert facts == "seconds"
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert read_tensors(path, "another") is None
    whole = path.read_bytes()
    flipped = whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:]
    for content in (b"", b"garbage", whole[:-10], flipped, whole.replace(b"seconds", b"Seconds")):
        path.write_bytes(content)
        assert read_tensors(path, "mine") is None


@pytest.mark.parametrize(
    "other", [{"y": torch.zeros(2)}, {"x": torch.zeros(2).int()}, {"x": torch.zeros(2, 1)}], ids=str
)
def test_name_type_and_shape_are_in_the_digest(other):
    assert digest({"x": torch.zeros(2)}) != digest(other)
