"""The base of all trained models, generative or not: keyed randomness, an optimizer, weights and their averages.

Randomness in training is a function of (seed, batch number) for the *global* batch of one optimizer step. Each rank, and
each part if gradients are accumulated, takes its rows, so no random state needs to be saved, and neither a resume nor the number
of devices or of parts changes a draw.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.conditions.condition import Size
from diffusion_lab.data.order import batches_trained, parts_trained
from diffusion_lab.diffusion import SampleNoise, TimestepSampler, derive_seed
from diffusion_lab.diffusion.condition_parts import classes_in
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import DROPOUT, TRAINING
from diffusion_lab.models.generator import Generator
from diffusion_lab.models.means import Mean
from diffusion_lab.models.optimization import Optimization, parameters_of
from diffusion_lab.models.tuning import added_parameters, base_parameters, merged_parameters
from diffusion_lab.models.weights import frozen, read_weights, write_weights
from diffusion_lab.networks.dropout import KeyedDropout, keyed, set_keys
from diffusion_lab.networks.embeddings import SECOND_TIME
from diffusion_lab.networks.fitting import Fitted, Origin, fitted
from diffusion_lab.networks.flops import NetworkCost, network_cost

_OF_ONE_TRAINING = "timesteps."  # prefix of state about the losses of a training, which is not part of the model
RAW = "raw"  # the name of the weights without averaging
Part = TypeVar("Part")


class TrainableModel(LightningModule):
    """A LightningModule whose training can be resumed exactly. A subclass sets the attributes and implements training."""

    # The network used after training. It is compiled (a GAN's discriminator is not, because its penalty is
    # differentiated twice, which torch.compile does not support), and its cost is reported.
    network: nn.Module
    shape: tuple[int, ...]  # (C, H, W) or (D,), of one sample of the data
    num_classes: int | None  # of y; None: y holds no classes
    conditions: tuple[Size, ...] = ()  # sizes of the parts of y, other than classes alone

    seed: int  # keys everything random in training
    optimization: Optimization
    skipped_steps: int = 0  # because of non-finite gradients
    gradient_norm: Tensor  # () of the optimizer's gradients before clipping
    validated_weights: str = RAW  # of the held-out loss
    needs_whole_batches: str | None = None  # why gradients cannot be accumulated over parts of a batch
    # Evaluations of `network` per image in a training step, with the backward pass as two; None if others are evaluated too.
    training_evaluations: float | None = None

    # Names of the values under "terms" of `training_step` (and `held_out_terms`), and under "weighted".
    term_names: tuple[str, ...] = ("loss",)
    weighted_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        # name -> {parameter name -> averaged tensor}; filled in by the EMA callback. A plain attribute: the state_dict
        # holds the raw weights only.
        self.averages: dict[str, dict[str, Tensor]] = {}
        self._dropouts: list[KeyedDropout] | None = None  # None: not trained in this process
        self._held_out = nn.ModuleDict()  # means of held-out terms

    def compile_step(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Compile the function that a training step evaluates, where that is more than `network`."""

    def check_compile(self, how: bool | str, trained: bool) -> None:
        """ValueError for a value of compile=… that this family cannot use. trained: it is not trained further."""
        if how and trained:
            raise ValueError(
                f"compile={how}: of trained models only those of model=diffusion are compiled; use compile=false"
            )
        if how == "graphs":
            raise ValueError("compile=graphs: only model=diffusion has a step that a GPU can repeat; use compile=true")

    @property
    def batches_trained(self) -> int:
        """k during training on batch k, counted over all resumes; it keys randomness in training."""
        return batches_trained(self.trainer)

    def random_stream(self, stream: int, device: torch.device) -> torch.Generator:
        """Random numbers for the current training batch: a function of (seed, stream, k)."""
        return torch.Generator(device).manual_seed(derive_seed(self.seed, stream, self.batches_trained))

    @property
    def part(self) -> int:
        """j during training on part j of a batch: 0, unless gradients are accumulated."""
        return parts_trained(self.trainer) % self.trainer.accumulate_grad_batches

    def global_batch(self, local: int) -> tuple[int, slice]:
        """(the number of rows of the batch over all ranks and parts, with `local` each; the rows trained on here and now)."""
        ranks = self.trainer.world_size
        share = self.part * ranks + self.trainer.global_rank
        return ranks * self.trainer.accumulate_grad_batches * local, slice(share * local, (share + 1) * local)

    def times_and_noise(self, x_0: Tensor, timesteps: TimestepSampler) -> tuple[Tensor, Tensor, Tensor]:
        """t, w and ε ~ N(0, I) for x_0 of this rank: its rows of those for the global batch, which every rank draws."""
        size, rows = self.global_batch(len(x_0))
        generator = self.random_stream(TRAINING, x_0.device)
        t, w = timesteps(size, generator)
        eps = torch.randn(size, *x_0.shape[1:], generator=generator, device=x_0.device)
        return t[rows], w[rows], eps[rows]

    def of_all_ranks(self, x: Tensor) -> Tensor:
        """x of every rank, along a new first axis if there are several."""
        gathered = self.all_gather(x)
        assert isinstance(gathered, Tensor)  # as x is
        return gathered

    def own_classes(self, y: Conditions) -> Tensor | None:
        """The classes in y, for a network with classes; else None, because data with classes give them to every model."""
        return None if self.num_classes is None else classes_in(y)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Key dropout by (seed, k, sample of the global batch, layer), and other random layers by (seed, k, rank and part)."""
        k, (_, rows) = self.batches_trained, self.global_batch(len(batch[0]))
        torch.manual_seed(derive_seed(self.seed, DROPOUT, k, rows.start // len(batch[0])))
        if self._dropouts is None:
            self._dropouts = keyed(self)
        if self._dropouts:
            samples = torch.arange(rows.start, rows.stop, device=self.device)
            set_keys(self._dropouts, derive_seed(self.seed, DROPOUT, k), samples)

    def held_out_terms(self, x_0: Tensor, y: Conditions, noise: SampleNoise) -> dict[str, Tensor]:
        """The terms of `training_step` for held-out images, each (B,) or a mean; randomness comes from `noise`."""
        raise NotImplementedError(f"{type(self).__name__} has no held-out loss; train it with val.every_n_steps=0")

    def validation_step(self, batch: tuple[Tensor, Conditions, SampleNoise], batch_idx: int) -> None:
        """Logs the means of all held-out terms over all ranks, as "val/<name>"."""
        x_0, y, noise = batch
        with self.use_weights(self.validated_weights):
            terms = {f"val/{name}": term for name, term in self.held_out_terms(x_0, y, noise).items()}
        for name, term in terms.items():
            if name not in self._held_out:
                self._held_out[name] = Mean().to(self.device)
            mean = self._held_out[name]
            assert isinstance(mean, Mean)
            mean.update(term.float().mean(), len(x_0))
            self.log(name, mean, on_step=False, on_epoch=True, metric_attribute=f"_held_out.{name}")
        # Lightning uses this name as the step to log at; its own count is one behind.
        self.log("step", float(self.trainer.global_step), on_step=False, on_epoch=True, reduce_fx="max", batch_size=1)

    def check_trainer(self, trainer: Trainer) -> None:
        """ValueError, in one sentence, for a Trainer option that this model does not support."""
        parts = trainer.accumulate_grad_batches
        if parts != 1 and self.needs_whole_batches:
            raise ValueError(
                f"trainer.accumulate_grad_batches={parts}: {self.needs_whole_batches}; use 1 and a smaller data.batch_size"
            )

    def configure_optimizers(self) -> Any:
        return self.optimization.configure(self.named_parameters(), self.trainer)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the norm computed already. Clipping by value needs no norm, and Lightning clips scaled gradients itself."""
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not gradient_clip_val or gradient_clip_algorithm == "value" or scaled:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            nn.utils.clip_grads_with_norm_(parameters_of(optimizer), gradient_clip_val, self.gradient_norm)

    def averaged_parameters(self) -> dict[str, Tensor]:
        """Parameters with averages, by name: all, except those used only in training. Additions of low rank are added to them."""
        return merged_parameters(self)

    def cost(self) -> NetworkCost:
        """The cost of one evaluation of `network`."""
        return network_cost(self.network, self.shape)

    @property
    def weight_names(self) -> list[str]:
        """Names accepted by `use_weights`: "raw", the averages, and earlier snapshots that were loaded."""
        return [RAW, *self.averages]

    def save_weights(self, files: Mapping[str, Path]) -> None:
        """Write the weights of each name to its safetensors file, whole or not at all."""
        for name, path in files.items():
            write_weights(path, self.state_dict() if name == RAW else self.averages[name])

    def save_snapshot(self, name: str, path: Path, **facts: str) -> None:
        """Write an average, or the raw weights, in the form that `load_weights` reads; `facts` are stored in the file."""
        write_weights(path, self.averages.get(name) or self.averaged_parameters(), {"weights": name, **facts})

    def load_weights(self, files: Mapping[str, Path]) -> None:
        """Load weights written by `save_weights`. ValueError, naming the file, if it is damaged or belongs to another model."""
        for name, path in files.items():
            tensors = read_weights(path, self.state_dict() if name == RAW else self.averaged_parameters())
            if name == RAW:
                self.load_state_dict(tensors)
            else:
                self.averages[name] = tensors

    def start_from(self, path: Path, origin: Origin = Origin()) -> Fitted:  # noqa: B008 - frozen
        """Load the weights of a file that `save_weights` wrote: the raw ones, or an average of these.

        They may belong to a network for another condition or image size, whose other weights are fitted or begin anew (`fitting`).
        A network of two times may start from one of one time: it is then a function of t alone until it is trained.

        origin: of these weights. ValueError, naming the file and the first difference, if it is damaged or belongs to another
        network; then nothing changes.
        """
        own = self.state_dict() if path.stem == RAW else self.averaged_parameters()
        made: list[Fitted] = []

        def fit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            made.append(fitted(self, tensors, origin))
            return made[0].weights

        tensors = read_weights(path, own, _OF_ONE_TRAINING, optional=SECOND_TIME, fit=fit)
        self.load_state_dict(tensors, strict=False)
        return made[0]

    def frozen(self, part: Part, weights: str) -> Part:
        """A copy of a network, or of a part that holds one, in evaluation mode with weights by name and without gradients.

        ValueError if there are no such weights. Parameters that an average does not cover have their raw values.
        """
        return frozen(part, {} if weights == RAW else dict(self._averaged(weights)))

    @contextmanager
    def use_weights(self, name: str) -> Iterator[None]:
        """Inside the block the parameters are those of `name`; the raw ones are restored afterwards in any case.

        Tensors are swapped, and nothing is copied over the raw weights, so no error inside the block can damage them.
        Parameters that an average does not cover keep their raw values.

        ValueError if there are no such weights, or if they do not fit the module's parameters.
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
        """(parameter, its average) pairs, the averages converted to the parameter's device and type; checked before any swap.

        Averages contain additions of low rank, which are therefore 0 beside them.
        """
        if name not in self.averages:
            raise ValueError(f"the model has no weights {name!r}; it has {', '.join(self.weight_names)}")
        parameters, pairs = dict(base_parameters(self)), [(up, torch.zeros_like(up)) for up in added_parameters(self)]
        for key, average in self.averages[name].items():
            if key not in parameters or parameters[key].shape != average.shape:
                raise ValueError(f"the averaged weights {name!r} do not fit this model: {key} {tuple(average.shape)}")
            pairs.append((parameters[key], average.to(parameters[key])))
        return pairs


class GenerativeModel(TrainableModel, ABC):
    """The LightningModule of a family, which trains, and returns a generator."""

    num_levels: int | None  # of the data; None: continuous data

    @abstractmethod
    def generator(self, weights: str = RAW) -> Generator:
        """The object that draws with these weights: "raw", an average or an earlier snapshot that was loaded.

        ValueError if there are no such weights. It holds copies, so neither further training nor another file changes it.
        """

    def cost(self) -> NetworkCost:
        """The cost of sampling: parameters, and operations of one evaluation."""
        return self.generator().cost()

    @property
    def guiding_snapshots(self) -> tuple[float | str, ...]:
        """Earlier snapshots of this training that guide the samples; samples drawn before one exists lack this guidance."""
        return ()
