"""Sampling: the times that are visited, the rule of each step, and guidance.

spacings              the times to visit: even, quadratic, even in log SNR, Karras, straight
sampler               the loop, and what a step rule is given
steps                 step rules of first order: ancestral (DDPM), DDIM, analytic DDIM, flow maps
solvers               step rules of higher order: Heun, Heun with churn, DPM-Solver++, improved pseudo-numerical methods
guidance              classifier-free guidance, autoguidance (away from a worse model), both in an interval or everywhere
classifier_guidance   guidance by the gradient of a classifier of noisy images
rounding              from a finished sample to the data's levels
editing               denoising, interpolation and inpainting with a trained model
"""

from diffusion_lab.diffusion import DataMoments, MomentsStart, NoiseStart, Start

from .classifier_guidance import ClassifierGuidance
from .editing import denoise_from, inpaint, slerp
from .guidance import Autoguidance, ClassifierFree, Guidance, GuidedReverse, Unguided, Worse
from .rounding import EndLevels, NearestLevel, Rounding
from .sampler import Sampler, Walk
from .solvers import ChurnSampler, DPMSolverSampler, HeunSampler, IPNDMSampler
from .spacings import AllSteps, EvenSpacing, KarrasSpacing, LogSNRSpacing, QuadraticSpacing, Spacing, StraightSpacing
from .steps import AnalyticDDIMSampler, AncestralSampler, DDIMSampler, FlowMapSampler

# fmt: off
__all__ = [
    "AllSteps", "AnalyticDDIMSampler", "AncestralSampler", "Autoguidance", "ChurnSampler", "ClassifierFree",
    "ClassifierGuidance", "DDIMSampler", "DPMSolverSampler", "DataMoments", "EndLevels", "EvenSpacing", "FlowMapSampler",
    "Guidance", "GuidedReverse", "HeunSampler", "IPNDMSampler", "KarrasSpacing", "LogSNRSpacing", "MomentsStart", "NearestLevel",
    "NoiseStart", "QuadraticSpacing", "Rounding", "Sampler", "Spacing", "Start", "StraightSpacing", "Unguided", "Walk", "Worse",
    "denoise_from", "inpaint", "slerp",
]
