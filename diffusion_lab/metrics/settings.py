"""The options of drawing samples and of their reference (see conf/evaluation); metrics have their own options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusion_lab.data.module import DataModule
from diffusion_lab.store.option_names import check_at_least

MAX_DEFAULT_SAMPLES = 2048
PRECISIONS = ("32-true", "bf16-mixed")
REFERENCES = ("train", "validation", "test")


@dataclass(frozen=True)
class Evaluation:
    """The options `evaluation.…` of a score. ValueError, naming the option, for an impossible number.

    num_samples: samples to draw; None: see `resolve_num_samples`. batch_size: images at a time; None: 128, fewer of more than
    64×64 pixels. precision: of the network while drawing, one of PRECISIONS. seed: of the samples, in 0 … 2⁶⁴ − 1. weights: "raw",
    "ema_<decay>", "at_<moment>", or "auto" for the default ones. reference: the split that samples are compared with, one of
    REFERENCES. reference_features: at most this many images of it are kept one by one. statistics_images: images on which the
    network's statistics are measured. at: None here; the commands make one score of each moment in it.
    """

    num_samples: int | None = None
    batch_size: int | None = None
    precision: str = "32-true"
    seed: int = 0
    weights: str = "auto"
    reference: str = "train"
    reference_features: int = 10_000
    statistics_images: int = 128
    at: list[Any] | None = None

    def __post_init__(self) -> None:
        if self.at is not None:  # the commands make one score per moment
            raise ValueError(
                f"evaluation.at={list(self.at)}: a single score has one moment; set evaluation.weights, such as at_1m"
            )
        check_at_least(2, self, "num_samples", prefix="evaluation.")  # one image has no covariance
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"evaluation.seed must be a whole number from 0 to 2**64 - 1, got {self.seed}")
        check_at_least(1, self, "batch_size", "reference_features", "statistics_images", prefix="evaluation.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"evaluation.precision must be {' or '.join(PRECISIONS)}, got {self.precision}")
        if self.reference not in REFERENCES:
            raise ValueError(f"evaluation.reference must be train, validation or test, got {self.reference}")

    def check(self, data: DataModule) -> None:
        """ValueError for a split of the reference that the data do not have."""
        if self.reference == "validation" and not data.num_validation:
            raise ValueError(
                f"evaluation.reference=validation: no images of {data.name} were held out of training; train with "
                "data.validation=N, a number of training images (Fashion-MNIST: 5000)"
            )

    @property
    def held_out_split(self) -> str:
        """The split for the floor: training images, or test images if training images are the reference."""
        return "test" if self.reference == "train" else "train"

    @property
    def unseen_split(self) -> str:
        """The split unseen in training, used for likelihoods and for comparisons in `copying`.

        A score against validation images serves choices, so it uses no test image.
        """
        return "validation" if self.reference == "validation" else "test"

    def resolve_num_samples(self, data: DataModule) -> int:
        """num_samples, or the number of images in `unseen_split`, at most 2048, so that the floor exists for the same n."""
        most = min(data.size(self.unseen_split), MAX_DEFAULT_SAMPLES)
        return self.num_samples if self.num_samples is not None else most
