"""How a model is scored: the numbers of the protocol that a user may change (conf/evaluation explains each)."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_DEFAULT_SAMPLES = 2048


@dataclass(frozen=True)
class Bound:
    """The likelihood's share: how many test images, in batches of what, at most how many terms, how many draws."""

    num_images: int = 256
    batch_size: int = 128
    max_terms: int | None = 100
    num_draws: int = 1

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "num_draws"):
            _check_at_least(1, f"evaluation.bound.{name}", getattr(self, name))
        if self.max_terms is not None:
            _check_at_least(2, "evaluation.bound.max_terms", self.max_terms)  # L_0 and one for all others


@dataclass(frozen=True)
class Evaluation:
    """Raises ValueError naming the option when a number is impossible."""

    num_samples: int | None = None
    batch_size: int = 128
    seed: int = 0
    weights: str = "auto"
    reference_split: str = "train"
    reference_features: int = 10_000
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    neighbours: int = 3
    bound: Bound = field(default_factory=Bound)

    def __post_init__(self) -> None:
        if self.num_samples is not None:
            _check_at_least(2, "evaluation.num_samples", self.num_samples)  # one image has no covariance
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"evaluation.seed must be a whole number from 0 to 2**64 - 1, got {self.seed}")
        _check_at_least(2, "evaluation.kid_subset_size", self.kid_subset_size)
        for name in ("batch_size", "reference_features", "kid_subsets", "neighbours"):
            _check_at_least(1, f"evaluation.{name}", getattr(self, name))
        if self.reference_split not in ("train", "test"):
            raise ValueError(f"evaluation.reference_split must be train or test, got {self.reference_split}")

    @property
    def held_out_split(self) -> str:
        """The split that the floor's images come from: the one that is not the reference."""
        return "test" if self.reference_split == "train" else "train"

    def resolve_num_samples(self, num_test: int) -> int:
        """num_samples, or as many as there are test images (so that the floor exists at the same n), at most 2048."""
        return self.num_samples if self.num_samples is not None else min(num_test, MAX_DEFAULT_SAMPLES)


def _check_at_least(least: int, option: str, value: int) -> None:
    if value < least:
        raise ValueError(f"{option} must be at least {least}, got {value}")
