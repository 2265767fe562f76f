"""Muon: steps of equal length in all directions of a hidden matrix (Jordan et al. 2024).

B ← μ·B + G,   O ≈ U·Vᵀ of G + μ·B = U·S·Vᵀ,   θ ← θ − η·√max(1, m/n)·O      for θ of (m, n)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffusion_lab.models.tuning import DOWN, UP

_QUINTIC = 3.4445, -4.7750, 2.0315  # s ← a·s + b·s³ + c·s⁵ takes singular values in (0, 1] to about 1 in five rounds
_ROUNDS = 5
# First and last layers, embeddings, and triangular factors, in the networks of all families.
_NOT_HIDDEN = "input", "inputs", "output", "classes", "table", "embedding", "style", "judgement", "lower", "upper"


class Muon(Optimizer):
    """Muon for hidden matrices; AdamW for the first and last layers, embeddings and vectors, as its authors do.

    torch.optim.Muon supports only (m, n); here a convolution (out, in, k, k) is the matrix (out, in·k·k).

    Parameters
    ----------
    parameters: (name, parameter) pairs.
    lr, momentum: η and μ of the matrices. adamw_lr, betas, weight_decay: of AdamW; the decay also applies to the matrices.
    adamw_modules: parameters with one of these in their dotted name are AdamW's, as are the factors of LoRA, because steps of
    equal length in all directions of A and of B are not such steps of B·A.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float = 1e-2,
        momentum: float = 0.95,
        adamw_lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        adamw_modules: Sequence[str] = _NOT_HIDDEN,
    ) -> None:
        for name, value in {"lr": lr, "adamw_lr": adamw_lr, "weight_decay": weight_decay}.items():
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"optimizer.{name}={value} must be a number, 0 or more")
        if not (isinstance(momentum, int | float) and 0 <= momentum < 1):
            raise ValueError(f"optimizer.momentum={momentum} must lie in [0, 1)")
        if isinstance(adamw_modules, str) or adamw_modules is None:
            raise ValueError(f"optimizer.adamw_modules={adamw_modules} must be a list, such as [input,output]")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"optimizer.betas={list(betas)} must be two numbers in [0, 1)")
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in parameters:
            hidden = parameter.ndim > 1 and not set(name.split(".")) & {*adamw_modules, DOWN, UP}
            (matrices if hidden else others).append(parameter)
        of_adamw = AdamW([{"params": others}], lr=adamw_lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)
        of_muon = {"params": matrices, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([*of_adamw.param_groups, of_muon], {})
        self._share()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """AdamW shares our groups and state, so they are saved, resumed and scheduled together."""
        self._adamw = AdamW([torch.zeros(0)])
        self._adamw.param_groups = [group for group in self.param_groups if "momentum" not in group]
        self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # two overloads there
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "momentum" in group:
                self._step_matrices(group)
        self._adamw.step()
        return loss

    def _step_matrices(self, group: dict) -> None:
        """Matrices of one shape together: a few large products instead of many small ones."""
        alike: dict[tuple[int, int], list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                rows = parameter.shape[0]
                alike.setdefault((rows, parameter.numel() // rows), []).append(parameter)
        for (rows, columns), parameters in alike.items():
            directions = []
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(parameter.grad)
                directions.append((parameter.grad + group["momentum"] * buffer).reshape(rows, columns))
            step = -group["lr"] * max(1, rows / columns) ** 0.5
            stacked = torch.stack(directions)
            dtype = torch.bfloat16 if stacked.is_cuda else torch.float32
            for parameter, direction in zip(parameters, orthogonalized(stacked, dtype), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.reshape(parameter.shape), alpha=step)


def orthogonalized(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """U·S·Vᵀ -> about U·Vᵀ for each of (B, m, n), singular values above 5 % of the norm between 0.6 and 1.2.

    X ← (a + b·G + c·G²)·X with G = X·Xᵀ, five times. In float32 the factors, which commute with G, are multiplied in the small
    dimension first and applied to X once: 2.5 times fewer products for the (m, 9·m) of a 3×3 convolution. With bfloat16 products
    that diverges, because a rounded G has negative eigenvalues where X has small singular values; then G is computed from each X.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.float().mT if tall else matrices.float()
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    if dtype != torch.float32:
        for _ in range(_ROUNDS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return (x.mT if tall else x).to(matrices)
    gram = x @ x.mT
    identity = torch.eye(gram.shape[1], device=gram.device).expand_as(gram)
    product = identity
    for _ in range(_ROUNDS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c).add_(identity, alpha=a)
        product, gram = factor @ product, factor @ gram @ factor
    x = product @ x
    return (x.mT if tall else x).to(matrices)
