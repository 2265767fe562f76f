"""Batches that are gathered on a device are those of the host, to the bit; a thread makes those of files, ahead of training."""

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusion_lab.conditions import Classes, Clusters, Field, Vector
from diffusion_lab.conditions.computed import LowResolution
from diffusion_lab.data import DataError
from diffusion_lab.data.arrays import Arrays
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.image_folder import ImageFolder
from diffusion_lab.data.loading import Held, ahead
from diffusion_lab.diffusion.condition_parts import parts

CPU = torch.device("cpu")
KINDS = {"levels": np.uint8, "many levels": np.uint16, "reals": np.float32}


def trainer(rank=0, ranks=1, of_parts=1, start=0):
    progress = SimpleNamespace(total=SimpleNamespace(processed=start))
    return SimpleNamespace(
        global_rank=rank,
        world_size=ranks,
        accumulate_grad_batches=of_parts,
        overfit_batches=0,
        strategy=SimpleNamespace(root_device=CPU),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )


def bits(batch):
    x, y = batch
    return [(part.dtype, part.shape, part.numpy().tobytes()) for part in (x, *parts(y))]


def shown(data, count, **place):
    data.trainer = trainer(**place)
    stream = iter(data.train_dataloader())
    return [bits(next(stream)) for _ in range(count)]


def arrays(folder, kind):
    """40 items of 2 channels and 4×6 pixels, with a class, a vector and a field each."""
    random, missing = np.random.default_rng(0), None
    if kind == "reals":
        x = random.normal(3, 2, (40, 2, 4, 6)).astype(np.float32)
        x[::3, 0, 1, 2], missing = np.nan, "mask"
    else:
        x = random.integers(np.iinfo(KINDS[kind]).max, size=(40, 2, 4, 6), dtype=KINDS[kind], endpoint=True)
    files = {"train": x, "train_labels": np.arange(40) % 3, "train_vectors": random.normal(size=(40, 3))}
    files["train_fields"] = random.normal(size=(40, 1, 2, 3)).astype(np.float32)
    for name, array in files.items():
        np.save(folder / f"{name}.npy", array)
    named = {name: f"{name}.npy" for name in files}
    data = Arrays(12, 5, root=str(folder), layout="nchw", flip=True, missing=missing, **named)
    conditions = {"classes": Classes(), "vector": Vector(), "field": Field()}
    if missing is None:
        conditions |= {"low_resolution": LowResolution(2), "clusters": Clusters(3, 4, 40)}
    data.condition_on(conditions)
    data.hold_back(4)
    data.train_on(0.8)
    data.prepare()
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_a_device_are_those_of_the_host(tmp_path, kind):
    """With flips, every kind of condition, missing values, a part of the images, several ranks and parts, and a resume."""
    data = arrays(tmp_path, kind)
    places = [{}, *({"rank": rank, "ranks": 2, "of_parts": 3, "start": 5} for rank in (0, 1))]
    host = [shown(data, 9, **place) for place in places]
    data.hold_on_device(True)
    assert [shown(data, 9, **place) for place in places] == host
    assert isinstance(data._held, Held)
    assert data._held.x.dtype == (torch.uint8 if kind == "levels" else torch.float32)
    data.teardown("fit")
    assert data._held is None


def test_a_gpu_holds_what_fits(monkeypatch):
    """By itself at most a quarter of its free memory, if told to all of it."""
    data, gpu = Digits(32, 0), SimpleNamespace(type="cuda")
    data.prepare()
    images, size = torch.arange(100), 100 * (64 + 8)
    monkeypatch.setattr(Held, "of", lambda show, images, *_: SimpleNamespace(size=72 * len(images)))

    def held(option, free):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
        return Held.wanted(option, None, images, 17, gpu)

    assert held("auto", 4 * size).size == size
    assert held("auto", 4 * size - 1) is None
    assert held(True, size).size == size
    with pytest.raises(DataError, match="on_device=true"):
        held(True, size - 1)
    assert held(False, 4 * size) is None
    assert Held.wanted("auto", None, images, 17, CPU) is None


def test_files_that_are_decoded_are_not_held(image_root):
    data = ImageFolder(4, 0, str(image_root), image_size=8)
    with pytest.raises(DataError, match="on_device=true"):
        data.hold_on_device(True)
    with pytest.raises(DataError, match="on_device=sometimes"):
        data.hold_on_device("sometimes")


def test_a_thread_makes_batches_ahead():
    """The first by the caller, the others by one thread, in order; it ends with the stream, and its errors are the caller's."""
    makers, ended = [], []

    def made():
        try:
            for number in range(5):
                makers.append(threading.current_thread())
                yield torch.tensor([number]), None
            raise DataError("a file broke")
        finally:
            ended.append(True)

    stream = ahead(made(), CPU)
    assert [int(next(stream)[0]) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="a file broke"):
        next(stream)
    assert makers[0] is threading.main_thread()
    assert len(set(makers)) == 2

    ended.clear()
    stream = ahead(made(), CPU)
    next(stream)
    stream.close()
    assert ended
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


BATCHES = """
import sys, numpy as np, torch
from diffusion_lab.data.arrays import Arrays

def anonymous():  # MiB that no file backs
    (line,) = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024

data = Arrays(32, 0, train=sys.argv[1], layout="nchw", max_bytes=2**20)
before = anonymous()
data.prepare()
most, stream = anonymous(), iter(data.train_dataloader())
for _ in range(100):
    x, y = next(stream)
    most = max(most, anonymous())
assert data.on_disk and x.shape == (32, 3, 64, 64)
print(most - before)
"""


@pytest.mark.thorough
@pytest.mark.needs("/proc")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells how much memory is anonymous")
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_file_may_be_larger_than_memory(tmp_path, dtype):
    """A sparse file of 512 MB is read, normalised and trained on in 200 MB that no file backs."""
    itemsize = np.dtype(dtype).itemsize
    shape = (2**29 // (3 * 64 * 64 * itemsize), 3, 64, 64)
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", dtype, shape)[-1, 0, 0, 0] = 1
    ran = subprocess.run(
        [sys.executable, "-c", BATCHES, tmp_path / "x.npy"], capture_output=True, text=True, check=True
    )
    assert float(ran.stdout) < 200
