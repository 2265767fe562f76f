"""Is a difference real? Paired over seeds where seeds are shared, over test images where there is one seed, else unknown.

Cells share their evaluation noise and their seeds, so what they have in common cancels in the difference of two cells of the
same seed: d̄ ± t·s_d/√n over the n shared seeds, with the two-sided 95 % quantile t of Student's distribution with n − 1
degrees of freedom. With two seeds that is 12.7 standard errors, and it should be: two numbers say little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
_UPPER = (1 + CONFIDENCE) / 2
SEEDS, IMAGES = "seeds", "test images"


@dataclass(frozen=True)
class Measured:
    """One measure of one row: its value for each seed ("" where seed is no axis), and what is known of its error.

    image_error  for each seed, the standard error over test images that the score states; absent where it states none
    """

    by_seed: Mapping[str, float]
    image_error: Mapping[str, float]

    @cached_property
    def mean(self) -> float:
        return float(np.mean(list(self.by_seed.values())))

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @cached_property
    def error(self) -> float | None:
        """The standard error over seeds if there are two or more, else over test images if it is stated, else None."""
        if self.n > 1:
            return float(np.std(list(self.by_seed.values()), ddof=1) / np.sqrt(self.n))
        return next(iter(self.image_error.values()), None)

    @property
    def error_over(self) -> str | None:
        """What `error` is over."""
        return SEEDS if self.n > 1 else IMAGES if self.image_error else None


@dataclass(frozen=True)
class Difference:
    """a − b. margin: half the width of its 95 % interval. how: what the interval is over, in words."""

    mean: float
    margin: float
    how: str

    @property
    def beyond_its_uncertainty(self) -> bool:
        return abs(self.mean) > self.margin


def same(a: Measured, b: Measured) -> bool:
    """Equal for every seed, as where the same images were scored twice: no difference to be uncertain about."""
    return dict(a.by_seed) == dict(b.by_seed)


def difference(a: Measured, b: Measured) -> Difference | None:
    """a − b with its uncertainty; None where nothing tells how uncertain it is.

    With one seed each, the errors over test images are added as if independent; the images are shared, so this is too wide
    rather than too narrow. It says nothing of another training with another seed.
    """
    shared = [seed for seed in a.by_seed if seed in b.by_seed]
    if len(shared) > 1:
        d = np.array([a.by_seed[seed] - b.by_seed[seed] for seed in shared])
        margin = stdtrit(len(d) - 1, _UPPER) * d.std(ddof=1) / np.sqrt(len(d))
        return Difference(float(d.mean()), float(margin), f"paired over {len(d)} seeds")
    if a.n > 1 and b.n > 1:
        return _welch(a, b)
    if a.n == b.n == 1 and a.image_error and b.image_error:
        margin = ndtri(_UPPER) * np.hypot(a.error, b.error)
        return Difference(a.mean - b.mean, float(margin), f"over {IMAGES}, one seed each")
    return None


def _welch(a: Measured, b: Measured) -> Difference:
    """Two or more seeds on either side, none or one of them shared: Welch's interval."""
    square_a, square_b = a.error**2, b.error**2
    total = square_a + square_b
    freedom = total**2 / (square_a**2 / (a.n - 1) + square_b**2 / (b.n - 1)) if total else 1.0
    margin = stdtrit(freedom, _UPPER) * np.sqrt(total)
    return Difference(a.mean - b.mean, float(margin), f"over {a.n} and {b.n} other seeds")
