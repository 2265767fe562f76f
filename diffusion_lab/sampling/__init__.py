"""Sampling: which times are visited, how a step is taken, and guidance.

spacings      the times to visit
samplers      the loop, and the steps of first order: ancestral, DDIM
solvers       steps of higher order: Heun, DPM-Solver, improved pseudo-numerical methods
guidance      reverse processes guided towards a class, or away from a weaker model
rounding      from a finished sample to the data's levels
editing       denoising, interpolation and inpainting with a trained model
"""

from diffusion_lab.diffusion import DataMoments, MomentsStart, NoiseStart, Start

from .editing import denoise_from, inpaint, slerp
from .guidance import Autoguidance, ClassifierFree, ClassifierGuidance, Guidance, GuidedReverse, Unguided, Worse
from .rounding import EndLevels, NearestLevel, Rounding
from .samplers import AnalyticDDIMSampler, AncestralSampler, DDIMSampler, Sampler
from .solvers import DPMSolverSampler, HeunSampler, IPNDMSampler
from .spacings import AllSteps, EvenSpacing, KarrasSpacing, LogSNRSpacing, QuadraticSpacing, Spacing

# fmt: off
__all__ = [
    "AllSteps", "AnalyticDDIMSampler", "AncestralSampler", "Autoguidance", "ClassifierFree", "ClassifierGuidance",
    "DDIMSampler", "DPMSolverSampler", "DataMoments", "EndLevels", "EvenSpacing", "Guidance", "GuidedReverse", "HeunSampler",
    "IPNDMSampler", "KarrasSpacing", "LogSNRSpacing", "MomentsStart", "NearestLevel", "NoiseStart", "QuadraticSpacing",
    "Rounding", "Sampler", "Spacing", "Start", "Unguided", "Worse", "denoise_from", "inpaint", "slerp",
]
