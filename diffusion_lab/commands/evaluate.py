"""diffusion-lab evaluate: score a trained model, with other choices of scoring if wanted."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from diffusion_lab.commands.build import build_data
from diffusion_lab.commands.mistakes import users_mistakes
from diffusion_lab.commands.scoring import score_once
from diffusion_lab.commands.trained import SCORING_GROUPS, device, load_model, trained_config, with_trained_choices


def completed(options: list[str]) -> list[str]:
    """Scoring starts from the choices that the model was trained with."""
    return with_trained_choices(options, SCORING_GROUPS)


def run(cfg: DictConfig) -> None:
    """Load, score, show."""
    with users_mistakes():
        directory, saved = trained_config(cfg)
        data = build_data(saved)
        model = load_model(directory, saved, device())
    score_once(model, data, saved, directory, Path(cfg.outputs), cfg.rescore)
