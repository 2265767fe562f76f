import pytest
import torch

from diffusion_lab.diffusion import SampleNoise, derive_seed
from diffusion_lab.diffusion.noise import philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(counter, key, expected):
    assert philox(torch.tensor(counter)[:, None], key).flatten().tolist() == expected


def test_noise_is_standard_normal():
    x = SampleNoise(3, torch.arange(4000)).initial((5, 7)).double()
    n = x.numel()
    assert abs(float(x.mean())) < 4 / n**0.5
    assert abs(float(x.square().mean()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float(x.pow(3).mean())) < 4 * (15 / n) ** 0.5
    assert abs(float(x.pow(4).mean()) - 3) < 4 * (96 / n) ** 0.5
    assert torch.unique(x).numel() > 0.999 * n  # float32 ties aside, no draw repeats


def test_a_row_depends_on_its_index_and_nothing_else():
    like = torch.zeros(6, 3, 2, 2)
    indices = torch.tensor([5, 0, 2**33 + 5, 7, 8, 1])
    rows = SampleNoise(11, indices)(400, like)
    for i, index in enumerate(indices.tolist()):
        assert torch.equal(SampleNoise(11, torch.tensor([index]))(400, like[:1])[0], rows[i])
    assert len({float(row.flatten()[0]) for row in rows}) == 6


def test_seed_index_and_t_each_change_the_noise():
    """Seed index and t each change the noise and different noise is uncorrelated."""
    like = torch.zeros(1, 20000)
    draw = lambda seed, index, t: SampleNoise(seed, torch.tensor([index]))(t, like)[0].double()  # noqa: E731
    base = draw(1, 2, 3)
    for other in (draw(2, 2, 3), draw(2**40 + 1, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1, 2 + 2**32, 3)):
        assert abs(float((base * other).mean())) < 4 / 20000**0.5
    assert torch.equal(base, draw(1, 2, 3))


def test_initial_uniform_and_forked_noise_are_streams():
    """Initial uniform and forked noise are streams of their own."""
    noise = SampleNoise(1, torch.arange(10000))
    u = noise.uniform(1)
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / 10000) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 0.005
    streams = [
        noise.initial((1,))[:, 0],
        noise(1, torch.zeros(10000, 1))[:, 0],
        noise.fork(0).initial((1,))[:, 0],
        u - 0.5,
    ]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            assert abs(float(torch.corrcoef(torch.stack([a, b]).double())[0, 1])) < 4 / 10000**0.5


def test_rows_may_have_a_t_of_their_own():
    noise, like = SampleNoise(3, torch.arange(4)), torch.zeros(4, 5)
    t = torch.tensor([1, 9, 9, 1000])
    expected = torch.stack([noise(int(t[i]), like)[i] for i in range(4)])
    assert torch.equal(noise(t, like), expected)


def test_derived_seeds_differ_in_every_argument():
    """Derived seeds differ in every argument and their order."""
    seeds = [derive_seed(s, a, b) for s in (0, 1, 2**40) for a in range(20) for b in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert len({s % 2**32 for s in seeds}) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_would_draw_as_another_one_is_refused(seed):
    for draw in (lambda: SampleNoise(seed, torch.arange(2)), lambda: derive_seed(seed, 1)):
        with pytest.raises(ValueError, match=f"seed={seed} must be a whole number from 0 to 2"):
            draw()
    assert not torch.equal(*(SampleNoise(s, torch.arange(2)).initial((3,)) for s in (0, 2**64 - 1)))


def test_rows_that_are_drawn_in_parts_are_the_same(monkeypatch):
    """Of one t for all rows, and of a t for each."""
    noise, like, t = SampleNoise(3, torch.arange(7)), torch.zeros(7, 5, dtype=torch.float64), torch.arange(1, 8)
    whole = noise.initial((5,)), noise(4, like), noise(t, like)
    monkeypatch.setattr("diffusion_lab.diffusion.noise._CACHED", 10)
    assert all(map(torch.equal, whole, (noise.initial((5,)), noise(4, like), noise(t, like))))
