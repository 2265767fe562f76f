"""What is measured of a model: a class for each metric, yours beside them."""

from diffusion_lab.metrics.advice import StepAdvice
from diffusion_lab.metrics.bits_by_steps import BitsBySteps
from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.metrics.classes import ClassAccuracy, ClassCoverage, InceptionScore
from diffusion_lab.metrics.copying import Copying
from diffusion_lab.metrics.cost import Cost, NetworkEvaluations
from diffusion_lab.metrics.diagnosis import DistanceByLogSNR, ErrorByLogSNR
from diffusion_lab.metrics.distances import FrechetDistance, KernelDistance, PrecisionRecall
from diffusion_lab.metrics.infinity import FrechetInfinity
from diffusion_lab.metrics.metric import FeatureMetric, Metric, Naming, Need
from diffusion_lab.metrics.patches import SlicedWasserstein
from diffusion_lab.store.measures import HIGH, LOW, Measure

__all__ = [
    "HIGH",
    "LOW",
    "BitsBySteps",
    "BitsPerDim",
    "ClassAccuracy",
    "ClassCoverage",
    "Copying",
    "Cost",
    "DistanceByLogSNR",
    "ErrorByLogSNR",
    "FeatureMetric",
    "FrechetDistance",
    "FrechetInfinity",
    "InceptionScore",
    "KernelDistance",
    "Measure",
    "Metric",
    "Naming",
    "Need",
    "NetworkEvaluations",
    "PrecisionRecall",
    "SlicedWasserstein",
    "StepAdvice",
]
