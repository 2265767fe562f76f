"""The objective of flow maps: flow matching where s = t, and one residual where s < t.

    L = E_{s ≤ t} w·‖Δ(z_t, t, s)‖²/D,   Δ = u(z, t, t) − v on s = t, else that of the residual

(Boffi et al. 2025, self-distillation; Geng et al. 2025, MeanFlow, algorithm 1.) See `flow_maps` for z, u, v and the residuals.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .condition_parts import left_out
from .flow_maps import AdaptiveWeighting, FlowMatching, MeanVelocity, Residual, StraightPath, Velocities, Velocity
from .forward import per_sample
from .objectives import Known, Objective, Pairs, Rows, Terms, mean_square
from .reverse import ReverseProcess
from .schedules import Schedule
from .shapes import Conditions, Images, Number, PerSample


@dataclass(frozen=True, repr=False)
class Teacher:
    """v(z, t) of a trained diffusion model, without gradient.

    reverse: of a network of one time, or of two on t = s, trained on `schedule`: any, because v is that of the straight path.
    unconditional: whether it was also trained without its conditions, if it has any.
    """

    reverse: ReverseProcess
    schedule: Schedule
    unconditional: bool = True

    def velocity(self, y: Conditions, guidance: Number = 1.0) -> Velocity:
        """v(∅) + guidance·(v(y) − v(∅)), at times of the straight path; a model without conditions ignores y."""
        path, null = StraightPath(self.schedule), self.reverse.null
        first, last = path.times(torch.tensor([1.0, self.schedule.num_timesteps], dtype=torch.float64)).tolist()
        given = MeanVelocity(self.reverse, path, None if null is None else y)
        free = MeanVelocity(self.reverse, path, None if null is None else left_out(y, null))

        def velocity(z: Images, t: PerSample) -> Images:
            t = t.clamp(first, last)
            return given(z, t) if guidance == 1 else torch.lerp(free(z, t), given(z, t), guidance)

        return velocity


@dataclass(frozen=True)
class FlowMap(Objective[Schedule]):
    """Flow matching and a residual, each on rows of its own: without s a call is flow matching, with s the residual.

    Parameters
    ----------
    residual: Δ on s < t. share: of the samples with s < t. The residuals without v need flow matching, so less than all.
    to_clean_end: s is the clean end of the schedule, as in consistency models, whose further steps are `restarts` of the sampler;
    otherwise t and s are the later and the earlier of two draws of t (Geng et al. 2025, MeanFlow, section 4.3).
    curriculum: the share of the budget of training over which t − s grows in proportion from 0. At 0 the residuals with v are flow
    matching, and the others are zero.
    weighting: w. guidance: ω of v(∅) + ω·(v(y) − v(∅)) in place of v (Geng et al. 2025, section 4.2), v(∅) that of the
    teacher, or of u itself without its conditions: samples are then guided in one evaluation. 1: none.
    teacher: a trained diffusion model, whose velocity takes the place of the sample's, under any schedule; None: none.
    """

    residual: Residual
    share: Number = 0.5
    to_clean_end: bool = False
    curriculum: Number = 0.0
    weighting: AdaptiveWeighting = AdaptiveWeighting(power=0)  # noqa: RUF009 - frozen
    guidance: Number = 1.0
    teacher: Teacher | None = None
    reads_variance = False
    trains_variance = False
    two_times = True
    term_names = ("mse", "loss")

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1):
            raise ValueError(f"objective.share={self.share} must be a share of the samples, above 0 and at most 1")
        if self.share == 1 and not self.residual.reads_v:
            raise ValueError(
                f"objective.share=1: residual {type(self.residual).__name__} is trained beside flow matching, on some of the "
                "samples; use objective.share=0.5"
            )
        if self.share == 1 and self.to_clean_end and (self.needs_null or self.residual.reads_own_v):
            raise ValueError(
                "objective.share=1 objective.to_clean_end=true trains no u on t = s, which objective.guidance and "
                "objective.residual.own_tangent read; use objective.share=0.5"
            )
        if not 0 <= self.curriculum <= 1:
            raise ValueError(f"objective.curriculum={self.curriculum} must be a share of the budget, from 0 to 1")
        if not self.guidance > 0:  # at 0 without a teacher no data enter
            raise ValueError(f"objective.guidance={self.guidance} must be above 0; 1 is no guidance")
        if self.guides and self.teacher is not None and self.teacher.reverse.null is None:
            raise ValueError(
                f"objective.guidance={self.guidance}: the teacher has no conditions; use objective.guidance=1, or a teacher with "
                "the condition of the model"
            )

    @property
    def evaluations(self) -> Number:
        """Those of the network; a teacher's velocity, guided or not, counts as one."""
        with_v = 1 if self.residual.reads_v else 1 - self.share
        more = self.guides or self.teacher is not None
        return super().evaluations + self.share * self.residual.more_evaluations + more * with_v

    @property
    def guides(self) -> bool:
        return self.guidance != 1

    @property
    def needs_null(self) -> bool:
        return self.guides and self.teacher is None

    @property
    def needs_conditions(self) -> bool:
        return self.teacher is not None and self.teacher.reverse.null is not None and not self.teacher.unconditional

    @property
    def differentiates_a_jvp(self) -> bool:
        return self.residual.differentiates_a_jvp

    def rows(self, numbers: Tensor) -> Rows:
        """Chosen by number, so that parts of a batch and batches one after another have their share, whatever the processes."""
        before, after = (numbers.double() * self.share).floor(), ((numbers + 1).double() * self.share).floor()
        return Rows((after > before).nonzero().flatten(), (after == before).nonzero().flatten())

    def pairs(self, t: PerSample, other: PerSample, rows: Rows, progress: float = 1.0) -> Pairs:
        apart = rows.apart
        later = t if self.to_clean_end else torch.maximum(t, other)
        earlier = torch.ones_like(t) if self.to_clean_end else torch.minimum(t, other)
        length = min(1.0, progress / self.curriculum) if self.curriculum > 0 else 1.0
        s = torch.lerp(later, earlier, length)
        return Pairs(t.index_copy(0, apart, later[apart]), s[apart])

    def __call__(
        self,
        process: Schedule,
        reverse: ReverseProcess,
        x_0: Images,
        t: PerSample,
        eps: Images,
        y: Conditions = None,
        known: Known = None,
        s: PerSample | None = None,
    ) -> Terms:
        """The terms of steps from t to s; None: of flow matching at t. "mse" is ‖Δ‖²/D."""
        path = StraightPath(process)
        r, u, v = path.times(t), MeanVelocity(reverse, path, y), eps - x_0
        z = per_sample(1 - r, x_0) * x_0 + per_sample(r, x_0) * eps
        taught = None if self.teacher is None else self.teacher.velocity(y, self.guidance)
        residual = FlowMatching() if s is None else self.residual
        with torch.no_grad():
            if taught is not None and residual.reads_v:
                v = taught(z, r)
            elif self.needs_null and residual.reads_v:
                v = torch.lerp(MeanVelocity(reverse, path, left_out(y, reverse.null))(z, r, r), v, self.guidance)
        delta = residual(Velocities(u, taught), z, r, r if s is None else path.times(s), v)
        mse = mean_square(delta, known)
        return {"mse": mse, "loss": self.weighting.weight(mse) * mse}
