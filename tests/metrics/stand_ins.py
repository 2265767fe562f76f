"""The smallest data set, features and model that scoring can be tried on: everything Gaussian, everything known."""

import hashlib
import math
from dataclasses import asdict

import torch
from torch import Tensor, nn

from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.levels import from_levels
from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.metrics.class_accuracy import ClassAccuracy
from diffusion_lab.metrics.class_coverage import ClassCoverage
from diffusion_lab.metrics.cost import Cost, NetworkEvaluations
from diffusion_lab.metrics.frechet_distance import FrechetDistance
from diffusion_lab.metrics.inception_score import InceptionScore
from diffusion_lab.metrics.kernel_distance import KernelDistance
from diffusion_lab.metrics.metric import Naming
from diffusion_lab.metrics.precision_recall import PrecisionRecall
from diffusion_lab.metrics.reference import FeatureStatistics
from diffusion_lab.models.base import GenerativeModel, Likelihood
from diffusion_lab.networks.flops import NetworkCost

METRICS = [
    NetworkEvaluations(),
    FrechetDistance(),
    KernelDistance(),
    PrecisionRecall(),
    InceptionScore(),
    ClassAccuracy(),
    BitsPerDim(),
    Cost(),
    ClassCoverage(),
]


def described(metrics):
    """What METRICS say of the values of a metrics.json and of those that are absent, as it holds that."""
    known = {*metrics["values"], *metrics["protocol"].get("absent", {})}
    name = metrics["protocol"]["features"]["name"]
    naming = Naming(name, "fid" if "fid" in known else f"fd_{name}")
    return [asdict(measure) for metric in METRICS for measure in metric.measures([naming]) if measure.name in known]


def moments(x):
    """Of the rows, as features."""
    return FeatureStatistics(x[0].numel(), [x.flatten(1)]).compute()


class TinyImages(DataModule):
    """Images (1, 2, 2) of 17 levels in three classes, sorted by class as folders are; brighter with the class."""

    name, shape, num_levels, num_classes = "tiny", (1, 2, 2), 17, 3
    num_train, num_test = 300, 40

    def __init__(self, seed: int = 0) -> None:
        super().__init__(batch_size=8, seed=seed)
        self.reads = 0

    def _load(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.splits = {}
        for split, size in (("train", self.num_train), ("test", self.num_test)):
            y = torch.arange(size) * 2 // size + (torch.arange(size) >= size * 3 // 4)  # shares 1/2, 1/4, 1/4
            levels = (4 + 3 * y[:, None] + torch.randint(0, 5, (size, 4), generator=generator)).reshape(-1, 1, 2, 2)
            self.splits[split] = from_levels(levels, 17), y
        self.identity = hashlib.sha256(str(self.seed).encode()).hexdigest()

    def _classes(self, split: str) -> Tensor:
        return self.splits[split][1]

    def _show(self, split: str, picks):
        for indices in picks:
            self.reads += len(indices)
            x, y = self.splits[split]
            yield x[indices], {"classes": y[indices]}


class RawPixels(nn.Module):
    """The pixels themselves, which say what they have seen."""

    name, identity, metric_name, dim, kind, reads_levels = "raw", "0" * 64, "fd_raw", 4, "", False

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def check(self, shape: tuple[int, ...]) -> None:
        if math.prod(shape) != self.dim:
            raise ValueError(f"raw pixels want {self.dim} values, the images are {shape}")

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.flatten(1).float()

    def class_logits(self, vectors: Tensor) -> None:
        return None

    def classes(self, vectors: Tensor) -> Tensor:
        """The class is the brightness, as in `TinyImages`."""
        return ((vectors.mean(1) + 0.25) / 0.375 + 0.5).long().clamp(0, 2)


class GaussianModel(GenerativeModel):
    """x ~ N(mean, 0.3²), and its exact density with a little keyed noise on it."""

    def __init__(self, num_classes: int | None = None, nfe: int = 5) -> None:
        super().__init__()
        self.shape, self.num_levels, self.num_classes = (1, 2, 2), 17, num_classes
        self.mean = nn.Parameter(torch.zeros(()))
        self._nfe = nfe
        self.labels: list[Tensor | None] = []

    def sample(self, indices, seed, y=None):
        assert not torch.is_grad_enabled()
        assert not self.training
        self.labels.append(y)
        return self.decode(self.latents(indices, seed), y)

    def latents(self, indices, seed):
        return SampleNoise(seed, indices).initial(self.shape)

    def decode(self, z, y=None):
        shift = 0 if y is None else 0.4 * (y - 1).reshape(-1, 1, 1, 1)
        return (self.mean + shift + 0.3 * z).clamp(-1, 1)

    @property
    def nfe(self):
        return self._nfe

    def cost(self):
        return NetworkCost(parameters=1, forward_flops=1000)

    def protocol(self):
        return {"sampler": "one step"}

    def likelihood(self, x_0, y, seed, indices, max_terms):
        noise = SampleNoise(seed, indices)
        exact = (0.5 * ((x_0 - self.mean) / 0.3).square().flatten(1).mean(1) / math.log(2)).double()
        jitter = 0.1 * noise.initial((2,)).double()
        terms = torch.stack([exact, torch.ones_like(exact)], 1) + jitter
        return Likelihood(
            bits_per_dim=0.5 + terms.sum(1),
            kind="made up",
            parts={"prior": torch.full_like(exact, 0.5)},
            curve={"weights": torch.ones(2), "terms": terms},
        )


class Silent(GaussianModel):
    """A model without a likelihood, as a GAN."""

    def likelihood(self, x_0, y, seed, indices, max_terms):
        return None


class Broken(GaussianModel):
    """Every seventh sample is not finite."""

    def sample(self, indices, seed, y=None):
        x = super().sample(indices, seed, y)
        x[indices % 7 == 0] = float("nan")
        return x
