"""From a config to images that somebody else made, as what is scored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.fingerprints import fingerprint, given_code
from diffusion_lab.from_config.build import CODE, build_data, plain_config
from diffusion_lab.from_config.mistakes import MistakeError, users_mistakes
from diffusion_lab.from_config.scores import build_features, build_metrics
from diffusion_lab.runs import FINGERPRINT_LENGTH, RunDirectory, cache_directory, run_directory

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule
    from diffusion_lab.evaluation.given import GivenImages
    from diffusion_lab.interop.images import Images

CONFIG = "evaluate_samples"  # what such a score is composed from
_RECORDED = ("samples", "data", "features", "metrics", "evaluation", "logger", "seed")
_OF_A_MODEL = (
    *(
        "model_dir",
        "devices",
        "model",
        "network",
        "ema",
        "sampler",
        "guidance",
        "sampling",
        "rounding",
        "decoder",
        "bound",
    ),
    *("objective", "variance", "evaluation.weights", "evaluation.batch_size", "evaluation.precision"),
)
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Given:
    """cfg: of what decides the score, as it is recorded. data: what the samples are compared with."""

    cfg: DictConfig
    data: DataModule
    images: Images
    run: RunDirectory

    def source(self, outputs: Path, device: str) -> GivenImages:
        from diffusion_lab.data.one_set import OneSet
        from diffusion_lab.evaluation.given import GivenImages
        from diffusion_lab.interop.images import levels

        with users_mistakes():
            fitted = levels(self.images, self.data.shape, self.data.num_levels, f"the data set {self.data.name}")
            as_set = OneSet(_name(self.images), fitted, self.data.num_levels, self.images.digest)
        about = {"name": _name(self.images), "digest": self.images.digest, "shape": list(self.images.shape)}
        return GivenImages(as_set, self.images.labels, about, cache_directory(outputs), device)


def are_given(options: Sequence[str]) -> bool:
    """Whether options name samples. MistakeError if others ask of a model what only a model has."""
    named = {option.partition("=")[0].lstrip("+~"): option.partition("=")[2] for option in options}
    if named.get("samples", "null") in ("null", ""):
        return False
    for key in named:
        for refused in _OF_A_MODEL:
            if key.partition("@")[0] == refused or key.startswith((f"{refused}.", f"{refused}/")):
                raise MistakeError(f"{key}: with samples=… no model draws, so it would change nothing; leave it out")
    return True


def read_given(cfg: DictConfig, outputs: Path) -> Given:
    """The samples and what they are compared with, read and checked. MistakeError, in one sentence, for what cannot be scored."""
    from diffusion_lab.evaluation.score import check_measures
    from diffusion_lab.interop.images import read_images

    if cfg.get("data") is None:
        raise MistakeError("samples=…: say what they are compared with, as data=fashion_mnist")
    kept = OmegaConf.masked_copy(cfg, [key for key in _RECORDED if key in cfg])
    with users_mistakes():
        data = build_data(kept)
        if len(data.shape) != 3 or data.num_levels is None:
            raise MistakeError(f"samples=…: {data.name} has points, and images cannot be compared with them")
        check_measures(list(build_features(kept).values()), build_metrics(kept), data)
        images = read_images(Path(cfg.samples))
    return Given(kept, data, images, _run(kept, data, images, outputs))


def _run(cfg: DictConfig, data: DataModule, images: Images, outputs: Path) -> RunDirectory:
    plain = plain_config(cfg)
    parts = {key: plain[key] for key in ("data", "features", "metrics", "evaluation")}
    labels = "" if images.labels is None else hashlib.sha256(images.labels.numpy()).hexdigest()
    made_of = f"{images.digest} {labels} {data.identity}"
    run_id = fingerprint({key: parts[key] for key in parts if key != "data"}, made_of, given_code(CODE, parts))
    short = [digest[:FINGERPRINT_LENGTH] for digest in (images.digest, run_id)]
    return run_directory(outputs, "-".join([data.name, _name(images), *short]))


def _name(images: Images) -> str:
    """As it may stand in the name of a file and in a table."""
    return re.sub(r"[^\w.]+", "_", images.name, flags=re.ASCII)[-_LONGEST_NAME:]
