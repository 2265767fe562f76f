"""Noise as a pure function of (seed, sample index, t), never of what was drawn before.

So the i-th sample of a seed is the same image whether it is drawn alone or in a batch, on one device or on eight, now or after
a crash. The generator is counter-based, Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
in integer tensor operations, because `torch.Generator` has a state, and on a CPU uses only 32 bits of its seed.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from .shapes import Images

_MASK = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_CACHED = 2**18  # normals
_WEYL = 0x9E3779B9, 0xBB67AE85


def check_seed(seed: int) -> None:
    """ValueError for a seed beyond 64 bits, which would coincide with another one."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed} must be a whole number from 0 to 2**64 - 1")


def derive_seed(seed: int, *keys: int) -> int:
    """A new 63-bit seed that depends on all bits of its arguments: independent streams of a seed, by name or number."""
    check_seed(seed)
    state = seed
    for key in keys:
        # splitmix64's finaliser, which is a bijection of 64 bits with full avalanche.
        state = (state * 0x9E3779B97F4A7C15 + key + 0x632BE59BD9B4E019) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state % 2**63


def philox(counter: Int64[Tensor, "4 *n"], key: tuple[int, int]) -> Int64[Tensor, "4 *n"]:
    """Ten rounds of Philox4x32 on counters of four 32-bit words, under a key of two: four uniform 32-bit words each."""
    c_0, c_1, c_2, c_3 = counter
    k_0, k_1 = key
    for _ in range(10):
        high_0, low_0 = _multiply(c_0, _MULTIPLIERS[0])
        high_1, low_1 = _multiply(c_2, _MULTIPLIERS[1])
        c_0, c_1, c_2, c_3 = high_1 ^ c_1 ^ k_0, low_1, high_0 ^ c_3 ^ k_1, low_0
        k_0, k_1 = (k_0 + _WEYL[0]) & _MASK, (k_1 + _WEYL[1]) & _MASK
    return torch.stack([c_0, c_1, c_2, c_3])


def _multiply(word: Int64[Tensor, "*n"], multiplier: int) -> tuple[Int64[Tensor, "*n"], Int64[Tensor, "*n"]]:
    """High and low halves of a 32 × 32 bit product; int64 wraps modulo 2⁶⁴, which loses nothing of either half."""
    product = word * multiplier
    return (product >> 32) & _MASK, product & _MASK


class SampleNoise:
    """Standard normal noise whose row i depends on (seed, indices[i], t) only.

    Parameters
    ----------
    seed: 0 … 2⁶⁴ − 1.
    indices: int64 (B,), the numbers of these samples among all that are drawn with this seed.
    """

    def __init__(self, seed: int, indices: Int64[Tensor, " b"]) -> None:
        check_seed(seed)
        self.seed, self.indices = seed, indices

    def initial(self, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        """x_T ~ N(0, I), float32 (B, *shape)."""
        return self._normal(0, shape, torch.float32)

    def __call__(self, t: int | Int64[Tensor, " b"], like: Images) -> Images:
        """ε for the step that leaves x_t, t ≥ 1 counted in the *original* chain, with the shape and dtype of `like`.

        t: of all rows, or one per row.
        """
        return self._normal(t, like.shape[1:], like.dtype).to(like.device)

    def uniform(self, t: int) -> Float64[Tensor, " b"]:
        """One number in (0, 1) per row, float64, from a counter that normal noise does not use."""
        return self._uniform(t, 1, stream=1)[0, :, 0]

    def fork(self, key: int) -> "SampleNoise":
        """Independent noise for the same samples."""
        return SampleNoise(derive_seed(self.seed, key), self.indices)

    def _normal(
        self, t: int | Int64[Tensor, " b"], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "b ..."]:
        """N(0, I); on a CPU computed for a few rows at a time, which fit its cache."""
        rows = max(1, _CACHED // math.prod(shape) if self.indices.device.type == "cpu" else len(self.indices))
        if rows >= len(self.indices):
            return self._box_muller(t, shape).to(dtype)
        parts = [SampleNoise(self.seed, indices) for indices in self.indices.split(rows)]
        times = t.split(rows) if isinstance(t, Tensor) else [t] * len(parts)
        return torch.cat([part._box_muller(s, shape).to(dtype) for part, s in zip(parts, times, strict=True)])

    def _box_muller(self, t: int | Int64[Tensor, " b"], shape: tuple[int, ...]) -> Float64[Tensor, "b ..."]:
        """Box & Muller 1958: √(−2·log u)·(cos 2πw, sin 2πw) are two independent N(0, 1)."""
        size = math.prod(shape)
        u, w, u_2, w_2 = self._uniform(t, -(-size // 4), stream=0)
        radius, radius_2 = (-2 * u.log()).sqrt(), (-2 * u_2.log()).sqrt()
        angle, angle_2 = 2 * math.pi * w, 2 * math.pi * w_2
        normal = torch.cat(
            [radius * angle.cos(), radius * angle.sin(), radius_2 * angle_2.cos(), radius_2 * angle_2.sin()], 1
        )
        return normal[:, :size].reshape(-1, *shape)

    def _uniform(self, t: int | Int64[Tensor, " b"], blocks: int, stream: int) -> Float64[Tensor, "4 b n"]:
        """Uniform in (0, 1): (word + ½)/2³² of the counter (block, t and stream, low and high half of the index)."""
        index = self.indices[:, None]
        block = torch.arange(blocks, device=index.device)[None, :]
        key = 2 * t + stream
        key = key[:, None] if isinstance(key, Tensor) else torch.full_like(block, key)
        words = [block, key, index & _MASK, (index >> 32) & _MASK]
        counter = torch.stack(torch.broadcast_tensors(*words))
        return (philox(counter, (self.seed & _MASK, (self.seed >> 32) & _MASK)).double() + 0.5) / 2**32


Noise = Callable[[int, Images], Images]  # (key of a step, like) -> ε: a SampleNoise


def fresh_noise(batch_size: int, device: torch.device) -> SampleNoise:
    """Noise with a seed from torch's global generator, for calls without a seed."""
    seed = int(torch.randint(2**62, ()))
    return SampleNoise(seed, torch.arange(batch_size, device=device))
