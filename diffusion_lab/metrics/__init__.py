"""What is measured of a model: a class for each metric, yours beside them."""

from diffusion_lab.metrics.bits_by_steps import BitsBySteps as BitsBySteps
from diffusion_lab.metrics.bits_per_dim import BitsPerDim as BitsPerDim
from diffusion_lab.metrics.class_accuracy import ClassAccuracy as ClassAccuracy
from diffusion_lab.metrics.class_coverage import ClassCoverage as ClassCoverage
from diffusion_lab.metrics.copying import Copying as Copying
from diffusion_lab.metrics.costs import Cost as Cost
from diffusion_lab.metrics.costs import NetworkEvaluations as NetworkEvaluations
from diffusion_lab.metrics.distance_by_log_snr import DistanceByLogSNR as DistanceByLogSNR
from diffusion_lab.metrics.error_by_log_snr import ErrorByLogSNR as ErrorByLogSNR
from diffusion_lab.metrics.frechet_distance import FrechetDistance as FrechetDistance
from diffusion_lab.metrics.frechet_infinity import FrechetInfinity as FrechetInfinity
from diffusion_lab.metrics.inception_score import InceptionScore as InceptionScore
from diffusion_lab.metrics.kernel_distance import KernelDistance as KernelDistance
from diffusion_lab.metrics.metric import FeatureMetric as FeatureMetric
from diffusion_lab.metrics.metric import Metric as Metric
from diffusion_lab.metrics.metric import Naming as Naming
from diffusion_lab.metrics.metric import Need as Need
from diffusion_lab.metrics.precision_recall import PrecisionRecall as PrecisionRecall
from diffusion_lab.metrics.schedule_advice import StepAdvice as StepAdvice
from diffusion_lab.metrics.sliced_wasserstein import SlicedWasserstein as SlicedWasserstein
from diffusion_lab.store.measures import HIGH as HIGH
from diffusion_lab.store.measures import LOW as LOW
from diffusion_lab.store.measures import Measure as Measure
