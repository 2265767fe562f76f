"""What every flow has in common, as a network: an invertible map, the embedding of the class, initialisation from data."""

import torch
from torch import Tensor, nn

from diffusion_lab.families.flow.couplings import Transform, fit_actnorms


class Flow(nn.Module):
    """network(x (B, *shape) float32, y int64 (B,) | None) -> z (B, D), log|det ∂z/∂x| (B,); inverse(z, y) -> x.

    transform: the map. num_classes: None for an unconditional flow; embedding_dim: size of the class embedding of its couplings.
    `initialised` is a buffer: what `initialise` did is saved with the weights, and is not done again.
    """

    initialised: Tensor

    def __init__(self, transform: Transform, num_classes: int | None, embedding_dim: int):
        super().__init__()
        self.transform = transform
        self.classes = nn.Embedding(num_classes, embedding_dim) if num_classes is not None else None
        self.register_buffer("initialised", torch.tensor(False))
        self._known_as_initialised = False

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform(x, self._embedded(y))

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.transform.inverse(z, self._embedded(y))

    @property
    def has_started(self) -> bool:
        """`initialised`; once it is, it is not read from a GPU again."""
        self._known_as_initialised = self._known_as_initialised or bool(self.initialised)
        return self._known_as_initialised

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """Fit every actnorm to the batch x, which must be that of all ranks together."""
        fit_actnorms(self.transform, x, self._embedded(y))
        self.initialised.fill_(True)

    def _embedded(self, y: Tensor | None) -> Tensor | None:
        if (y is None) != (self.classes is None):
            raise ValueError("pass class labels y if, and only if, the flow was built with num_classes")
        return None if y is None or self.classes is None else self.classes(y)
