"""What every family is to the rest of the package: something that draws samples and, if it can, states a likelihood.

Evaluation, sweeps and report ask only what is declared here and never which family it is. Randomness is keyed, not
carried: row i of a sample depends on (weights, seed, indices[i], y[i]) and on nothing else, so neither the batch size
nor the number of devices changes an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diffusion_lab.diffusion import derive_seed
from diffusion_lab.files import write_whole
from diffusion_lab.models.optimization import Optimization

_DROPOUT = 0  # a stream of the seed
RAW = "raw"  # the weights that training resumes from


@dataclass(frozen=True)
class Likelihood:
    """-log2 p(x_0) / D of a batch of B images, or a bound on it, and what it is made of.

    bits_per_dim    (B,) float64, bits per dimension
    kind            what the number is: bound of the full chain, bound of a strided chain, ELBO, exact density, ...
    parts           named summands of bits_per_dim, each (B,) float64
    curve           by term, or None. A 1-D entry (K,) says which the K terms are (e.g. "timesteps") and is the same for
                    every batch; a 2-D entry (B, K) holds a quantity per image and term
    standard_error  of this batch's mean, from the randomness of the estimate (noise, choice of terms) alone and
                    independent between batches; None where it was not estimated or nothing is random
    """

    bits_per_dim: Tensor
    kind: str
    parts: dict[str, Tensor]
    curve: dict[str, Tensor] | None = None
    standard_error: float | None = None


class GenerativeModel(LightningModule, ABC):
    """A family's LightningModule. A subclass sets the facts of the data it was built for and fills in the methods."""

    shape: tuple[int, ...]  # (C, H, W) or (D,)
    num_levels: int | None  # data levels that [-1, 1] is divided into; None: continuous data
    num_classes: int | None  # None: unconditional, y is None everywhere

    seed: int  # keys everything random in training
    optimization: Optimization
    skipped_steps: int = 0  # of this training, because something was not finite

    def __init__(self) -> None:
        super().__init__()
        # name -> {parameter name -> averaged tensor}; filled in by the EMA callback. A plain attribute: the state_dict
        # holds the raw weights only.
        self.averages: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def sample(self, indices: Tensor, seed: int, y: Tensor | None = None) -> Tensor:
        """Samples number `indices` (int64 (B,)) of the stream `seed`: (B, *shape) float32 in [-1, 1].

        y: int64 (B,) class indices, or None.
        """

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Network evaluations that one sample takes."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What decides samples and likelihood beside the weights (sampler, spacing, variance, clipping), as plain JSON."""

    def sampling_protocol(self) -> dict[str, Any]:
        """The part of `protocol` that decides samples: models of equal weights that agree in it draw the same images."""
        return self.protocol()

    def likelihood(
        self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, max_terms: int | None
    ) -> Likelihood | None:
        """The likelihood of the images x_0 (B, *shape), or None for a family that has none.

        Row i depends on (weights, seed, indices[i], x_0[i], y[i]) only. A sum of more than max_terms terms is estimated
        without bias from max_terms of them; None: all terms.
        """
        return None

    @property
    def batches_trained(self) -> int:
        """k while batch k is trained on, counted over all resumes: the clock that keys randomness in training."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout is keyed by (seed, k, rank), so that nothing random has to be saved."""
        torch.manual_seed(derive_seed(self.seed, _DROPOUT, self.batches_trained, self.trainer.global_rank))

    def configure_optimizers(self) -> Any:
        return self.optimization.configure(self.parameters(), self.trainer)

    @property
    def weight_names(self) -> list[str]:
        """What `use_weights` accepts: "raw" and the averages."""
        return [RAW, *self.averages]

    def save_weights(self, files: Mapping[str, Path]) -> None:
        """Write the weights of each name to its safetensors file, whole or not at all."""
        for name, path in files.items():
            tensors = self.state_dict() if name == RAW else self.averages[name]
            # Contiguous: a file keeps no memory format.
            write_whole(path, save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}))

    def load_weights(self, files: Mapping[str, Path]) -> None:
        """Read what `save_weights` wrote. Raises ValueError, naming the file, if it is broken or of another model."""
        for name, path in files.items():
            try:
                tensors = load_file(path)
                if name == RAW:
                    self.load_state_dict(tensors)
                else:
                    self.averages[name] = tensors
                    self._averaged(name)
            except (SafetensorError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{path} does not hold the weights of this model: {' '.join(str(error).split())}"
                ) from error

    @contextmanager
    def use_weights(self, name: str) -> Iterator[None]:
        """Inside the block the parameters are those of `name`; the raw ones are back afterwards, whatever happened.

        Tensors change places, nothing is copied over the raw weights, so no fault inside the block can damage them.
        Parameters that an average does not cover keep their raw values.

        Raises ValueError if there are no such weights, or if they do not fit the module's parameters.
        """
        if name == RAW:
            yield
            return
        averaged = self._averaged(name)
        raw = [parameter.data for parameter, _ in averaged]
        try:
            for parameter, average in averaged:
                parameter.data = average
            yield
        finally:
            for (parameter, _), weights in zip(averaged, raw, strict=True):
                parameter.data = weights

    def _averaged(self, name: str) -> list[tuple[nn.Parameter, Tensor]]:
        """(parameter, its average) pairs, moved to where and what the parameter is; checked before anything is swapped."""
        if name not in self.averages:
            raise ValueError(f"the model has no weights {name!r}; it has {', '.join(self.weight_names)}")
        parameters = dict(self.named_parameters())
        pairs = []
        for key, average in self.averages[name].items():
            if key not in parameters or parameters[key].shape != average.shape:
                raise ValueError(f"the averaged weights {name!r} do not fit this model: {key} {tuple(average.shape)}")
            pairs.append((parameters[key], average.to(parameters[key])))
        return pairs
