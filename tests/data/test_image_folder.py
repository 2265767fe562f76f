"""A folder of the user's images: what is shown, what counts, and what is read again."""

import itertools
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.data import DataError, image_folder
from diffusion_lab.data import read_image as reading
from diffusion_lab.data.image_folder import ImageFolder
from diffusion_lab.data.module import images_at_once
from diffusion_lab.data.order import BatchOrder
from diffusion_lab.data.read_image import read_image


def folder(root: Path, **options) -> ImageFolder:
    return ImageFolder(**{"batch_size": 4, "seed": 0, "root": str(root), "image_size": 8, "num_workers": 0} | options)


def identity(root: Path, **options) -> str:
    data = folder(root, **options)
    data.prepare()
    return data.identity


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_training_batches_are_those_of_the_order_with_and_without_workers(image_root: Path) -> None:
    images, labels = next(folder(image_root, classes="subfolders").batches("train", 100))
    order = BatchOrder(18, 4, seed=3, flip=True)
    for num_workers in (0, 2):
        data = folder(image_root, classes="subfolders", seed=3, flip=True, num_workers=num_workers)
        for k, (x, y) in enumerate(itertools.islice(data.train_dataloader(), 7)):
            indices, mirrored = order.batch(k)
            expected = torch.where(mirrored[:, None, None, None], images[indices].flip(-1), images[indices])
            assert torch.equal(x, expected)
            assert torch.equal(y, labels[indices])


def test_small_squares_of_large_images_are_means(tmp_path: Path) -> None:
    # Alternating rows without antialiasing would come out black or white.
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[::2] = 255
    image = read_image(save(tmp_path / "rows.png", pixels), image_size=8, channels=1).float()
    assert (image - 127.5).abs().max() < 16


def test_the_held_out_share_is_fixed_and_apart(image_root: Path) -> None:
    data = folder(image_root, test_fraction=0.3)
    train, test = (next(data.batches(split, 100))[0].flatten(1) for split in ("train", "test"))
    assert (len(train), len(test)) == (14, 6)
    assert len(torch.cat([train, test]).unique(dim=0)) == 20
    assert torch.equal(test, next(folder(image_root, test_fraction=0.3, seed=7).batches("test", 100))[0].flatten(1))


def test_folders_train_and_test_are_the_splits(image_root: Path, tmp_path: Path) -> None:
    for split, first, last in (("train", 0, 15), ("test", 15, 20)):
        for path in sorted(image_root.rglob("*.*")):
            if path.suffix != ".txt" and first <= int(path.stem) < last:
                target = tmp_path / "split" / split / path.parent.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    data = folder(tmp_path / "split", classes="subfolders")
    data.prepare()
    assert (data.num_train, data.num_test, data.class_names) == (15, 5, ["ants", "bees"])
    shutil.rmtree(tmp_path / "split" / "test" / "bees")
    assert folder(tmp_path / "split", classes="subfolders").batches("test", 1) is not None
    shutil.rmtree(tmp_path / "split" / "train" / "ants")
    with pytest.raises(DataError, match="no training images of the class ants"):
        folder(tmp_path / "split", classes="subfolders").prepare()
    shutil.rmtree(tmp_path / "split" / "train")
    with pytest.raises(DataError, match="train is missing: give both"):
        folder(tmp_path / "split").prepare()


def test_the_identity_follows_names_content_and_what_is_made_of_them(image_root: Path, tmp_path: Path) -> None:
    original = identity(image_root)
    shutil.copytree(image_root, tmp_path / "elsewhere")
    assert identity(tmp_path / "elsewhere", batch_size=8, seed=3, flip=True, num_workers=1) == original

    assert identity(image_root, fit="crop", alpha=[255, 255, 255]) == original
    options = [{"image_size": 9}, {"channels": 1}, {"classes": "subfolders"}, {"test_fraction": 0.2}]
    options += [{"fit": "pad"}, {"fit": "stretch"}, {"alpha": "black"}]
    variants = [identity(image_root, **each) for each in options]
    path = image_root / "ants" / "00.png"
    path.rename(path.with_stem("aa"))
    variants.append(identity(image_root))
    path.with_stem("aa").rename(path)
    assert identity(image_root) == original
    save(path, np.zeros((8, 8), dtype=np.uint8))
    variants.append(identity(image_root))
    assert len({original, *variants}) == 10


