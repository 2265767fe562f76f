"""Draw the figures of docs/theory, and docs/readme.png, with the lab's own classes: python scripts/site/plots.py [variances …]

No network is trained. The denoiser is the best possible one for its data, E[x_0|x_t], which is known in closed form for a finite
set of points. So a figure shows what the theory says, not what a network has learned. Half a minute on one core.
"""

import math
import sys
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from diffusion_lab.data import DataModule
from diffusion_lab.data.densities import RingMixture, TwoMoons
from diffusion_lab.data.digits import Digits
from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    LearnedRange,
    LinearSchedule,
    LogSNRSchedule,
    PredictStart,
    RectifiedSchedule,
    ReverseProcess,
    SampleNoise,
    SigmoidSchedule,
    variational_bound,
)
from diffusion_lab.report.panels import LIGHT
from diffusion_lab.sampling import (
    AncestralSampler,
    ClassifierFree,
    DDIMSampler,
    DPMSolverSampler,
    EvenSpacing,
    LogSNRSpacing,
)

DOCS = Path(__file__).parents[2] / "docs"
OUT = DOCS / "theory"
T = 1000


def main() -> None:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110})
    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=LIGHT)
    OUT.mkdir(exist_ok=True)
    for draw in (forward, schedules, moons, variances, guidance, lineages, readme):
        if sys.argv[1:] and draw.__name__ not in sys.argv[1:]:
            continue
        plt.close("all")
        draw().savefig((DOCS if draw is readme else OUT) / f"{draw.__name__}.png", bbox_inches="tight")


def images_of(data: DataModule, count: int) -> tuple[Tensor, Tensor | None]:
    """The first training images, and their classes."""
    data.prepare()
    return next(data.batches("train", count))


def forward() -> plt.Figure:
    """A digit, less and less of it."""
    x_0, _ = images_of(Digits(batch_size=16, seed=0), 12)
    x_0 = x_0[[4, 11]]
    process = GaussianDiffusion(CosineSchedule(T))
    times = [1, 100, 200, 300, 400, 500, 600, 700, 800, 1000]
    eps = SampleNoise(0, torch.arange(len(x_0)))(1, x_0)
    figure, axes = plt.subplots(len(x_0), len(times), figsize=(9, 2.1))
    for column, t in enumerate(times):
        x_t = process.q_sample(x_0, torch.full((len(x_0),), t), eps)
        for row, image in enumerate(x_t):
            axes[row, column].imshow(image[0], cmap="gray", vmin=-1.5, vmax=1.5)
            axes[row, column].set_axis_off()
        axes[0, column].set_title(f"t = {t}", fontsize=9)
    return figure


