"""The theory of denoising diffusion, part by part; each file answers one question.

schedules    how fast does the signal decay?                     α_t, σ_t (real_schedules: at real t; learned_schedule: trained)
process      what is a noisy image, given a clean one?           q(x_t|x_0), q(x_s|x_t, x_0)
predictions  what does the network say?                          a·x_0 + b·ε
reverse      what is a less noisy image, given a noisy one?      p_θ(x_s|x_t)
statistics   how large is what the network says, and how wrong?  E‖ε̂‖², E‖x_0 − x̂_0‖²
analytic     how wide is a reverse step at best, after these?    σ*²
regressed    how wide is it at each image, in each dimension?    a head on the frozen network
step_costs   what does each stride cost, in bits?               L(t, s), L_0(t); optimal_spacing: the least sum; advice: its gain
chain_bounds what does each of many chains cost, in bits?       their bounds, from one pass
decoders     which data does the last step mean?                 p(x_0|x_1)
rounding     which level does a finished sample mean?
objectives   what is a good network?                             L_simple, L_hybrid, L_vlb, L_∞
guidance     how hard is a sample pushed towards its class?      p_θ(x_s|x_t, y), steered
starts       where does the chain start?                      p(x_T)
samplers     which times do we visit, and how do we take a step? S ⊂ [1, T]
solvers      how do we take a long one?                          an equation, solved to a higher order
interpolation, denoising, inpainting: what else one trained model draws

One training step, in the order in which the files are visited (Ho et al. 2020, algorithm 1; `DiffusionModel.training_step`):

    timesteps    (t, w) ~ p(t)
    objectives   L at t: Simple, Hybrid, …
    process      x_t = α_t·x_0 + σ_t·ε                                   q_sample
    predictions  what the network sees of x_t and t                      inputs
    reverse      the network's output, and its variance part             evaluate
    predictions  what it should have been, a·x_0 + b·ε                   target
    for L_vlb:   p_θ(x_s|x_t) as below, then bound and gaussian: its KL to q(x_s|x_t, x_0)

One sampling step (algorithm 2; `samplers.py`, `walk`):

    starts       x_T, before the first step
    spacings     the times to visit, for which the process is respaced; t and s are two neighbours
    samplers     the step rule, given x_t, t, s
    reverse      the network's output
    predictions  x̂_0 = (b·x_t − σ·output)/(α·b − σ·a)                     to_x_0
    clipping     what becomes of x̂_0
    process      the mean of q(x_s|x_t, x̂_0)                             q_posterior
    variances    Σ_θ
    noise        ε by (seed, index of the sample, t)
    gaussian     x_s = μ + σ·ε
"""

from .advice import ScheduleAdvice, advise, possible_ends
from .analytic import Analytic, AnalyticDiagonal
from .bound import Bound, bound_term, variational_bound
from .chain_bounds import chain_bounds
from .clipping import Clamp, Clipping, DynamicThreshold, NoClipping
from .decoders import Decoder, EndLevelDecoder, GaussianDecoder, LevelDecoder
from .denoising import denoise_from
from .gaussian import Gaussian
from .guidance import Autoguidance, ClassifierFree, ClassifierGuidance, Guidance, GuidedReverse, Unguided, Worse
from .inpainting import inpaint
from .interpolation import slerp
from .learned_schedule import LearnedSchedule
from .noise import SampleNoise, derive_seed
from .objectives import (
    ContinuousBound,
    ErrorOf,
    Hybrid,
    MinSNR,
    Objective,
    SigmoidWeighting,
    Simple,
    Unweighted,
    VariationalBound,
    Weighting,
)
from .optimal_spacing import OptimalSpacing
from .predictions import PredictEDM, PredictFlow, Prediction, PredictNoise, PredictStart, PredictVelocity
from .process import GaussianDiffusion
from .real_schedules import EDMSchedule, LogSNRSchedule, RealSchedule, RectifiedSchedule
from .regressed import Regressed, WithHead, residual_terms
from .reverse import ReverseProcess, ReverseStep
from .rounding import EndLevels, NearestLevel, Rounding
from .samplers import AnalyticDDIMSampler, AncestralSampler, DDIMSampler, Sampler
from .schedules import CleanEnd, CosineSchedule, LinearSchedule, Schedule, SigmoidSchedule
from .solvers import DPMSolverSampler, HeunSampler, IPNDMSampler
from .spacings import AllSteps, EvenSpacing, KarrasSpacing, LogSNRSpacing, QuadraticSpacing, Spacing
from .starts import DataMoments, MomentsStart, NoiseStart, Start
from .statistics import NetworkStatistics, dimension_statistics, network_statistics
from .step_costs import StepCosts, last_step_bits, step_costs
from .table_schedule import TableSchedule
from .timesteps import (
    LossAwareTimesteps,
    LowDiscrepancyTimesteps,
    NormalTimesteps,
    StratifiedTimesteps,
    TimestepSampler,
    UniformTimesteps,
)
from .variances import FixedLarge, FixedSmall, LearnedRange, Variance

__all__ = [
    "AllSteps",
    "Analytic",
    "AnalyticDDIMSampler",
    "AnalyticDiagonal",
    "AncestralSampler",
    "Autoguidance",
    "Bound",
    "Clamp",
    "ClassifierFree",
    "ClassifierGuidance",
    "CleanEnd",
    "Clipping",
    "ContinuousBound",
    "CosineSchedule",
    "DDIMSampler",
    "DPMSolverSampler",
    "DataMoments",
    "Decoder",
    "DynamicThreshold",
    "EDMSchedule",
    "EndLevelDecoder",
    "EndLevels",
    "ErrorOf",
    "EvenSpacing",
    "FixedLarge",
    "FixedSmall",
    "Gaussian",
    "GaussianDecoder",
    "GaussianDiffusion",
    "Guidance",
    "GuidedReverse",
    "HeunSampler",
    "Hybrid",
    "IPNDMSampler",
    "KarrasSpacing",
    "LearnedRange",
    "LearnedSchedule",
    "LevelDecoder",
    "LinearSchedule",
    "LogSNRSchedule",
    "LogSNRSpacing",
    "LossAwareTimesteps",
    "LowDiscrepancyTimesteps",
    "MinSNR",
    "MomentsStart",
    "NearestLevel",
    "NetworkStatistics",
    "NoClipping",
    "NoiseStart",
    "NormalTimesteps",
    "Objective",
    "OptimalSpacing",
    "PredictEDM",
    "PredictFlow",
    "PredictNoise",
    "PredictStart",
    "PredictVelocity",
    "Prediction",
    "QuadraticSpacing",
    "RealSchedule",
    "RectifiedSchedule",
    "Regressed",
    "ReverseProcess",
    "ReverseStep",
    "Rounding",
    "SampleNoise",
    "Sampler",
    "Schedule",
    "ScheduleAdvice",
    "SigmoidSchedule",
    "SigmoidWeighting",
    "Simple",
    "Spacing",
    "Start",
    "StepCosts",
    "StratifiedTimesteps",
    "TableSchedule",
    "TimestepSampler",
    "Unguided",
    "UniformTimesteps",
    "Unweighted",
    "Variance",
    "VariationalBound",
    "Weighting",
    "WithHead",
    "Worse",
    "advise",
    "bound_term",
    "chain_bounds",
    "denoise_from",
    "derive_seed",
    "dimension_statistics",
    "inpaint",
    "last_step_bits",
    "network_statistics",
    "possible_ends",
    "residual_terms",
    "slerp",
    "step_costs",
    "variational_bound",
]
