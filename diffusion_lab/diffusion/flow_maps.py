"""Flow maps: X(z, t, s), the point at time s of the path of the probability flow that is at z at time t.

On the straight path z_t = (1 − t)·x_0 + t·ε, t from 0 (data) to 1 (noise), the flow is dz/dt = v(z, t) = E[ε − x_0|z_t = z], and

    X(z, t, s) = z + (s − t)·u(z, t, s),   u(z, t, s) = 1/(t − s)·∫_s^t v(z_r, r) dr,   u(z, t, t) = v(z, t)         (1)
    X(X(z, t, r), r, s) = X(z, t, s)                                        semigroup                               (2)
    ∂_t X + ∂_z X·v(z, t) = 0,  or  u = v − (t − s)·(∂_z u·v + ∂_t u)       Eulerian                                (3)
    ∂_s X(z, t, s) = v(X(z, t, s), s)                                       Lagrangian                              (4)

u is the mean velocity between s and t (Geng et al. 2025, MeanFlow, eq. 3). X(z, t, t) = z whatever u is, and on t = s a trained
diffusion model is u. With that, each of (2), (3) and (4) for all t > s determines X: it becomes a loss by taking one u in it as the
prediction and everything else as its target, without gradient (`Residual`).

Every schedule is this path after a change of scale and time (`StraightPath`): z = x/(α + σ), t → σ/(α + σ). The flow of x is
dy/dρ = ε̂ in y = x/α and ρ = σ/α, and z = y/(1 + ρ) with σ/(α + σ) = ρ/(1 + ρ) makes it dz/dt = ε̂ − x̂_0. So outside `StraightPath`
all t, r and s of this module are times of the straight path, float64 (B,), and

    X_schedule(x, t, s) = (α_s + σ_s)·X(x/(α_t + σ_t), r_t, r_s),   r_t = σ_t/(α_t + σ_t)                          (5)

The papers' s = 0 is the clean end r_1 of a schedule, t = 1: below it no velocity is trained, and by (3) alone none would be fixed.
As in consistency models (Song et al. 2023, section 2), which stop at σ = 0.002, a map that ends there leaves noise of σ_1/α_1 in
its samples: half a grey level or less for data with levels (`CleanEnd`), 0.002 for EDM, 1/T for the straight path without
`log_snr_max`. x̂_0 of one more evaluation at t = s = r_1 removes it, as the last step of other samplers does.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .forward import per_sample
from .reverse import ReverseProcess
from .schedules import Schedule
from .shapes import Conditions, Images, Number, PerSample, Times

Velocity = Callable[[Images, PerSample], Images]  # v(z, t)
TwoTimes = Callable[[Images, PerSample, PerSample], Images]  # X(z, t, s), or the mean velocity u(z, t, s)


def flow_map(u: TwoTimes, z: Images, t: PerSample, s: PerSample) -> Images:
    """X(z, t, s) = z + (s − t)·u(z, t, s), equation (1)."""
    return z + per_sample(s - t, z) * u(z, t, s)


# ---- identities: zero for the exact map -----------------------------------------------------------------------------


def semigroup(x: TwoTimes, z: Images, t: PerSample, r: PerSample, s: PerSample) -> Images:
    """X(X(z, t, r), r, s) − X(z, t, s), equation (2) (Boffi et al. 2025, the semigroup condition)."""
    return x(x(z, t, r), r, s) - x(z, t, s)


def eulerian(x: TwoTimes, v: Velocity, z: Images, t: PerSample, s: PerSample) -> Images:
    """∂_t X + ∂_z X·v(z, t), equation (3): the end does not change while the start moves along the flow
    (Boffi et al. 2025, the Eulerian condition; Geng et al. 2025, MeanFlow, eq. 6, times −1).
    """
    return _along_the_flow(x, z, t, s, v(z, t))[1]


def lagrangian(x: TwoTimes, v: Velocity, z: Images, t: PerSample, s: PerSample) -> Images:
    """∂_s X(z, t, s) − v(X(z, t, s), s), equation (4) (Boffi et al. 2025, the Lagrangian condition)."""
    end, slope = _along_the_end(x, z, t, s)
    return slope - v(end, s)


def _along_the_flow(f: TwoTimes, z: Images, t: PerSample, s: PerSample, v: Images) -> tuple[Images, Images]:
    """f(z, t, s) and ∂_z f·v + ∂_t f, the rate of change for dz/dt = v (Geng et al. 2025, MeanFlow, eq. 8)."""
    return _with_rate(lambda z, t: f(z, t, s), (z, t), (v, torch.ones_like(t)))


def _along_the_end(f: TwoTimes, z: Images, t: PerSample, s: PerSample) -> tuple[Images, Images]:
    """f(z, t, s) and ∂_s f."""
    return _with_rate(lambda s: f(z, t, s), (s,), (torch.ones_like(s),))


def _with_rate(f: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    value, rate, *_ = torch.func.jvp(f, at, along)
    return value, rate


# ---- schedules and networks -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StraightPath:
    """A schedule as a straight path, equation (5). Here t is the schedule's, in [1, T], and r the time of the straight path."""

    schedule: Schedule

    def scale(self, t: Times) -> PerSample:
        """α_t + σ_t = x/z."""
        signal, sigma = self.schedule.pair(t)
        return signal + sigma

    def times(self, t: Times) -> PerSample:
        """r = σ_t/(α_t + σ_t)."""
        signal, sigma = self.schedule.pair(t)
        return sigma / (signal + sigma)

    def schedule_times(self, r: PerSample) -> PerSample:
        """The t of r, for r between those of t = 1 and t = T.

        One Newton step after the schedule's own answer gives dt/dr = 1/(dr/dt), also where that is found by bisection.
        """
        last = self.schedule.num_timesteps
        t = self.schedule.time_at(2 * ((1 - r) / r).log().detach()).detach().clamp(1, last)
        inside = t.clamp(max=last * (1 - 1e-9))  # a table is constant from T on
        _, slope = _with_rate(self.times, (inside,), (torch.ones_like(t),))
        return t + (r - self.times(t)) / slope