def schedules() -> plt.Figure:
    """What is left of the signal, and how fast it goes in log SNR."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    t = torch.arange(1, T + 1)
    for schedule in (LinearSchedule(T), CosineSchedule(T), SigmoidSchedule(T)):
        process, name = GaussianDiffusion(schedule), type(schedule).__name__.removesuffix("Schedule").lower()
        left.plot(t, process.alpha_bar(t), label=name)
        right.plot(t, process.log_snr(t), label=name)
    left.set(xlabel="t", ylabel="ᾱ_t")
    right.set(xlabel="t", ylabel="log SNR", ylim=(-12, 12))
    left.legend(frameon=False)
    return figure


def best_denoiser(process: GaussianDiffusion, points: Tensor, labels: Tensor | None = None):
    """E[x_0|x_t, y] over the points, as a network that predicts x_0; y = the number of classes: without a class."""

    def network(x_t: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        signal, noise = (value[:, None] for value in process.pair((timesteps + 1).long()))
        log_p = -(torch.cdist(x_t.double() / signal, points.double()) * signal / noise).square() / 2
        if labels is not None and y is not None:
            known = y < int(labels.max()) + 1
            log_p = log_p.masked_fill(known[:, None] & (labels[None] != y[:, None]), -math.inf)
        return (log_p.softmax(dim=1) @ points.double()).to(x_t.dtype)

    return network


def moons() -> plt.Figure:
    """From noise to two moons along the reverse process."""
    points, _ = images_of(TwoMoons(batch_size=16, seed=0, noise=0.08), 2000)
    process = GaussianDiffusion(CosineSchedule(T, log_snr_max=7.0))
    reverse = ReverseProcess(
        best_denoiser(process, points), prediction=PredictStart(), variance=FixedSmall(), clip_x_0=False
    )
    noise = SampleNoise(0, torch.arange(1500))
    states = AncestralSampler(EvenSpacing(100)).trajectory(process, reverse, noise.initial((2,)), noise=noise)
    shown = dict(states)
    chosen = [min(shown, key=lambda t, wanted=wanted: abs(t - wanted)) for wanted in (1000, 700, 500, 300, 150, 0)]
    figure, axes = plt.subplots(1, len(chosen), figsize=(9, 1.9))
    for axis, t in zip(axes, chosen, strict=True):
        axis.scatter(*shown[t].T, s=1, alpha=0.5)
        axis.set(title=f"t = {int(t)}", xlim=(-2, 2), ylim=(-2, 2), xticks=[], yticks=[], aspect="equal")
    return figure


def variances() -> plt.Figure:
    """What the choice of Σ costs when steps are few: for x_0 ~ N(0, s²) every quantity is exact."""
    std, process = 0.5, GaussianDiffusion(CosineSchedule(T))
    x_0 = std * torch.randn(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def network(x_t: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        signal, noise = (value[:, None] for value in process.pair((timesteps + 1).long()))
        mean = signal * std**2 / (signal**2 * std**2 + noise**2) * x_t
        return mean if variance.outputs_per_channel == 0 else torch.cat([mean, best_v(timesteps)], dim=1)

    def best_v(timesteps: Tensor) -> Tensor:
        """v for which Σ is Var[x_s|x_t], which is known here."""
        t = int(chain.timesteps.tolist().index(int(timesteps[0]))) + 1
        row = chain.numbers(t)
        var_x_0 = std**2 * row.sigma**2 / (row.signal**2 * std**2 + row.sigma**2)
        best = row.beta_tilde + row.of_x_0**2 * var_x_0
        f = (math.log(best) - row.log_beta_tilde) / (row.log_beta - row.log_beta_tilde)
        return torch.full((len(timesteps), 1), 2 * f - 1, dtype=torch.float64)

    figure, axis = plt.subplots(figsize=(5.5, 3))
    own = (0.5 * math.log(2 * math.pi * std**2) + (x_0 / std).square() / 2).mean() / math.log(2)  # −log₂ p of these x_0
    steps = [2, 4, 8, 16, 32, 64, 128]
    names = {
        FixedSmall(): "Σ = β̃, fixed small",
        FixedLarge(): "Σ = β, fixed large",
        LearnedRange(): "the best in between",
    }
    for variance, name in names.items():
        bits = []
        for count in steps:
            chain = process.respace(EvenSpacing(count)(T))
            reverse = ReverseProcess(network, prediction=PredictStart(), variance=variance, clip_x_0=False)
            noise = SampleNoise(0, torch.arange(len(x_0)))
            bound = variational_bound(chain, reverse, x_0, num_levels=None, num_draws=4, noise=noise)
            bits.append(float(bound.bits_per_dim.mean() - own))
        axis.plot(steps, bits, "o-", label=name)
    axis.set(xlabel="steps K of the chain", ylabel="bits lost to the chain", xscale="log", ylim=(-0.002, 3e4))
    axis.set_yscale("symlog", linthresh=0.01)
    axis.set_xticks(steps, [str(count) for count in steps])
    axis.minorticks_off()
    axis.legend(frameon=False)
    return figure


def guidance() -> plt.Figure:
    """One of eight classes, asked for more and more."""
    points, labels = images_of(RingMixture(batch_size=16, seed=0, radius=0.6, std=0.15), 4000)
    process = GaussianDiffusion(CosineSchedule(T, log_snr_max=7.0))
    reverse = ReverseProcess(
        best_denoiser(process, points, labels),
        prediction=PredictStart(),
        variance=FixedSmall(),
        clip_x_0=False,
        null_class=8,
    )
    noise, y = SampleNoise(0, torch.arange(600)), torch.ones(600, dtype=torch.int64)
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.4))
    for axis, scale in zip(axes, (0.0, 1.0, 2.0, 5.0), strict=True):
        guided = ClassifierFree(scale=scale).around(reverse)
        x_0 = DDIMSampler(EvenSpacing(50))(process, guided, noise.initial((2,)), y=y, noise=noise)
        axis.scatter(*points[:1500].T, s=1, color="#cccccc")
        axis.scatter(*x_0.T, s=1.5, color=LIGHT[1])
        axis.set(title=f"s = {scale:g}", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[], aspect="equal")
    return figure


def lineages() -> plt.Figure:
    """Four pairs (α, σ), and the one clock that they share."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    t = torch.arange(1, T + 1)
    pairs = {
        "DDPM, cosine": CosineSchedule(T),
        "EDM": EDMSchedule(T),
        "flow matching": RectifiedSchedule(T),
        "VDM, linear in log SNR": LogSNRSchedule(T),
    }
    for name, schedule in pairs.items():
        process = GaussianDiffusion(schedule)
        left.plot(process.signal(t), process.sigma(t), label=name)
        right.plot(t, process.log_snr(t), label=name)
    left.set(xlabel="signal α", ylabel="noise σ", ylim=(0, 1.5), xlim=(0, 1.1))
    right.set(xlabel="t", ylabel="log SNR")
    right.legend(frameon=False)
    return figure


