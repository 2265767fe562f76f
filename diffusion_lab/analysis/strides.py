"""What is known of every stride from t to s at once? Many chains of two steps, looked up as one."""

import torch
from torch import Tensor

from diffusion_lab.diffusion.process import GaussianDiffusion, Row, _between
from diffusion_lab.diffusion.shapes import Steps


class TwoSteps(GaussianDiffusion):
    """B chains, one a sample: step 2 of chain b goes from t_b to s_b, and step 1 from s_b to clean data.

    Chain b is process.respace([s_b, t_b]). Whatever depends on a process through what is known of its steps, as a variance does, is
    so found for all strides in one call: ask it at t = 2, or at t = 1 for the last step.

    Parameters
    ----------
    s, t: int64 (B,), 1 ≤ s_b < t_b, steps of `process`.
    """

    def __init__(self, process: GaussianDiffusion, s: Steps, t: Steps) -> None:
        self.__dict__.update(process.__dict__, num_timesteps=2, _here=None, shared_t=None)
        nothing = torch.zeros_like(s)
        time, signal, noise = (
            torch.stack([of(step) for step in (nothing, s, t)], dim=1).double()
            for of in (process.time, process.signal, process.noise)
        )
        alpha, beta, beta_tilde, of_x_t, of_x_0 = _between(signal[:, 1:], noise[:, 1:], signal[:, :-1], noise[:, :-1])
        log_beta_tilde = beta_tilde[:, 1:].log().expand_as(beta)  # log β̃_1 is that of β̃_2
        of_steps = (alpha, beta, beta.log(), beta_tilde, log_beta_tilde, of_x_t, of_x_0)
        unknown = torch.full_like(beta[:, :1], torch.nan)  # at t = 0
        columns = (time, time - 1, signal, noise, *(torch.cat([unknown, column], dim=1) for column in of_steps))
        self._chains = torch.stack(columns, dim=-1)

    def _row(self, t: Steps) -> Row[Tensor]:
        return Row(*self._chains[torch.arange(len(t)), t].unbind(-1))