@dataclass(frozen=True)
class MeanVelocity:
    """u(z, t, s) = ε̂ − x̂_0 of a network of two times, whatever it predicts; without s, v(z, t) of a network of one time.

    (x̂_0, ε̂) is the pair that the output implies together with x_t, so z = (1 − t)·x̂_0 + t·ε̂: x̂_0 = z − t·u and ε̂ = z + (1 − t)·u
    are the ends of the chord from z. On t = s they estimate E[x_0|z] and E[ε|z], and u is the instantaneous velocity: a trained
    diffusion model is the diagonal of a flow map. With PredictFlow the output is u itself, on every schedule; PredictStart divides
    by t, and PredictNoise by 1 − t, which ends near 0.

    Parameters
    ----------
    reverse: its network also takes s, as (image, timesteps, y, end), end being to s what timesteps are to t.
    path: of the schedule that the network was trained on. y: conditions of the samples.
    """

    reverse: ReverseProcess
    path: StraightPath
    y: Conditions = None

    def __call__(self, z: Images, t: PerSample, s: PerSample | None = None) -> Images:
        schedule, prediction = self.path.schedule, self.reverse.prediction
        start = self.path.schedule_times(t)
        end = None if s is None else self.path.schedule_times(s)
        x_t = per_sample(self.path.scale(start), z) * z
        output, _ = self.reverse.evaluate(schedule, x_t, start, self.y, end)
        return prediction.to_eps(schedule, output, x_t, start) - prediction.to_x_0(schedule, output, x_t, start)


# ---- residuals ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Velocities:
    """The velocities that a residual is made of: the trained u, and others without gradient.

    Parameters
    ----------
    u: the mean velocity that is trained.
    teacher: a frozen v(z, t), such as a trained diffusion model's, guided or not; None: that of u on t = s.
    """

    u: TwoTimes
    teacher: Velocity | None = None

    def instantaneous(self, z: Images, t: PerSample) -> Images:
        """v(z, t), without gradient."""
        with torch.no_grad():
            return self.u(z, t, t) if self.teacher is None else self.teacher(z, t)


class Residual(ABC):
    """Δ, zero in the mean for the exact map: its mean square, weighted or not, is the loss that trains u.

    All but the prediction is a target without gradient: the gradient of ½·‖Δ‖² is Δ·∂_θ u(z, t, s) (for `Lagrangian` Δ·∂_θ ∂_s X).
    The prediction is a plain evaluation of u, and derivatives are of a target.

    v is a velocity at (z, t): of the sample, ε − x_0, whose mean given z is v(z, t), or a teacher's. Where it enters linearly, the
    mean of Δ is that of the marginal velocity.

    `reads_v`: it does, so that the residual alone determines the map; otherwise it is trained beside flow matching.
    `reads_own_v`: u on t = s enters, if there is no teacher. `differentiates_a_jvp`: the gradient passes through a jvp.
    `more_evaluations` of the network than flow matching's, a jvp counted as two.
    """

    reads_v: ClassVar[bool] = True
    differentiates_a_jvp: ClassVar[bool] = False

    @property
    def reads_own_v(self) -> bool:
        return not self.reads_v

    @property
    @abstractmethod
    def more_evaluations(self) -> int: ...

    @abstractmethod
    def __call__(self, of: Velocities, z: Images, t: PerSample, s: PerSample, v: Images) -> Images: ...


@dataclass(frozen=True)
class FlowMatching(Residual):
    """Δ = u(z, t, t) − v: the instantaneous velocity (Lipman et al. 2023), on which all other residuals rest. s is ignored."""

    more_evaluations = 0

    def __call__(self, of: Velocities, z: Images, t: PerSample, s: PerSample, v: Images) -> Images:
        return of.u(z, t, t) - v.detach()


