"""Weightings w(t) of the steps in L_simple: none, min-SNR, sigmoid, and those of other predictions, such as EDM's."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from .forward import ForwardProcess
from .predictions import Prediction
from .shapes import Number, PerSample, Times


@dataclass(frozen=True)
class Weighting(ABC):
    """w(t) of L_simple."""

    @abstractmethod
    def weight(self, process: ForwardProcess, prediction: Prediction, t: Times) -> PerSample:
        """The factor on the squared error of the network's target."""


@dataclass(frozen=True)
class Unweighted(Weighting):
    """w(t) = 1: L_simple as published."""

    def weight(self, process: ForwardProcess, prediction: Prediction, t: Times) -> PerSample:
        return torch.ones_like(process.snr(t))


@dataclass(frozen=True)
class WeightedStart(Weighting):
    """A weighting defined for the squared error of x̂_0, and therefore independent of what the network predicts."""

    @abstractmethod
    def of_x_0(self, process: ForwardProcess, t: Times) -> PerSample:
        """The factor on ‖x_0 − x̂_0‖²/D; times σ²/α² it is the factor on the error of ε̂."""

    def weight(self, process: ForwardProcess, prediction: Prediction, t: Times) -> PerSample:
        return self.of_x_0(process, t) / prediction.error_scale(process, t)


@dataclass(frozen=True)
class MinSNR(WeightedStart):
    """Weight min(SNR(t), γ) on the squared error of x̂_0 (Hang et al. 2023)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"weighting.gamma={self.gamma} must be above 0")

    def of_x_0(self, process: ForwardProcess, t: Times) -> PerSample:
        return process.snr(t).clamp(max=self.gamma)


@dataclass(frozen=True)
class SigmoidWeighting(WeightedStart):
    """Weight sigmoid(b − log SNR(t)) on the squared error of ε̂ (Kingma & Gao 2023).

    Their loss is an integral over log SNR. It equals this one, up to a factor, if t is uniform and log SNR linear in t
    (schedule=log_snr); with other schedules each log SNR is also weighted by the time spent near it.
    """

    bias: Number = 2.0

    def of_x_0(self, process: ForwardProcess, t: Times) -> PerSample:
        log_snr = process.log_snr(t)
        return log_snr.exp() * (self.bias - log_snr).sigmoid()


@dataclass(frozen=True)
class ErrorOf(WeightedStart):
    """Weight 1 on the squared error of the quantity that `prediction` predicts, whatever the network predicts.

    For PredictEDM(s) this is EDM's λ(σ) = (σ² + s²)/(σ·s)² on the error of x̂_0, stated for α = 1 (Karras et al. 2022, table 1).
    """

    prediction: Prediction

    def of_x_0(self, process: ForwardProcess, t: Times) -> PerSample:
        return self.prediction.error_scale(process, t)


UNWEIGHTED = Unweighted()
