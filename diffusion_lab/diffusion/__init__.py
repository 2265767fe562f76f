"""The theory of denoising diffusion, part by part.

forward               the forward process: q(x_t|x_0), q(x_t|x_s), q(x_s|x_t, x_0)
chain                 GaussianDiffusion: the table of a chain of steps, ᾱ_t, β_t, β̃_t, and its respacing
schedules             α_t and σ_t at each t: linear, cosine, sigmoid, a table; the ends of a schedule
given_schedules       an object with alpha_bar() alone as a schedule
continuous_schedules  α_t and σ_t by a formula in real t: linear log SNR (VDM), rectified flow, EDM
learned_schedule      a schedule that is trained with the network (VDM)
predictions           what the network's output a·x_0 + b·ε stands for: noise, x_0, velocity, flow, EDM
variances             Σ_θ of a reverse step: fixed, learned range
clipping              x̂_0 in the range of the data; dynamic thresholding
reverse               the reverse process p_θ(x_s|x_t)
gaussian              N(μ, σ²): its KL, its density, its mass in a bin of discretized data
decoders              p(x_0|x_1), the term L_0 of the bound
bound                 the variational bound, term by term: L_T, L_{t−1}, L_0
objectives            the losses: L_simple, L_hybrid, L_vlb, L_∞
flow_maps             the map X(z, t, s) of the probability flow, its identities, and residuals that train it
flow_map_objective    the loss of a flow map: flow matching on t = s, a residual on s < t; its steps; a teacher
weightings            the weights w(t) of L_simple: min-SNR, sigmoid, EDM
timesteps             the t that training draws: uniform, stratified, log-normal, importance-sampled; quarters of t
starts                p(x_T)
noise                 noise as a function of seed, sample and t
streams               the keys of independent random streams
levels                data on L levels, as values in [−1, 1]
condition_parts       functions on y, the conditions of samples: one, several or none
shapes                types of tensors

`diffusion_lab.sampling` samples from a model, `diffusion_lab.analysis` measures a trained model.

One training step, in the order in which the files are visited (Ho et al. 2020, algorithm 1; `DiffusionModel.training_step`):

    timesteps    (t, w) ~ p(t)
    objectives   L at t: Simple, Hybrid, …
    forward      x_t = α_t·x_0 + σ_t·ε                                   q_sample
    predictions  what the network sees of x_t and t                      inputs
    reverse      the network's output, and its variance part             evaluate
    predictions  the target of the output, a·x_0 + b·ε                   target
    for L_vlb:   p_θ(x_s|x_t) as below, then bound and gaussian: its KL to q(x_s|x_t, x_0)

One sampling step (algorithm 2; `sampling/sampler.py`, `walk`):

    starts       x_T, before the first step
    spacings     the times to visit, for which the process is respaced; t and s are two neighbours
    steps, solvers   the step rule, given x_t, t, s
    reverse      the network's output
    predictions  x̂_0 = (b·x_t − σ·output)/(α·b − σ·a)                     to_x_0
    clipping     x̂_0 clipped to the range of the data
    forward      the mean of q(x_s|x_t, x̂_0)                             q_posterior
    variances    Σ_θ
    noise        ε by (seed, index of the sample, t)
    gaussian     x_s = μ + σ·ε
"""

from .bound import Bound, bound_term, variational_bound
from .chain import GaussianDiffusion
from .clipping import Clamp, Clipping, DynamicThreshold, NoClipping
from .continuous_schedules import EDMSchedule, LogSNRSchedule, RealSchedule, RectifiedSchedule
from .decoders import Decoder, EndLevelDecoder, GaussianDecoder, LevelDecoder
from .flow_map_objective import FlowMap, Teacher
from .flow_maps import (
    AdaptiveWeighting,
    Consistency,
    Eulerian,
    FlowMatching,
    Lagrangian,
    MeanVelocity,
    Progressive,
    Residual,
    StraightPath,
    Velocities,
    flow_map,
)
from .forward import ForwardProcess
from .gaussian import Gaussian
from .learned_schedule import LearnedSchedule
from .noise import SampleNoise, derive_seed
from .objectives import ContinuousBound, Hybrid, Objective, Pairs, Rows, Simple, VariationalBound
from .predictions import PredictEDM, PredictFlow, Prediction, PredictNoise, PredictStart, PredictVelocity
from .reverse import ReverseProcess, ReverseStep
from .schedules import CleanEnd, CosineSchedule, LinearSchedule, Schedule, SigmoidSchedule, TableSchedule
from .starts import DataMoments, MomentsStart, NoiseStart, Start
from .timesteps import (
    LossAwareTimesteps,
    LowDiscrepancyTimesteps,
    NormalTimesteps,
    StratifiedTimesteps,
    TimestepSampler,
    UniformTimesteps,
)
from .variances import FixedLarge, FixedSmall, LearnedRange, Variance
from .weightings import ErrorOf, MinSNR, SigmoidWeighting, Unweighted, Weighting

# fmt: off
__all__ = [
    "AdaptiveWeighting", "Bound", "Clamp", "CleanEnd", "Clipping", "Consistency", "ContinuousBound", "CosineSchedule",
    "DataMoments", "Decoder", "DynamicThreshold", "EDMSchedule", "EndLevelDecoder", "ErrorOf", "Eulerian", "FixedLarge",
    "FixedSmall", "FlowMap", "FlowMatching", "ForwardProcess", "Gaussian", "GaussianDecoder", "GaussianDiffusion", "Hybrid",
    "Lagrangian", "LearnedRange", "LearnedSchedule", "LevelDecoder", "LinearSchedule", "LogSNRSchedule", "LossAwareTimesteps",
    "LowDiscrepancyTimesteps", "MeanVelocity", "MinSNR", "MomentsStart", "NoClipping", "NoiseStart", "NormalTimesteps",
    "Objective", "Pairs", "PredictEDM", "PredictFlow", "PredictNoise", "PredictStart", "PredictVelocity", "Prediction",
    "Progressive", "RealSchedule", "RectifiedSchedule", "Residual", "ReverseProcess", "ReverseStep", "Rows", "SampleNoise",
    "Schedule", "SigmoidSchedule", "SigmoidWeighting", "Simple", "Start", "StraightPath", "StratifiedTimesteps", "TableSchedule",
    "Teacher", "TimestepSampler", "UniformTimesteps", "Unweighted", "Variance", "VariationalBound", "Velocities", "Weighting",
    "bound_term", "derive_seed", "flow_map", "variational_bound",
]