@dataclass(frozen=True)
class Eulerian(Residual):
    """Δ = u − sg[v − (t − s)·(∂_z u·w + ∂_t u)], equation (3), by a jvp in z and t (Geng et al. 2025, MeanFlow, eq. 9 to 11).

    Linear in v and w, so both may be the sample's ε − x_0. On t = s this is flow matching.

    own_tangent: w is v(z, t) of the network itself or the teacher, not v: less noise in the derivative (Geng et al. 2025,
    "Improved Mean Flows", eq. 12, without its head for v).
    """

    own_tangent: bool = False

    @property
    def reads_own_v(self) -> bool:
        return self.own_tangent

    @property
    def more_evaluations(self) -> int:
        return 3 if self.own_tangent else 2

    def __call__(self, of: Velocities, z: Images, t: PerSample, s: PerSample, v: Images) -> Images:
        with torch.no_grad():
            w = of.instantaneous(z, t) if self.own_tangent else v
            _, rate = _along_the_flow(of.u, z, t, s, w)
            target = v - per_sample(t - s, z) * rate
        return of.u(z, t, s) - target


@dataclass(frozen=True)
class Lagrangian(Residual):
    """Δ = ∂_s X(z, t, s) − sg[v(X(z, t, s), s)], equation (4), by a jvp in s (Boffi et al. 2025, Lagrangian self-distillation).

    X is no sample, so its velocity is the network's own, or a teacher's, and v is ignored: trained beside flow matching. Only
    here the gradient passes through a jvp, because the derivative itself is trained.
    """

    reads_v = False
    differentiates_a_jvp = True
    more_evaluations = 4  # the gradient of a jvp takes twice an evaluation's

    def __call__(self, of: Velocities, z: Images, t: PerSample, s: PerSample, v: Images) -> Images:
        end, slope = _along_the_end(lambda z, t, s: flow_map(of.u, z, t, s), z, t, s)
        return slope - of.instantaneous(end.detach(), s)


@dataclass(frozen=True)
class Progressive(Residual):
    """Δ = u(z, t, s) − sg[½·(u(z, t, r) + u(X(z, t, r), r, s))], r = (t + s)/2: equation (2) without derivatives
    (Frans et al. 2024, shortcut models, section 3; Boffi et al. 2025, progressive self-distillation).

    No velocity enters, so v is ignored: trained beside flow matching. Errors of short steps add up in long ones.
    """

    reads_v = False
    more_evaluations = 2

    def __call__(self, of: Velocities, z: Images, t: PerSample, s: PerSample, v: Images) -> Images:
        with torch.no_grad():
            r = (t + s) / 2
            first = of.u(z, t, r)
            second = of.u(z + per_sample(r - t, z) * first, r, s)
        return of.u(z, t, s) - (first + second) / 2


@dataclass(frozen=True)
class Consistency(Residual):
    """Δ = (X(z_r, r, s) − X(z, t, s))/(t − r) with z_r = z − (t − r)·v and r = t − h·(t − s): consistency models, s = r_1
    (Song et al. 2023, eq. 10 for v = ε − x_0, when z_r is (1 − r)·x_0 + r·ε, and eq. 7 with Euler's step for a teacher's v).

        Δ = u − sg[v − (1 − h)/h·(u − u(z_r, r, s))]

    which is equation (3) with a difference in place of the derivative, so u has a bias of first order in h. On h = 1 it is flow
    matching, and on h → 0 `Eulerian`: ECT shortens h during training, r/t = 1 − h for s = 0 (Geng et al. 2024). The gradient of
    ½·‖Δ‖² is that of ½·w·‖X − sg X(z_r, r, s)‖² with w = 1/((t − r)·(t − s)).

    step: h, above 0 and at most 1.
    """

    more_evaluations = 1
    step: Number = 0.125

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise ValueError(
                f"objective.residual.step={self.step} must be a share of the way from t to s, above 0 and at most 1"
            )

    def __call__(self, of: Velocities, z: Images, t: PerSample, s: PerSample, v: Images) -> Images:
        u = of.u(z, t, s)
        with torch.no_grad():
            back = self.step * (t - s)
            earlier = of.u(z - per_sample(back, z) * v, t - back, s)
            target = v - (1 - self.step) / self.step * (u - earlier)
        return u - target


@dataclass(frozen=True)
class AdaptiveWeighting:
    """w = sg[1/(‖Δ‖²/D + c)^p] (Geng et al. 2025, MeanFlow, section 4.3, with the sum over D dimensions).

    w·‖Δ‖² has the gradient of ‖Δ‖^{2(1 − p)}: on p = 0 no weight, on p = ½ nearly pseudo-Huber's, on p = 1 relative errors.
    """

    power: Number = 1.0
    constant: Number = 1e-6

    def __post_init__(self) -> None:
        if not (0 <= self.power <= 1 and self.constant > 0):
            raise ValueError(
                f"objective.weighting.power={self.power} and constant={self.constant}: need 0 ≤ power ≤ 1 and constant > 0"
            )

    def weight(self, mse: PerSample) -> PerSample:
        """w of ‖Δ‖²/D, float64 (B,)."""
        return (mse.detach() + self.constant) ** -self.power
