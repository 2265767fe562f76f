"""One contender with one seed: trained, drawn from and scored in a process of its own, each part once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from contenders.contender import END, Budget, Contender, Trained, draw
from contenders.images import DATA, Images
from contenders.ours import Ours
from contenders.peers import PEERS
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.metrics.copying import FEW, NearestImages, within_held_out_quantile
from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.reference import FeatureStatistics, Reference, quantise
from diffusion_lab.metrics.sliced_wasserstein import sliced_wasserstein
from diffusion_lab.store.cache import CacheDirectory
from diffusion_lab.store.files import write_whole
from diffusion_lab.training.speed import keep_freed_memory
from diffusion_lab.versions import versions

OURS = "ours"
CONTENDERS = [OURS, *PEERS]
SHARED, OWN = "shared", "own"
SLICED, COPIES = "sliced_wasserstein", "copies"
_PATCHES = 128  # of each image and band, as in Karras et al. 2018
_DRAWN_AT_ONCE, _SEEN_AT_ONCE = 128, 256


def contender(name: str, ours: str) -> Contender:
    """ours: the options of our own contender."""
    return Ours(ours) if name == OURS else PEERS[name]


def missing(names: list[str]) -> list[str]:
    """Packages that these contenders need and that are not installed, as pip calls them."""
    wanted = {contender(name, "").requires for name in names} - {None}
    return sorted(package.replace("_", "-") for package in wanted if find_spec(package) is None)


class Measures:
    """How far samples are from the test images, or another split; the floor is that of as many training images. cache: a folder.

    The Fréchet distance of features that were trained without labels; the sliced Wasserstein distance, which needs no network; and,
    where there are features that were trained with labels, their Fréchet distance.
    """

    def __init__(self, images: Images, cache: Path, split: str = "test") -> None:
        self._split = split
        self._data = images.module(batch_size=1, seed=0)
        self._data.prepare()
        self._references = []
        for make in images.features:
            features = make()
            features.check(self._data.shape)
            self._references.append(Reference(self._data, features.eval(), CacheDirectory(cache)))

    def scores(self, x: Tensor) -> dict[str, float]:
        """Distances, and how many samples are copies: as near to a training image as the nearest 1 % of test images, by the first
        features."""
        reference, *_ = self._references
        train, held_out = (reference.vectors(split) for split in ("train", self._split))
        search = NearestImages(self._seen(reference, x), held_out, known=train)
        search.see(train, 0)
        return self.distances(x) | {COPIES: within_held_out_quantile(*search.distances(), FEW).value}

    def distances(self, x: Tensor) -> dict[str, float]:
        """Of samples, float32 (B, C, H, W) in [−1, 1], rounded to the data's levels first."""
        first, *others = self._references
        real = self._images(self._split, len(x))
        bands = sliced_wasserstein(quantise(x[: len(real)], self._data.num_levels), real, _PATCHES, seed=0)
        found = self._distance(first, x) | {SLICED: sum(bands.values()) / len(bands)}
        for other in others:
            found |= self._distance(other, x)
        return found

    def _distance(self, reference: Reference, x: Tensor) -> dict[str, float]:
        seen = FeatureStatistics(reference.features.dim, [self._seen(reference, x)]).compute()
        return {reference.features.metric_name: frechet_distance(seen, reference.moments(self._split))}

    def _seen(self, reference: Reference, x: Tensor) -> Tensor:
        return torch.cat([reference.features(quantise(b, self._data.num_levels)) for b in x.split(_SEEN_AT_ONCE)])

    def floors(self, num_images: int) -> dict[str, float]:
        """The distances of training images."""
        return self.distances(self._images("train", num_images))

    def _images(self, split: str, num_images: int) -> Tensor:
        """A fixed choice of a split, (n, C, H, W)."""
        return torch.cat([x for x, _ in self._data.batches(split, _SEEN_AT_ONCE, limit=num_images)])[:num_images]


