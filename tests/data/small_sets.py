"""Published data sets in their true formats, small enough for a test.

Where torchvision, or we, know what the published files are (sizes, MD5s), `patch` puts the small ones in their place.
"""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from diffusion_lab.data import mnist

SIZES = {"train": 20, "t10k": 10}


def write_idx(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """An MNIST and a Fashion-MNIST of 20 + 10 images, as torchvision keeps them."""
    patch.setattr(mnist, "_SIZES", SIZES)
    random = np.random.default_rng(0)
    for part, size in SIZES.items():
        images = random.integers(256, size=(size, 28, 28), dtype=np.uint8)
        labels = (np.arange(size) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            for name in ("MNIST", "FashionMNIST"):
                folder = root / name / "raw"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return root


def write_cifar10(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Five batches of four images, and ten to test."""
    batches = {f"data_batch_{i}": {"labels": [(4 * i + j) % 10 for j in range(4)]} for i in range(1, 6)}
    batches["test_batch"] = {"labels": list(range(10))}
    return _write_cifar(root, patch, datasets.CIFAR10, batches, {"label_names": [str(i) for i in range(10)]})


def write_cifar100(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """One image of each class to train on, one to test."""
    batches = {
        split: {"fine_labels": list(range(100)), "coarse_labels": [i // 5 for i in range(100)]}
        for split in ("train", "test")
    }
    names = {"fine_label_names": [str(i) for i in range(100)], "coarse_label_names": [str(i) for i in range(20)]}
    return _write_cifar(root, patch, datasets.CIFAR100, batches, names)


def _write_cifar(root: Path, patch, source: type[datasets.CIFAR10], batches: dict, meta: dict) -> Path:
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, batch in batches.items():
        (labels, *_) = batch.values()
        pixels = random.integers(256, size=(len(labels), 3 * 32 * 32), dtype=np.uint8)
        content = {"batch_label": name, "data": pixels, "filenames": [f"{i}.png" for i in labels], **batch}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / source.meta["filename"]).write_bytes(pickle.dumps(meta, protocol=2))
    for files in ("train_list", "test_list"):
        patch.setattr(source, files, [[name, _md5(folder / name)] for name, _ in getattr(source, files)])
    patch.setattr(source, "meta", {**source.meta, "md5": _md5(folder / source.meta["filename"])})
    return root


def write_celeba(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Twelve faces to train on, three for validation, five to test; every other one smiles, and is white."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    parts = [0] * 12 + [1] * 3 + [2] * 5
    names = [f"{i:06}.jpg" for i in range(1, len(parts) + 1)]
    for i, name in enumerate(names):
        pixels = np.full((218, 178, 3), (30 + 10 * i) if i % 2 else 255, dtype=np.uint8)
        pixels[:20], pixels[-20:] = 0, 0  # outside the square in the middle
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=95)
    attributes = [f"Attribute_{i}" for i in range(40)]
    attributes[31] = "Smiling"
    no_yes = ("-1", " 1")
    smiles = [[no_yes[i % 2 if kind != "Smiling" else 1 - i % 2] for kind in attributes] for i in range(len(names))]
    eyes = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    lists = {  # the second line, if any, and what follows each name
        "list_eval_partition.txt": ("", parts),
        "identity_CelebA.txt": ("", range(2880, 2880 + len(names))),
        "list_bbox_celeba.txt": ("image_id x_1 y_1 width height", ["   95  71 226 313"] * len(names)),
        "list_landmarks_align_celeba.txt": (eyes, ["69 109  106 113   77 142   73 152  108 154"] * len(names)),
        "list_attr_celeba.txt": (" ".join(attributes) + " ", map(" ".join, smiles)),
    }
    for file, (head, facts) in lists.items():
        rows = [f"{name} {fact}" for name, fact in zip(names, facts, strict=True)]
        (folder / file).write_text("\n".join([*([str(len(names)), head] if head else []), *rows]) + "\n")
    files = datasets.CelebA.file_list
    published = [(file, _md5(folder / name) if name in lists else md5, name) for file, md5, name in files]
    patch.setattr(datasets.CelebA, "file_list", published)
    return root


def write_imagenet64(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Twelve images to train on and five to validate, as the downsampled ImageNet unpacks."""
    random = np.random.default_rng(0)
    for folder, size in (("train_64x64", 12), ("valid_64x64", 5)):
        (root / folder).mkdir(parents=True)
        for i in range(size):
            pixels = random.integers(256, size=(64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i:07}.png")
    return root


def write_images(root: Path, patch: pytest.MonkeyPatch | None = None) -> Path:
    """Twenty pictures of assorted sizes and kinds in two class folders."""
    random = np.random.default_rng(0)
    for i in range(20):
        folder = root / ("bees" if i % 2 else "ants")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(256, size=(5 + i, 30 - i, 3), dtype=np.uint8)
        suffix, mode = (("png", "RGB"), ("jpg", "RGB"), ("bmp", "L"), ("gif", "P"), ("png", "RGBA"))[i % 5]
        Image.fromarray(pixels).convert(mode).save(folder / f"{i:02}.{suffix}")
    (root / "notes.txt").write_text("not an image")
    return root


def write_arrays(root: Path, patch: pytest.MonkeyPatch | None = None) -> Path:
    """Twenty images of two channels, 5×7 pixels and 16 bits, in two classes."""
    random = np.random.default_rng(0)
    images = random.integers(65536, size=(20, 5, 7, 2), dtype=np.uint16)
    images[:, 0, 0, 0] = 65535
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "train.npz", images=images, labels=np.arange(20) % 3 > 0)
    return root


def write_emoji(root: Path, patch: pytest.MonkeyPatch | None = None) -> Path:
    """Thirty drawings with transparency, three of a group, in three classes."""
    random, groups = np.random.default_rng(0), np.repeat(np.arange(10), 3)
    root.mkdir(parents=True)
    images = random.integers(256, size=(30, 64, 64, 4), dtype=np.uint8)
    images[:, :32, :, 3] = 0
    names = np.frombuffer(b"a\nb\nc", np.uint8)
    np.savez(root / "emoji.npz", images=images, labels=groups % 3, groups=groups, names=names)
    return root


def write_hf_dataset(root: Path, patch: pytest.MonkeyPatch | None = None) -> Path:
    """Twenty grey images of 5×7 pixels and 16 bits in two classes, and four to test."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    random = np.random.default_rng(0)
    pixels = random.integers(65536, size=(24, 5, 7), dtype=np.uint16)
    pixels[:, 0, 0] = 65535
    columns = {"image": [Image.fromarray(each) for each in pixels], "label": [i % 2 for i in range(24)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})
    whole = datasets.Dataset.from_dict(columns, features=features)
    parts = {"train": whole.select(range(20)), "test": whole.select(range(20, 24))}
    datasets.DatasetDict(parts).save_to_disk(str(root))
    return root


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


# conf/data/<name>.yaml -> what writes a small one into a folder, which data.root then names.
SMALL: Mapping[str, Callable[[Path, pytest.MonkeyPatch], Path]] = {
    "mnist": write_idx,
    "fashion_mnist": write_idx,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "celeba": write_celeba,
    "emoji": write_emoji,
    "imagenet64": write_imagenet64,
    "image_folder": write_images,
    "arrays": write_arrays,
    "hf_dataset": write_hf_dataset,
}
