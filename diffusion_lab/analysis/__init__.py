"""Measurements of a trained model's steps, and their use for spacings, variances and advice.

network_statistics  moments of the network's output and error: E‖ε̂‖², E‖x_0 − x̂_0‖²
optimal_variance    the variance of a reverse step with the least bound, from these (Analytic-DPM)
step_costs          the bits of each stride: L(t, s), L_0(t)
optimal_spacing     the times with the least sum of costs
advice              the gain of other times, or of more of them
chain_bounds        the bounds of many chains, from one pass
ideal_denoiser      the best possible denoiser of a finite data set, E[x_0|x_t]
"""

from .advice import ScheduleAdvice, advise, possible_ends
from .chain_bounds import chain_bounds
from .ideal_denoiser import ideal_denoiser
from .network_statistics import NetworkStatistics, dimension_statistics, network_statistics
from .optimal_spacing import OptimalSpacing
from .optimal_variance import Analytic, AnalyticDiagonal
from .step_costs import StepCosts, last_step_bits, step_costs

# fmt: off
__all__ = [
    "Analytic", "AnalyticDiagonal", "NetworkStatistics", "OptimalSpacing", "ScheduleAdvice", "StepCosts", "advise",
    "chain_bounds", "dimension_statistics", "ideal_denoiser", "last_step_bits", "network_statistics", "possible_ends", "step_costs",
]
