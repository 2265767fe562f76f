"""Which devices there are and what may be asked of them; the machine is a stand-in."""

import pytest

from diffusion_lab.training.devices import requested, visible_gpus
from tests.machine import UUIDS

MIG = "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d"


@pytest.mark.parametrize(
    ("restriction", "found", "visible"),
    [
        (None, 2, ["0", "1"]),
        ("7, 2", 2, ["7", "2"]),
        (f"{UUIDS[3]},{MIG}", 2, [UUIDS[3], MIG]),
        ("0,8,1", 1, ["0"]),  # CUDA takes nothing behind what does not exist
        ("", 0, []),
    ],
)
def test_visible_are_the_names_that_cuda_finds(monkeypatch, restriction, found, visible):
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", restriction or "")
    if restriction is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert list(visible_gpus()) == visible


@pytest.mark.parametrize(
    ("accelerator", "devices", "num_gpus", "on_gpu", "size"),
    [
        ("auto", 1, 8, True, 1),
        ("auto", "auto", 8, True, 8),
        ("cuda", "2", 3, True, 2),
        ("cpu", "auto", 8, False, 1),
        ("auto", -1, 0, False, 1),
        ("auto", [2, 0], 3, True, 2),
    ],
)
def test_what_the_options_ask_for(accelerator, devices, num_gpus, on_gpu, size):
    request = requested(accelerator, devices, [str(index) for index in range(num_gpus)])
    assert (request.on_gpu, request.size) == (on_gpu, size)


def test_a_list_says_which():
    request = requested("auto", [2, 0], ["a", "b", "c"])
    assert [request.index(rank) for rank in range(2)] == [2, 0]


@pytest.mark.parametrize(
    ("accelerator", "devices", "num_gpus", "said"),
    [
        ("gpu", 1, 0, r"trainer\.accelerator=gpu: there is no GPU here that PyTorch can use \(CUDA_VISIBLE_DEVICES=\)"),
        ("auto", 9, 8, r"trainer\.devices=9: the number of GPUs visible here is 8 \(CUDA_VISIBLE_DEVICES=\)"),
        *(("cpu", wrong, 0, r"give a number of devices") for wrong in (0, -2, "many", "0,1", 1.5, [], [0, 0], [-1])),
    ],
)
def test_what_there_is_not_is_refused(monkeypatch, accelerator, devices, num_gpus, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=said):
        requested(accelerator, devices, [str(index) for index in range(num_gpus)])


def test_more_processes_than_cores_are_refused():
    assert requested("cpu", 2, [], cores=2).size == 2
    assert requested("auto", 8, list("01234567"), cores=2).size == 8, "a process of a GPU shares the cores"
    with pytest.raises(ValueError, match=r"^devices=99: each process needs a core of its own; .* is 2"):
        requested("cpu", 99, [], cores=2, prefix="")
