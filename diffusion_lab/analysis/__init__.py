"""Measurements of a trained model's steps, and what follows from them.

network_statistics  moments of the network's output and of its error      E‖ε̂‖², E‖x_0 − x̂_0‖²
analytic            the optimal variance of a reverse step, from these    σ*²
step_costs          the bits of each stride                               L(t, s), L_0(t)
optimal_spacing     the times with the least sum of costs; advice: what they gain
chain_bounds        the bounds of many chains, from one pass
"""

from .advice import ScheduleAdvice, advise, possible_ends
from .analytic import Analytic, AnalyticDiagonal
from .chain_bounds import chain_bounds
from .network_statistics import NetworkStatistics, dimension_statistics, network_statistics
from .optimal_spacing import OptimalSpacing
from .step_costs import StepCosts, last_step_bits, step_costs

# fmt: off
__all__ = [
    "Analytic", "AnalyticDiagonal", "NetworkStatistics", "OptimalSpacing", "ScheduleAdvice", "StepCosts", "advise",
    "chain_bounds", "dimension_statistics", "last_step_bits", "network_statistics", "possible_ends", "step_costs",
]
