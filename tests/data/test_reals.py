"""Real numbers of the user's own: every file and layout, the units that come back, missing values."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_lab.conditions import Vector
from diffusion_lab.conditions.units import Units
from diffusion_lab.data import DataError
from diffusion_lab.data.array_files import Stored
from diffusion_lab.data.arrays import Arrays
from diffusion_lab.data.checks import IncompleteError
from diffusion_lab.data.reals import Rows, summary
from tests.data.test_arrays import arrays

RANDOM = np.random.default_rng(0)
FIELDS = (RANDOM.standard_normal((30, 2, 5, 7)) * [[[3.0]], [[0.01]]] + [[[280.0]], [[-1.0]]]).astype(np.float32)


def all_of(data, split="train"):
    return torch.cat([x for x, _ in data.batches(split, 7)])


def npy(folder, x, name="a.npy"):
    np.save(folder / name, x)
    return name


def zarr(folder, x):
    array = pytest.importorskip("zarr").open_array(str(folder / "a.zarr"), mode="w", shape=x.shape, dtype=x.dtype)
    array[:] = x
    array.attrs["channel_names"] = ["t", "q"]
    return "a.zarr"


def hdf5(folder, x):
    with pytest.importorskip("h5py").File(folder / "a.h5", "w") as file:
        file.create_dataset("more/x", data=x, chunks=(4, *x.shape[1:]), compression="gzip")
        file["more/x"].attrs["channel_names"] = ["t", "q"]
    return "a.h5:more/x"


def npz(folder, x):
    np.savez(folder / "a.npz", x, channel_names=["t", "q"])
    return "a.npz"


@pytest.mark.needs("zarr and h5py")
@pytest.mark.parametrize("write", [zarr, hdf5, npz])
def test_every_file_holds_the_same_numbers(tmp_path, write):
    same = arrays(tmp_path, npy(tmp_path, np.asfortranarray(FIELDS)))
    data = arrays(tmp_path, write(tmp_path, FIELDS))
    assert data.identity == same.identity
    assert torch.equal(all_of(data), all_of(same))
    assert (data.shape, data.num_levels, data.num_train, data.num_test) == ((2, 5, 7), None, 27, 3)
    assert data.units.names == ["t", "q"]
    random_rows = data._splits["train"].values[torch.tensor([9, 2, 2, 17])]
    assert torch.equal(random_rows, all_of(data)[[9, 2, 2, 17]])


def test_units_are_of_what_is_trained_on(tmp_path):
    data = Arrays(batch_size=4, seed=0, train=npy(tmp_path, FIELDS.astype(float)), root=str(tmp_path))
    data.hold_back(5)
    data.prepare()
    z, others = all_of(data).double(), torch.cat([all_of(data, "test"), all_of(data, "validation")]).double()
    assert z.mean((0, 2, 3)).abs().max() < 1e-6
    assert (z.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6
    assert others.mean((0, 2, 3)).abs().max() > 1e-3
    x = data.units.restored(torch.cat([z, others]).float())
    assert sorted(x[:, 0, 0, 0].tolist()) == pytest.approx(sorted(FIELDS[:, 0, 0, 0].tolist()), rel=1e-6)


def test_moments_in_blocks_are_those_of_all(monkeypatch):
    """Also far from 0, where plain sums of squares cancel, and where values are missing."""
    x = RANDOM.standard_normal((50, 3, 4)) + 1e8
    x[RANDOM.random(x.shape) < 0.2] = np.nan
    rows = Rows(Stored("x", x.shape, x.dtype, x.__getitem__), axis=1)
    monkeypatch.setattr("diffusion_lab.data.reals._AT_ONCE", 700)
    chosen = torch.arange(50) % 3 > 0
    found = summary(rows, chosen)
    assert np.allclose(found.mean, np.nanmean(x[chosen], (0, 2)), rtol=1e-15)
    assert np.allclose(found.std, np.nanstd(x[chosen], (0, 2)), rtol=1e-6)
    assert found.num_missing == np.isnan(x).sum()
    assert torch.equal(found.missing, torch.from_numpy(np.isnan(x).any((1, 2))))


def test_density_in_units_differs_by_mean_log2_scale():
    units, z = Units([3.0, -1.0], [10.0, 0.5]), torch.randn(4, 2, 8, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor([[3.0], [-1.0]]), torch.tensor([[10.0], [0.5]]))
    of_x = -normal.log_prob(units.restored(z)).double().flatten(1).mean(1) / np.log(2)
    of_z = -torch.distributions.Normal(0, 1).log_prob(z).flatten(1).mean(1) / np.log(2)
    assert torch.allclose(of_x, of_z + units.log2_scale, atol=1e-4)


@pytest.mark.parametrize(
    ("normalize", "shift", "scale"),
    [("none", [0, 0], [1, 1]), ([280, 2], [280, 280], [2, 2]), ([[280, -1], [3, 0.01]], [280, -1], [3, 0.01])],
)
def test_normalisation_may_be_given(tmp_path, normalize, shift, scale):
    data = arrays(tmp_path, npy(tmp_path, FIELDS), normalize=normalize)
    assert (data.units.shift, data.units.scale) == (shift, scale)
    assert data.identity != arrays(tmp_path, "a.npy").identity


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((6, 3), None, (3,)),
        ((6, 2, 9), None, (2, 9)),
        ((6, 9, 2), "nlc", (2, 9)),
        ((6, 9), "nl", (1, 9)),
        ((6, 8, 9), "nhw", (1, 8, 9)),
        ((6, 8, 9, 2), "nhwc", (2, 8, 9)),
        ((6, 4, 5, 6), "ndhw", (1, 4, 5, 6)),
        ((6, 2, 4, 5, 6), None, (2, 4, 5, 6)),
        ((6, 4, 5, 6, 2), "ndhwc", (2, 4, 5, 6)),
    ],
)
def test_every_layout_has_its_shape(tmp_path, shape, layout, expected):
    x = RANDOM.standard_normal(shape)
    data = arrays(tmp_path, npy(tmp_path, x), layout=layout)
    assert data.shape == expected
    assert next(data.train_dataloader().__iter__())[0].shape == (4, *expected)


MISSING = np.where(RANDOM.random(FIELDS.shape) < 0.1, np.nan, FIELDS)
LEVELS = RANDOM.integers(0, 256, (6, 4, 4), np.uint8)
REFUSED = {
    "square": (FIELDS[:, 0], {}, "set data.layout=ncl, nlc, or nhw"),
    "channels last": (FIELDS.transpose(0, 2, 3, 1), {}, "set data.layout=nchw, nhwc, or ndhw"),
    "another layout": (FIELDS, {"layout": "ncl"}, "but data.layout=ncl: it must be"),
    "missing values": (MISSING, {}, r"has \d+ missing values \(NaN\) in \d+ of 30 rows: .*data.missing=mask"),
    "too large": (FIELDS.astype(float) * 1e300, {}, "values too large to normalise"),
    "infinite": (np.where(FIELDS > 284, np.inf, FIELDS), {"missing": "mask"}, r"has \d+ infinite values"),
    "no scale": (FIELDS, {"normalize": [0, 0]}, "scale above 0"),
    "names": (FIELDS, {"channel_names": ["t"]}, "there are 1 names for 2 channels"),
    "levels of floats": (FIELDS, {"num_levels": 256}, "real numbers have no levels"),
    "levels": (LEVELS, {"normalize": "none"}, "data.normalize is for floats"),
    "an empty array": (FIELDS[:0], {}, "has the shape"),
}


@pytest.mark.parametrize("door", REFUSED)
def test_what_is_no_real_data_is_refused(tmp_path, door):
    x, options, said = REFUSED[door]
    with pytest.raises(DataError, match=said):
        arrays(tmp_path, npy(tmp_path, x), **options)


@pytest.mark.needs("zarr and h5py")
def test_arrays_in_groups_are_found_and_named(tmp_path):
    group = pytest.importorskip("zarr").open_group(str(tmp_path / "g.zarr"), mode="w")
    group.create_array("more/x", data=FIELDS)
    hdf5(tmp_path, FIELDS)
    for file in ("g.zarr", "a.h5"):
        assert arrays(tmp_path, file).shape == arrays(tmp_path, f"{file}:more/x").shape == FIELDS.shape[1:]
        with pytest.raises(DataError, match=rf"no array more; it holds more/x: choose one with {file}:NAME"):
            arrays(tmp_path, f"{file}:more")


def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.h5").touch()
    monkeypatch.setattr("diffusion_lab.data.array_files.is_installed", lambda module: False)
    with pytest.raises(DataError, match=r"needs the package h5py: pip install 'diffusion-lab\[hdf5\]'"):
        arrays(tmp_path, "a.h5")


def test_missing_values_stay_in_batches_and_out_of_scores(tmp_path):
    x = FIELDS.astype(float)
    x[:9, 0, 0, 0] = np.nan
    data = arrays(tmp_path, npy(tmp_path, x), test=npy(tmp_path, FIELDS, "b.npy"), missing="mask")
    batches = [x for (x, _), _ in zip(data.train_dataloader(), range(30), strict=False)]
    assert torch.cat(batches)[:, 0, 0, 0].isnan().any()
    assert all_of(data, "test").isfinite().all()
    with pytest.raises(IncompleteError, match="9 of 30 train items"):
        all_of(data)


@pytest.mark.parametrize(("of", "noted"), [(LEVELS / 255, True), (LEVELS.astype(float), True), (FIELDS, False)])
def test_levels_that_are_stored_as_floats_are_noted(tmp_path: Path, of, noted):
    layout = "nhw" if of.ndim == 3 else None
    data = arrays(tmp_path, npy(tmp_path, np.asarray(of)), layout=layout)
    assert any("np.uint8" in note for note in data.notes()) == noted


def test_what_lies_beside_is_normalised_by_training(tmp_path):
    """Vectors and fields, also beside whole levels; fields of bytes become −1 to 1."""
    vectors, bytes_ = RANDOM.standard_normal((6, 3)) * 5 + 100, RANDOM.integers(0, 256, (6, 1, 2, 2), np.uint8)
    named = {"train_vectors": npy(tmp_path, vectors, "v.npy"), "train_fields": npy(tmp_path, bytes_, "f.npy")}
    for x, layout in ((LEVELS, None), (FIELDS[:6], None)):
        data = arrays(tmp_path, npy(tmp_path, x), layout=layout, **named)
        given = data._splits["train"].beside
        found = given["vector"][torch.arange(5)]
        assert np.allclose(found, vectors[given["vector"].places])
        fields = given["field"][torch.arange(5)]
        assert np.allclose(fields, bytes_[given["field"].places])
        other = arrays(tmp_path, "a.npy", train_vectors=npy(tmp_path, vectors + 1, "w.npy"))
        assert other.identity != data.identity
    vectors[0, 0] = np.nan
    npy(tmp_path, vectors, "w.npy")
    with pytest.raises(DataError, match=r"data.train_vectors=.* 1 missing values \(NaN\) in 1 of 6 rows"):
        arrays(tmp_path, "a.npy", train_vectors="w.npy")


def test_vectors_keep_the_digits_of_large_offsets(tmp_path):
    """Years of 2020: float32 has steps of 1e-4 there. All are normalised by the moments of all of them."""
    years = 2020 + RANDOM.uniform(0, 1e-3, (3000, 1))
    years[-1] = 2021
    of_train, of_test = npy(tmp_path, years[:2900], "v.npy"), npy(tmp_path, years[2900:], "w.npy")
    x = RANDOM.standard_normal((3000, 2))
    files = npy(tmp_path, x[:2900]), npy(tmp_path, x[2900:], "b.npy")
    data = Arrays(8, 0, *files, root=str(tmp_path), train_vectors=of_train, test_vectors=of_test)
    data.condition_on({"vector": Vector()})
    data.prepare()
    y = torch.cat([y for _, y in data.batches("train", 500)])
    mean, std = years[:2900].mean(), years[:2900].std()
    assert torch.allclose(y.double(), torch.from_numpy((years[:2900] - mean) / std), atol=1e-5)
    assert data.conditions["vector"].record()["shift"][0] == pytest.approx(mean, abs=1e-9)


def test_a_batch_reads_its_rows_only():
    """In ascending order, each once, and neighbours as one slice, which is how files are fast."""
    x, read = RANDOM.standard_normal((1000, 2, 3)), []
    stored = Stored("x", x.shape, x.dtype, lambda which: read.append(which) or x[which])
    rows = Rows(stored, 1).only(torch.arange(1, 1000, 2))
    for wanted in ([7, 3, 3, 400], [5, 4, 6], [499]):
        found = rows[torch.tensor(wanted)]
        assert torch.equal(found, torch.from_numpy(x[1::2][wanted]))
    assert [np.arange(1000)[which].tolist() for which in read] == [[7, 15, 801], [9, 11, 13], [999]]


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_a_file_that_changes_during_training_is_named(tmp_path, change):
    data = arrays(tmp_path, npy(tmp_path, FIELDS), batch_size=4)
    batches = iter(data.train_dataloader())
    next(batches)
    change(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"^data\.train=.*a\.npy is not a readable array"):
        list(islice(batches, 9))