def readme() -> plt.Figure:
    """Samples of one mixture: rows differ in the sampler, columns in the number of steps; the noise is the same in all."""
    data = RingMixture(batch_size=16, seed=0)
    points, _ = images_of(data, 1200)
    process = GaussianDiffusion(CosineSchedule(T, log_snr_max=7.0))
    noise = SampleNoise(0, torch.arange(1200))

    def network(x_t: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        """E[x_0|x_t] = Σ_k w_k·(μ_k + α·s²/(α²·s² + σ²)·(x_t − α·μ_k))"""
        signal, noise = (value[:, None] for value in process.pair((timesteps + 1).long()))
        total = (signal * data.std).square() + noise.square()
        weights = (-torch.cdist(x_t.double(), signal[:1] * data.means()).square() / (2 * total)).softmax(dim=1)
        gain = signal * data.std**2 / total
        return ((1 - gain * signal) * (weights @ data.means()) + gain * x_t).to(x_t.dtype)

    rows = {
        "sampler=strided\nvariance=fixed_large": (AncestralSampler, EvenSpacing, FixedLarge()),
        "sampler=strided\nvariance=fixed_small": (AncestralSampler, EvenSpacing, FixedSmall()),
        "sampler=ddim": (DDIMSampler, EvenSpacing, FixedSmall()),
        "sampler=dpm_solver": (
            DPMSolverSampler,
            partial(LogSNRSpacing, log_snr_max=8.0, log_snr_min=-8.0),
            FixedSmall(),
        ),
    }
    counts = (4, 8, 15, 50)
    figure, axes = plt.subplots(len(rows), len(counts) + 1, figsize=(7.5, 6))
    for line, (name, (sampler, spacing, variance)) in zip(axes, rows.items(), strict=True):
        reverse = ReverseProcess(network, prediction=PredictStart(), variance=variance, clip_x_0=False)
        drawn = [sampler(spacing(k))(process, reverse, noise.initial((2,)), noise=noise) for k in counts]
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", family="monospace")
        for axis, x in zip(line, [*drawn, points], strict=True):
            mode = torch.cdist(x.double(), data.means()).argmin(1)
            axis.scatter(*x.T, s=2, c=[LIGHT[int(k)] for k in mode])
            axis.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), xticks=[], yticks=[], aspect="equal")
    for axis, name in zip(axes[0], [*(f"{k} steps" for k in counts), "data"], strict=True):
        axis.set_title(name)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    return figure


if __name__ == "__main__":
    main()
