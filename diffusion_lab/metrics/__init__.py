"""What is measured of a model: a class for each metric, yours beside them."""

from diffusion_lab.metrics.bits_by_steps import BitsBySteps
from diffusion_lab.metrics.bits_per_dim import BitsPerDim
from diffusion_lab.metrics.class_accuracy import ClassAccuracy
from diffusion_lab.metrics.class_coverage import ClassCoverage
from diffusion_lab.metrics.copying import Copying
from diffusion_lab.metrics.costs import Cost, NetworkEvaluations
from diffusion_lab.metrics.distance_by_log_snr import DistanceByLogSNR
from diffusion_lab.metrics.error_by_log_snr import ErrorByLogSNR
from diffusion_lab.metrics.frechet_distance import FrechetDistance
from diffusion_lab.metrics.frechet_infinity import FrechetInfinity
from diffusion_lab.metrics.inception_score import InceptionScore
from diffusion_lab.metrics.kernel_distance import KernelDistance
from diffusion_lab.metrics.metric import FeatureMetric, Metric, Naming, Need
from diffusion_lab.metrics.precision_recall import PrecisionRecall
from diffusion_lab.metrics.schedule_advice import StepAdvice
from diffusion_lab.metrics.sliced_wasserstein import SlicedWasserstein
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
