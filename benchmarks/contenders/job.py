"""One contender with one seed: trained, drawn from and scored in a process of its own, each part once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from contenders.contender import END, SHAPE, Budget, Trained
from contenders.everyone import OURS, contender
from contenders.rulers import Rulers
from contenders.shared import draw
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.store.files import write_whole
from diffusion_lab.training.speed import keep_freed_memory
from diffusion_lab.versions import versions

SHARED, OWN = "shared", "own"
_BATCH = 128
_STREAM = 0  # of samples: the same noise for every contender and seed


@dataclass(frozen=True)
class Job:
    """ours: options of our contender. samples: of each sampler. num_steps: of both. out: the folder of all jobs."""

    name: str
    seed: int
    minutes: float
    moments: tuple[float, ...]
    samples: int
    num_steps: int
    threads: int
    device: str
    ours: str
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / f"{self.minutes:g}-minutes" / self.name / f"seed-{self.seed}"

    @property
    def asked(self) -> dict:
        """All that the result depends on, as plain JSON."""
        facts = {key: value for key, value in asdict(self).items() if key != "out"}
        return facts | {"moments": list(self.moments), "ours": self.ours if self.name == OURS else ""}

    def result(self) -> dict | None:
        """What came out; the scores that are there so far. SystemExit if the folder holds the result of something else."""
        file = self.folder / "result.json"
        if not file.is_file():
            return None
        found = json.loads(file.read_text())
        asked = self.asked
        others = [f"{key}={value}" for key, value in found["asked"].items() if asked[key] != value]
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
        budget = Budget(60 * self.minutes, self.moments, self.seed, self.threads, self.device)
        facts = who.train(self.folder, budget)
        rulers = Rulers(self.out / "cache")
        found = self.result() or {
            "asked": self.asked,
            "parameters": facts.parameters,
            "batch_size": facts.batch_size,
            "steps": {f"{moment:g}": steps for moment, steps in facts.steps.items()},
            "floors": rulers.floors(self.samples),
            "versions": versions() | ({who.requires: version(who.requires)} if who.requires else {}),
            "scores": [],
        }
        there = {(score["moment"], score["sampler"]) for score in found["scores"]}
        for moment, sampler in self._looks:
            if (moment, sampler) not in there:
                with who.at(self.folder, moment, budget, self.num_steps) as trained:
                    score = self._score(trained, sampler, rulers, budget)
                found["scores"].append({"moment": moment, "sampler": sampler, **score})
                write_whole(self.folder / "result.json", json.dumps(found, indent=1).encode())

    def _score(self, trained: Trained, sampler: str, rulers: Rulers, budget: Budget) -> dict[str, float]:
        seconds = 0.0

        def drawn() -> Iterator[Tensor]:
            nonlocal seconds
            for indices in torch.arange(self.samples, device=self.device).split(_BATCH):
                start = budget.clock()
                with torch.no_grad():
                    x = self._sampler(trained, sampler)(indices).cpu()
                seconds += budget.clock() - start
                yield x

        distances = rulers.distances(drawn())
        evaluations = trained.own_evaluations if sampler == OWN else self.num_steps
        return distances | {"evaluations": evaluations, "seconds_per_1000": 1000 * seconds / self.samples}

    def _sampler(self, trained: Trained, sampler: str) -> Callable[[Tensor], Tensor]:
        if sampler == OWN:
            return lambda indices: trained.own(indices, _STREAM)

        def shared(indices: Tensor) -> Tensor:
            y = trained.classes(indices, _STREAM)
            return draw(trained.process, trained.reverse, SampleNoise(_STREAM, indices), SHAPE, self.num_steps, y)

        return shared
