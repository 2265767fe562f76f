from pathlib import Path

import pytest

from diffusion_lab.data import DataError
from diffusion_lab.data.celeba import CelebA
from tests.data.small_sets import write_celeba


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_celeba(tmp_path, monkeypatch)


def celeba(root: Path, **options) -> CelebA:
    return CelebA(**{"batch_size": 4, "seed": 0, "root": str(root), "image_size": 16, "num_workers": 0} | options)


def test_the_split_is_the_authors_and_the_middle_square_is_shown(root: Path) -> None:
    data = celeba(root)
    x, y = next(data.batches("train", 100))
    assert (data.num_train, data.num_test, data.num_classes, data.shape) == (12, 5, None, (3, 16, 16))
    assert y is None
    levels = ((x + 1) * 127.5).round()
    assert levels[::2].eq(255).all()  # no trace of the black bars above and below
    assert (levels[1::2].flatten(1).mean(1) - (30 + 10 * (2 * levels.new_tensor(range(6)) + 1))).abs().max() < 2


def test_an_attribute_is_two_classes(root: Path) -> None:
    data = celeba(root, attribute="Smiling")
    x, y = next(data.batches("test", 100))
    assert data.num_classes == 2
    assert y.tolist() == [0, 1, 0, 1, 0]  # images 16 … 20
    assert x[y == 1].eq(1).all()
    assert data.identity != identity(root)
    with pytest.raises(DataError, match=r"Smile is not an attribute of CelebA: choose one of .*, Smiling, .*"):
        celeba(root, attribute="Smile").prepare()


def identity(root: Path, **options) -> str:
    data = celeba(root, **options)
    data.prepare()
    return data.identity


def test_a_missing_face_is_named_or_left_out_with_its_label(root: Path) -> None:
    whole = identity(root)
    (root / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(DataError, match=r"000002\.jpg cannot be read \(No such file or directory\)"):
        celeba(root).prepare()
    data = celeba(root, on_error="skip", attribute="Smiling")
    _, y = next(data.batches("train", 100))
    assert data.num_train == 11
    assert y.tolist() == [1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert identity(root, on_error="skip") != whole
    for i in range(16, 21):
        (root / "celeba" / "img_align_celeba" / f"{i:06}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="holds no test images that can be used"):
        celeba(root, on_error="skip", attribute="Smiling").prepare()


def test_what_is_missing_is_named_and_where_to_put_it(root: Path, tmp_path: Path) -> None:
    (root / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(DataError, match=r"list_eval_partition\.txt is not the published file"):
        celeba(root).prepare()
    (root / "celeba" / "list_attr_celeba.txt").unlink()
    advice = rf"unpack img_align_celeba\.zip in {root / 'celeba'} and put list_attr_celeba\.txt, .* there"
    with pytest.raises(DataError, match=rf"list_attr_celeba\.txt is missing: set data\.download=true, or {advice}"):
        celeba(root).prepare()