@dataclass(frozen=True)
class Job:
    """seed: of the training, and of the noise of its samples, which is the same for every contender. training_steps: in place of
    minutes. ours: options of our contender. samples: of each sampler. num_steps: of both. out: the folder of all jobs. data: a name
    in DATA."""

    name: str
    seed: int
    minutes: float
    training_steps: int | None
    moments: tuple[float, ...]
    samples: int
    num_steps: int
    threads: int
    device: str
    ours: str
    out: Path
    data: str = "fashion_mnist"

    @property
    def folder(self) -> Path:
        amount = f"{self.training_steps}-steps" if self.training_steps else f"{self.minutes:g}-minutes"
        return self.out / amount / self.name / f"seed-{self.seed}"

    @property
    def asked(self) -> dict:
        """All that the result depends on, as plain JSON."""
        facts = {key: value for key, value in asdict(self).items() if key != "out"}
        about = {
            "moments": list(self.moments),
            "ours": self.ours if self.name == OURS else "",
            "samples_seed": self.seed,
        }
        return facts | about

    def result(self) -> dict | None:
        """What came out; the scores that are there so far. SystemExit if the folder holds the result of something else."""
        file = self.folder / "result.json"
        if not file.is_file():
            return None
        found = json.loads(file.read_text())
        made = found["asked"]
        others = [f"{key}={made.get(key, 0)}" for key, value in self.asked.items() if made.get(key, 0) != value]
        if others:
            raise SystemExit(
                f"{file} was made with {', '.join(others)}: ask for the same again, or name another folder with --out"
            )
        return found

    def finished(self) -> bool:
        found = self.result()
        return found is not None and len(found["scores"]) == len(self._looks)

    @property
    def _looks(self) -> list[tuple[float, str]]:
        """(moment, sampler): its own sampler draws at the end alone."""
        return [(END, SHARED), (END, OWN), *((moment, SHARED) for moment in self.moments)]

    def run(self) -> None:
        """In the process that calls it, whose CPU time is the clock."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()  # for every contender: it helps each of them
        who = contender(self.name, self.ours)
        budget = Budget(
            60 * self.minutes, self.moments, self.seed, self.threads, self.device, self.training_steps, DATA[self.data]
        )
        facts = who.train(self.folder, budget)
        measures = Measures(DATA[self.data], self.out / "cache")
        found = self.result() or {
            "asked": self.asked,
            "parameters": facts.parameters,
            "batch_size": facts.batch_size,
            "steps": {f"{moment:g}": steps for moment, steps in facts.steps.items()},
            "floors": measures.floors(self.samples),
            "versions": versions() | ({who.requires: version(who.requires)} if who.requires else {}),
            "scores": [],
        }
        there = {(score["moment"], score["sampler"]) for score in found["scores"]}
        for moment, sampler in self._looks:
            if (moment, sampler) not in there:
                with who.at(self.folder, moment, budget, self.num_steps) as trained:
                    score = self._score(trained, sampler, measures, budget)
                found["scores"].append({"moment": moment, "sampler": sampler, **score})
                write_whole(self.folder / "result.json", json.dumps(found, indent=1).encode())

    def _score(self, trained: Trained, sampler: str, measures: Measures, budget: Budget) -> dict[str, float]:
        seconds = 0.0

        def drawn() -> Iterator[Tensor]:
            nonlocal seconds
            for indices in torch.arange(self.samples, device=self.device).split(_DRAWN_AT_ONCE):
                start = budget.clock()
                with torch.no_grad():
                    x = self._sampler(trained, sampler)(indices).cpu()
                seconds += budget.clock() - start
                yield x

        scores = measures.scores(torch.cat(list(drawn())))
        evaluations = trained.own_evaluations if sampler == OWN else self.num_steps
        return scores | {"evaluations": evaluations, "seconds_per_1000": 1000 * seconds / self.samples}

    def _sampler(self, trained: Trained, sampler: str) -> Callable[[Tensor], Tensor]:
        if sampler == OWN:
            return lambda indices: trained.own(indices, self.seed)

        def shared(indices: Tensor) -> Tensor:
            y = trained.classes(indices, self.seed)
            noise = SampleNoise(self.seed, indices)
            return draw(trained.process, trained.reverse, noise, DATA[self.data].shape, self.num_steps, y)

        return shared
