"""The shapes of the theory: a batch of images (or points), one step per sample, one float64 value per sample."""

from jaxtyping import Float, Float64, Int64
from torch import Tensor

Images = Float[Tensor, "b *dims"]  # (B, C, H, W), or (B, D) for points
Broadcast = Float[Tensor, "b ..."]  # (B, 1, …, 1) or (B, C, H, W): broadcasts against Images
PerSample = Float64[Tensor, " b"]
Steps = Int64[Tensor, " b"]  # t, 1 … T unless said otherwise
Times = Steps | PerSample  # t, whole or real, on the clock of the schedule
# y, conditions of samples: int64 (B,) classes, float32 (B, D) vectors or (B, C, …) fields; a tuple of several, or None
Conditions = Tensor | tuple[Tensor, ...] | None
Number = float | int  # a command line may have 7 for 7.0
