"""What is a noisy image, given a clean one? The forward process, which has no parameters.

    q(x_t|x_{t−1})      = N(√(1 − β_t)·x_{t−1}, β_t·I)                            Ho et al. 2020, eq. 2
    q(x_t|x_0)          = N(√ᾱ_t·x_0, (1 − ᾱ_t)·I)                                eq. 4
    q(x_{t−1}|x_t, x_0) = N(μ̃_t(x_t, x_0), β̃_t·I)                                 eq. 6
        μ̃_t = √ᾱ_{t−1}·β_t/(1 − ᾱ_t)·x_0 + √α_t·(1 − ᾱ_{t−1})/(1 − ᾱ_t)·x_t       eq. 7
        β̃_t = (1 − ᾱ_{t−1})/(1 − ᾱ_t)·β_t                                         eq. 7

with α_t = 1 − β_t and ᾱ_t = ∏_{s≤t} α_s. t runs from 1 to T; t = 0 is clean data.

One float64 table of ᾱ is kept and everything else is derived from it, which makes a chain over some of the steps the same
object as the chain over all of them: β of a kept step is 1 − ᾱ/ᾱ of the kept step before it (Nichol & Dhariwal 2021, eq. 19).
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from .gaussian import Gaussian
from .schedules import Schedule
from .shapes import Broadcast, Images, PerSample, Steps


def per_sample(values: PerSample, like: Images) -> Broadcast:
    """One float64 value a sample -> (B, 1, …, 1) in the dtype of `like`: cast last, after all float64 arithmetic."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


