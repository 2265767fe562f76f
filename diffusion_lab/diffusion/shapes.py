"""The shapes of the theory: a batch of images (or points), one step a sample, one float64 value a sample."""

from jaxtyping import Float, Float64, Int64
from torch import Tensor

Images = Float[Tensor, "b *dims"]  # (B, C, H, W), or (B, D) for points
Broadcast = Float[Tensor, "b ..."]  # (B, 1, …, 1) or (B, C, H, W): broadcasts against Images
PerSample = Float64[Tensor, " b"]
Steps = Int64[Tensor, " b"]  # t, 1 … T unless said otherwise
Times = Steps | PerSample  # t, whole or real, on the clock of the schedule
# y, what samples are conditioned on: int64 (B,) classes, float32 (B, D) vectors or (B, C, …) fields; a tuple of several, or None
Conditions = Tensor | tuple[Tensor, ...] | None
Number = float | int  # 7 is as good as 7.0 on a command line
