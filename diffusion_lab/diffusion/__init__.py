"""The theory of denoising diffusion, part by part; each file answers one question.

schedules    how fast does the signal decay?                     ᾱ_t
process      what is a noisy image, given a clean one?           q(x_t|x_0), q(x_{t−1}|x_t, x_0)
reverse      what is a less noisy image, given a noisy one?      p_θ(x_{t−1}|x_t)
objectives   what is a good network?                             L_simple, L_hybrid, L_vlb
guidance     how hard is a sample pushed towards its class?      p_θ(x_{t−1}|x_t, y), steered
samplers     which steps do we visit, and how do we take one?    S ⊂ {1 … T}
interpolation, denoising, inpainting: what else one trained model draws
"""

from .bound import Bound, bound_term, variational_bound
from .denoising import denoise_from
from .gaussian import Gaussian
from .guidance import ClassifierFree, ClassifierGuidance, Guidance, GuidedReverse, Unguided
from .inpainting import inpaint
from .interpolation import interpolate, slerp
from .noise import SampleNoise, derive_seed
from .objectives import Hybrid, MinSNR, Objective, Simple, Unweighted, VariationalBound, Weighting
from .predictions import Prediction, PredictNoise, PredictStart, PredictVelocity
from .process import GaussianDiffusion
from .reverse import ReverseProcess, ReverseStep
from .samplers import AncestralSampler, DDIMSampler, Sampler
from .schedules import CosineSchedule, LinearSchedule, Schedule, SigmoidSchedule
from .spacings import AllSteps, EvenSpacing, QuadraticSpacing, Spacing
from .timesteps import LossAwareTimesteps, StratifiedTimesteps, TimestepSampler, UniformTimesteps
from .variances import FixedLarge, FixedSmall, LearnedRange, Variance

__all__ = [
    "AllSteps",
    "AncestralSampler",
    "Bound",
    "ClassifierFree",
    "ClassifierGuidance",
    "CosineSchedule",
    "DDIMSampler",
    "EvenSpacing",
    "FixedLarge",
    "FixedSmall",
    "Gaussian",
    "GaussianDiffusion",
    "Guidance",
    "GuidedReverse",
    "Hybrid",
    "LearnedRange",
    "LinearSchedule",
    "LossAwareTimesteps",
    "MinSNR",
    "Objective",
    "PredictNoise",
    "PredictStart",
    "PredictVelocity",
    "Prediction",
    "QuadraticSpacing",
    "ReverseProcess",
    "ReverseStep",
    "SampleNoise",
    "Sampler",
    "Schedule",
    "SigmoidSchedule",
    "Simple",
    "Spacing",
    "StratifiedTimesteps",
    "TimestepSampler",
    "Unguided",
    "UniformTimesteps",
    "Unweighted",
    "Variance",
    "VariationalBound",
    "Weighting",
    "bound_term",
    "denoise_from",
    "derive_seed",
    "inpaint",
    "interpolate",
    "slerp",
    "variational_bound",
]