class GaussianDiffusion:
    """The forward chain of a schedule, or of a subsequence of its steps.

    Not a module and not on a device: `.to()` and `.half()` on a model cannot cast its table. Look-ups follow the device of t.

    Attributes
    ----------
    num_timesteps: K, the steps of this chain (T before any respacing).
    timesteps: int64 (K,), 0-based indices of the kept steps in the *original* chain: what the network sees at t is
        `timesteps[t − 1]`, so a network trained on the full chain serves every subsequence of it.
    """

    def __init__(self, schedule: Schedule, kept: Int64[Tensor, " K"] | None = None) -> None:
        """The chain of `schedule`, or, with `kept` (strictly increasing, in 1 … T), the chain that visits only those steps."""
        self.schedule = schedule
        self._kept = torch.arange(1, schedule.num_timesteps + 1) if kept is None else kept
        table = schedule.alpha_bar()
        self._alpha_bar = {torch.device("cpu"): torch.cat([table[:1], table[self._kept]])}
        self.num_timesteps = len(self._kept)
        self.timesteps = self._kept - 1

    def respace(self, kept: Int64[Tensor, " K"]) -> "GaussianDiffusion":
        """The chain over the steps `kept` ⊂ {1 … num_timesteps} of this chain, with β and β̃ of its own.

        `kept` is strictly increasing. Marginals q(x_t|x_0) at the kept steps do not change (Nichol & Dhariwal 2021, eq. 19).
        """
        valid = (
            len(kept) > 0
            and int(kept[0]) >= 1
            and int(kept[-1]) <= self.num_timesteps
            and bool((kept.diff() > 0).all())
        )
        if not valid:
            raise ValueError(f"kept must be strictly increasing within 1 … {self.num_timesteps}, got {kept.tolist()}")
        return GaussianDiffusion(self.schedule, self._kept[kept - 1])

    def alpha_bar(self, t: Steps) -> PerSample:
        """ᾱ_t, t in 0 … num_timesteps; ᾱ_0 = 1."""
        if t.device not in self._alpha_bar:
            self._alpha_bar[t.device] = self._alpha_bar[torch.device("cpu")].to(t.device)
        return self._alpha_bar[t.device].index_select(0, t)

    def shown(self, t: Steps) -> Steps:
        """What the network sees at t: the 0-based index of the step in the original chain, t in 1 … num_timesteps.

        No other t wraps around to some step: `index_select` does not count from the end. A CPU refuses it here with a sentence; a
        GPU, which nothing here waits for, fails on the device.
        """
        beyond = t[(t < 1) | (t > self.num_timesteps)] if t.device.type == "cpu" else ()
        if len(beyond):
            raise ValueError(
                f"t = {int(beyond[0])} has no step back: the steps are 1 … {self.num_timesteps}, and t = 0 is clean data"
            )
        return self.timesteps.to(t.device).index_select(0, t - 1)

    def beta(self, t: Steps) -> PerSample:
        """β_t = 1 − ᾱ_t/ᾱ_{t−1}, t in 1 … num_timesteps."""
        return 1 - self.alpha_bar(t) / self.alpha_bar(t - 1)

    def beta_tilde(self, t: Steps) -> PerSample:
        """β̃_t = (1 − ᾱ_{t−1})/(1 − ᾱ_t)·β_t, t in 1 … num_timesteps; β̃_1 = 0 since x_0 is then known."""
        return (1 - self.alpha_bar(t - 1)) / (1 - self.alpha_bar(t)) * self.beta(t)

    def log_beta_tilde(self, t: Steps) -> PerSample:
        """log β̃_t, where log β̃_1 = −∞ is replaced by log β̃_2 (by log β_1 in a chain of one step).

        So do Improved DDPM and the one of DDPM's two files that states likelihoods (`diffusion_utils_2.py`); 1e-20 in its place, as
        in the other, would make L_0 absurd.
        """
        if self.num_timesteps == 1:
            return self.beta(t).log()
        return self.beta_tilde(t.clamp(min=2)).log()

    def snr(self, t: Steps) -> PerSample:
        """ᾱ_t/(1 − ᾱ_t), the signal-to-noise ratio."""
        return self.alpha_bar(t) / (1 - self.alpha_bar(t))

    def q_step(self, x_prev: Images, t: Steps, eps: Images) -> Images:
        """x_t = √(1 − β_t)·x_{t−1} + √β_t·ε ~ q(x_t|x_{t−1}) (Ho et al. 2020, eq. 2)."""
        beta = self.beta(t)
        return per_sample((1 - beta).sqrt(), x_prev) * x_prev + per_sample(beta.sqrt(), x_prev) * eps

    def q_sample(self, x_0: Images, t: Steps, eps: Images) -> Images:
        """x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε ~ q(x_t|x_0) (Ho et al. 2020, eq. 4)."""
        alpha_bar = self.alpha_bar(t)
        return per_sample(alpha_bar.sqrt(), x_0) * x_0 + per_sample((1 - alpha_bar).sqrt(), x_0) * eps

    def q_marginal(self, x_0: Images, t: Steps) -> Gaussian:
        """q(x_t|x_0) = N(√ᾱ_t·x_0, (1 − ᾱ_t)·I) (Ho et al. 2020, eq. 4)."""
        alpha_bar = self.alpha_bar(t)
        return Gaussian(per_sample(alpha_bar.sqrt(), x_0) * x_0, per_sample((1 - alpha_bar).log(), x_0))

    def q_posterior(self, x_0: Images, x_t: Images, t: Steps) -> Gaussian:
        """q(x_{t−1}|x_t, x_0) = N(μ̃_t(x_t, x_0), β̃_t·I) (Ho et al. 2020, eq. 6 and 7); log β̃_1 as in `log_beta_tilde`."""
        alpha_bar, alpha_bar_prev, beta = self.alpha_bar(t), self.alpha_bar(t - 1), self.beta(t)
        of_x_0 = alpha_bar_prev.sqrt() * beta / (1 - alpha_bar)
        of_x_t = (1 - beta).sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
        mean = per_sample(of_x_0, x_0) * x_0 + per_sample(of_x_t, x_0) * x_t
        return Gaussian(mean, per_sample(self.log_beta_tilde(t), x_0))
