"""diffusion-lab schedule: show a noise schedule before training with it."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL.Image import Image
from rich.table import Table
from torch import Tensor

from diffusion_lab.config.build import build_data, fill_in_facts
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.diffusion import GaussianDiffusion, SampleNoise
from diffusion_lab.diffusion.bound import bits_per_dim
from diffusion_lab.report.drawing import frames, headed, png, rows_of
from diffusion_lab.store.files import begin_folder, check_folder, write_whole
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.terminal import Terminal

ROWS = 10  # values of t that are shown
SIGNAL_LEFT = 2e-2  # √ᾱ_T above which sampling starts from noise unlike that of training; EDM leaves 0.0125 of its σ_T


def run(cfg: DictConfig) -> None:
    """Print the table and warnings, write schedule.png and forward.png into the folder `to`."""
    if "schedule" not in cfg:
        raise MistakeError("this model has no noise schedule; use model=diffusion")
    places = [Path(cfg.to) / name for name in ("schedule.png", "forward.png")]
    check_folder(Path(cfg.to), "schedule")
    with users_mistakes():
        check_at_least(1, cfg, "num_images")
        data = build_data(cfg)
        fill_in_facts(cfg, data)  # a schedule may depend on the data's levels
        process = GaussianDiffusion(instantiate(cfg.schedule))
        kept = instantiate(cfg.sampler).spacing(process)
    chain = process.respace(kept)
    x_0, _ = next(data.batches("train", max(cfg.num_images, 256), limit=max(cfg.num_images, 256)))
    console = Terminal()
    shown = torch.linspace(1, process.num_timesteps, min(ROWS, process.num_timesteps)).round().long()
    console.print(_table(process, shown, str(process.schedule)), soft_wrap=False)
    console.print(
        f"L_T = {prior_bits(process, x_0):.3g} bits/dim on these data; the sampler visits {chain.num_timesteps} of "
        f"{process.num_timesteps} steps, β̃/β from {float(_ratio(chain)[1:].min() if len(kept) > 1 else 0):.2g} to "
        f"{float(_ratio(chain).max()):.2g}"
    )
    signal = float(process.signal(torch.tensor([process.num_timesteps]))) / process.prior_std
    if signal > SIGNAL_LEFT:
        left = f"√ᾱ_T = {signal:.3g}: {100 * signal:.1f} % of the signal is left at t = {process.num_timesteps}"
        fix = "sampling starts from pure noise; use more noise or another schedule"
        console.print(f"warning: {left}, but {fix}", style="yellow")
    begin_folder(Path(cfg.to), "schedule", [path.name for path in places])
    write_whole(places[0], _plot(process, chain))
    write_whole(places[1], png(_forward(process, x_0[: cfg.num_images], shown, data.num_levels)))
    console.print(f"{places[0]}  {places[1]}")


def prior_bits(process: GaussianDiffusion, x_0: Tensor) -> float:
    """L_T = KL(q(x_T|x_0) ‖ p(x_T)) of these images in bits per dimension."""
    return float(bits_per_dim(process.prior_kl(x_0.double())).mean())


def _ratio(process: GaussianDiffusion) -> Tensor:
    """β̃_t/β_t for every t of a chain."""
    t = torch.arange(1, process.num_timesteps + 1)
    return process.beta_tilde(t) / process.beta(t)


def _table(process: GaussianDiffusion, shown: Tensor, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("t", "signal", "noise", "log-SNR", "β_t", "β̃_t/β_t"):
        table.add_column(name, justify="right")
    for t, log_snr in zip(shown.tolist(), process.log_snr(shown).tolist(), strict=True):  # −∞ where no signal is left
        row = process.numbers(t)
        signal, noise = f"{row.signal:.4g}", f"{row.sigma:.4g}"
        table.add_row(str(t), signal, noise, f"{log_snr:.2f}", f"{row.beta:.3g}", f"{row.beta_tilde / row.beta:.4f}")
    return table


def _plot(process: GaussianDiffusion, chain: GaussianDiffusion) -> bytes:
    """Figure of α_t, σ_t, log-SNR and β̃/β against t/T, with dots at the sampler's steps."""
    t = torch.arange(1, process.num_timesteps + 1)
    visited = chain.timesteps + 1
    time, dots = t / process.num_timesteps, visited / process.num_timesteps
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    steps = torch.arange(1, chain.num_timesteps + 1)
    for name, curve, marks in (
        ("signal", process.signal(t), chain.signal(steps)),
        ("noise", process.sigma(t), chain.sigma(steps)),
    ):
        (line,) = left.plot(time, curve / process.prior_std, label=name)
        left.plot(dots, marks / process.prior_std, ".", markersize=4, color=line.get_color())
    left.set_title("signal and noise" + ("" if process.prior_std == 1 else f", in units of {process.prior_std:g}"))
    left.legend(frameon=False)
    middle.plot(time, process.log_snr(t))
    middle.plot(dots, chain.log_snr(steps), ".", markersize=4)
    middle.set_title("log-SNR")
    right.plot(time, _ratio(process), label="all steps")
    right.plot(dots, _ratio(chain), ".-", markersize=4, linewidth=0.8, label=f"{chain.num_timesteps} steps")
    right.set_title("room for a learned variance  β̃_t/β_t")
    right.legend(frameon=False)
    for axes in (left, middle, right):
        axes.set_xlabel("t / T")
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _forward(process: GaussianDiffusion, x_0: Tensor, shown: Tensor, num_levels: int | None) -> Image:
    """Images on their way to noise, one per row: x_0, then x_t at the t of the table, which are above, with the same ε."""
    eps = SampleNoise(0, torch.arange(len(x_0)))(1, x_0)
    states = [x_0, *[process.q_sample(x_0, torch.full((len(x_0),), int(t)), eps) for t in shown]]
    (image,) = frames([rows_of(states) if x_0.ndim > 2 else torch.cat(states)], num_levels, columns=len(states))
    return headed(image, ["t = 0", *map(str, shown.tolist())]) if x_0.ndim > 3 else image