def test_folders_without_images_and_strays_are_named(image_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root=.*/nowhere is not a folder"):
        folder(tmp_path / "nowhere").prepare()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no images: their names must end in one of .*\.png"):
        folder(tmp_path / "empty").prepare()
    save(tmp_path / "one" / "a.png", np.zeros((8, 8), dtype=np.uint8))
    with pytest.raises(DataError, match="one holds one image: at least two"):
        folder(tmp_path / "one").prepare()
    (tmp_path / "one" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the 1 files in .* is an image that can be used: .*a\.png is empty"):
        folder(tmp_path / "one", on_error="skip").prepare()
    save(image_root / "stray.png", np.zeros((8, 8), dtype=np.uint8))
    with pytest.raises(DataError, match=r"stray\.png has no class"):
        folder(image_root, classes="subfolders").prepare()


@pytest.mark.thorough
def test_a_worker_that_dies_ends_the_run_in_bounded_time(image_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(image_root, num_workers=2)
    data.prepare()
    monkeypatch.setattr(image_folder, "read_image", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match=r"^A process that decodes images ended .*data\.num_workers=1.*$"):
        list(data.batches("train", 4))


def test_what_is_skipped_counts_neither_in_the_number_nor_in_the_identity(
    image_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_root, tmp_path / "clean")
    broken = ["bees/zz.jpg", *(f"ants/aa{i:02}.png" for i in range(11))]
    for name in broken:
        (image_root / name).write_bytes(b"no image")
    data = folder(image_root, on_error="skip", classes="subfolders")
    data.prepare()
    assert (data.num_train, data.num_test) == (18, 2)
    assert data.identity == identity(tmp_path / "clean", classes="subfolders")
    (said,) = capsys.readouterr().err.splitlines()
    assert "12 of 32 files" in said
    assert all(name in said for name in broken)


@pytest.mark.parametrize(("size", "kept"), [((4, 8), (10, 20)), ((8, 4), (20, 10)), ((2, 3), (13, 20))])
def test_the_middle_with_the_wanted_proportions_is_kept(
    tmp_path: Path, size: tuple[int, int], kept: tuple[int, int]
) -> None:
    pixels = np.zeros((20, 20), dtype=np.uint8)
    top, left = ((20 - side) // 2 for side in kept)
    pixels[top : top + kept[0], left : left + kept[1]] = 200
    image = read_image(save(tmp_path / "a.png", pixels), image_size=size, channels=1)
    assert image.shape == (1, *size)
    assert image.unique().tolist() == [200]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_sixteen_bits_are_kept_where_they_are_wanted(tmp_path: Path, num_workers: int) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(65536, size=(6, 4, 7), dtype=np.uint16)
    for i, image in enumerate(pixels):
        save(tmp_path / f"{i}.png", image)
    save(tmp_path / "6.png", (pixels[0] >> 8).astype(np.uint8))
    data = folder(tmp_path, image_size=[4, 7], channels=1, num_levels=65536, flip=True, num_workers=num_workers)
    shown = torch.cat([next(data.batches(split, 9))[0] for split in ("train", "test")]).double()
    expected = torch.from_numpy(np.concatenate([pixels, (pixels[:1] >> 8) * 257]).astype(float))
    levels = ((shown + 1) / 2 * 65535).round()[:, 0]
    assert data.shape == (1, 4, 7)
    assert sorted(levels.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())
    mirrored, _ = next(iter(data.train_dataloader()))
    assert all(((x == shown.float()) | (x.flip(-1) == shown.float())).flatten(1).all(1).any() for x in mirrored)


# ---- the second start reads no file again, unless something says that it may have changed ----


@pytest.fixture
def checked(image_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, as they are; time has passed since they were written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clock = time.time
    monkeypatch.setattr(reading.time, "time", lambda: clock() + 10)
    names: list[str] = []
    check = image_folder.check_image

    def watched(path: Path, *arguments) -> None:
        names.append(path.name)
        check(path, *arguments)

    monkeypatch.setattr(image_folder, "check_image", watched)
    return names


def test_a_second_start_reads_what_may_have_changed_alone(image_root: Path, checked: list[str]) -> None:
    """Bytes of a file may change while its size and time do not. Other rules forget what was allowed."""
    first = identity(image_root)
    assert len(checked) == 20
    checked.clear()
    assert identity(image_root) == first
    assert checked == []
    path = image_root / "ants" / "02.bmp"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert identity(image_root) != first
    assert checked == ["02.bmp"]
    with pytest.raises(DataError, match=r"more than data\.max_pixels=100"):
        identity(image_root, max_pixels=100)


def test_a_broken_file_is_never_remembered_and_the_good_ones_are(image_root: Path, checked: list[str]) -> None:
    (image_root / "ants" / "zz.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"zz\.png"):
        identity(image_root)
    first = identity(image_root, on_error="skip")  # reads what the error left unread
    checked.clear()
    assert identity(image_root, on_error="skip") == first
    assert checked == ["zz.png"]


def test_what_was_just_written_is_not_remembered(image_root: Path, checked: list[str], monkeypatch) -> None:
    monkeypatch.setattr(reading, "_SETTLED_SECONDS", 60.0)
    identity(image_root)
    identity(image_root)
    assert len(checked) == 40


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_a_broken_memory_is_no_memory(image_root: Path, checked: list[str], tmp_path: Path, content: bytes) -> None:
    first = identity(image_root)
    (memory,) = (tmp_path / "cache").rglob("*.json")
    memory.write_bytes(content)
    checked.clear()
    assert identity(image_root) == first
    assert len(checked) == 20


@pytest.mark.parametrize(("side", "trained", "scored"), [(8, 32, 128), (64, 32, 128), (128, 32, 32), (256, 16, 8)])
def test_default_batches_of_large_images_are_small(image_root: Path, side: int, trained: int, scored: int) -> None:
    data = folder(image_root, image_size=side, batch_size=None)
    assert (data.batch_size, images_at_once(data.shape)) == (trained, scored)
    assert folder(image_root, image_size=side, batch_size=5).batch_size == 5


def wide(tmp_path: Path) -> Path:
    """16 × 8 pixels: black, red, red, black quarters."""
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, 4:12, 0] = 255
    return save(tmp_path / "wide.png", pixels)


def test_crop_pad_and_stretch_show_other_parts(tmp_path: Path) -> None:
    crop, pad, stretch = (
        read_image(wide(tmp_path), 8, 3, fit=fit, background=(0, 0, 255)).permute(1, 2, 0)
        for fit in ("crop", "pad", "stretch")
    )
    red, blue, black = (torch.tensor(c, dtype=torch.uint8) for c in ((255, 0, 0), (0, 0, 255), (0, 0, 0)))
    assert (crop == red).all()
    assert (pad[[0, 1, 6, 7]] == blue).all()
    assert (pad[2:6, [0, 7]] == black).all()
    assert (pad[2:6, 3:5] == red).all()
    assert (stretch[:, [0, 7]] == black).all()
    assert (stretch[:, 3:5] == red).all()


def test_padding_knows_grey_and_sixteen_bits(tmp_path: Path) -> None:
    shown = [
        read_image(wide(tmp_path), 8, 1, deep=deep, fit="pad", background=(9, 9, 9)).long() for deep in (False, True)
    ]
    assert [int(x[0, 0, 0]) for x in shown] == [9, 9 * 257]


def test_transparent_parts_are_a_colour_or_a_channel(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 200, dtype=np.uint8)
    pixels[:4, :, 3], pixels[4:, :, 3] = 0, 255
    path = save(tmp_path / "half.png", pixels)
    on_green = read_image(path, 8, 3, background=(0, 128, 0))
    assert on_green[:, 0, 0].tolist() == [0, 128, 0]
    assert on_green[:, 7, 0].tolist() == [200] * 3
    kept = read_image(path, 8, 4, background=(1, 2, 3))
    assert kept[:, 0, 0].tolist() == [1, 2, 3, 0]
    assert kept[:, 7, 0].tolist() == [200, 200, 200, 255]
    padded = read_image(path, [8, 16], 4, fit="pad")
    assert padded[:, 0, 0].tolist() == [255, 255, 255, 0]


@pytest.mark.parametrize("alpha", ["whitish", [1, 2], [1, 2, 256], "rgba(1,2,3,4)"])
def test_what_is_no_colour_is_refused(image_root: Path, alpha) -> None:
    with pytest.raises(DataError, match=r"data.alpha=.* is no colour"):
        folder(image_root, alpha=alpha)


SUFFIXES = ("png", "jpg", "bmp", "gif", "png")
ROWS = [f"{('ants', 'bees')[i % 2]}/{i:02}.{SUFFIXES[i % 5]},{10 - i % 3},{i},{i / 2}" for i in range(20)]


def table(image_root: Path, rows: list[str]) -> Path:
    file = image_root / "t.csv"
    file.write_text("\n".join(["file,kind,size,age", *rows]))
    return file


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_classes_and_vectors_come_from_a_table(image_root: Path, separator: str) -> None:
    file = table(image_root, ROWS)
    file.write_text(file.read_text().replace(",", separator), encoding="utf-8-sig")
    data = folder(image_root, table="t.csv", label_column="kind", vector_columns=["age", "size"])
    data.prepare()
    assert data.class_names == ["8", "9", "10"]  # whole numbers in their order
    assert data.num_classes == 3
    for split in ("train", "test"):
        images = data._images[split]
        numbers = torch.tensor([float(path.stem) for path in images.paths])
        assert torch.equal(images.given["vector"], torch.stack([numbers / 2, numbers], dim=1))
        assert torch.equal(images.given["classes"], (2 - numbers % 3).long())
    assert identity(image_root, table="t.csv", vector_columns=["age"]) != identity(image_root)


@pytest.mark.parametrize(
    ("options", "rows", "said"),
    [
        ({"label_column": None}, ROWS, "data.table=t.csv: set data.table=FILE.csv together with data.label_column"),
        ({"table": None}, ROWS, "data.table=None: set data.table=FILE.csv together"),
        ({"classes": "subfolders"}, ROWS, "the class is one of them"),
        ({"label_column": "colour"}, ROWS, "has no column colour: it has kind, size, age"),
        ({}, ["ants/00.png,a,1,2"], r"has no row for ants/02.bmp \(and 18 more\)"),
        ({}, [*ROWS, "ants/99.png,8,1,1"], "a row for ants/99.png, which is no image"),
        ({}, ["ants/00.png,a,1"], "row of ants/00.png has 3 entries, the header 4"),
        ({}, ["ants/00.png, ,1,2"], "kind of ants/00.png is empty"),
        ({}, ["ants/00.png,a,1,2"] * 2, "two rows for ants/00.png"),
        ({"vector_columns": ["age"]}, ["ants/00.png,a,1,nan"], "age=nan of ants/00.png is not a finite"),
        ({"table": "é.csv"}, ROWS, "é.csv is not a readable CSV file in UTF-8"),
        ({"table": "twice.csv"}, ROWS, "twice.csv has 2 columns called kind: rename one"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(image_root: Path, options, rows, said) -> None:
    table(image_root, rows)
    (image_root / "é.csv").write_text("file,kind\nants/00.png,é", encoding="latin-1")
    (image_root / "twice.csv").write_text("file,kind,kind\nants/00.png,a,b")
    with pytest.raises(DataError, match=said):
        folder(image_root, **{"table": "t.csv", "label_column": "kind"} | options).prepare()


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, ["96×64 pixels to its middle 64×64"]), ({"fit": "pad"}, []), ({"image_size": [2, 3]}, [])],
)
def test_it_says_that_images_are_cropped(tmp_path, options, said):
    for name in "ab":
        save(tmp_path / f"{name}.png", np.zeros((64, 96, 3), np.uint8))
    data = folder(tmp_path, batch_size=1, **options)
    data.prepare()
    notes = data.notes()
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))
