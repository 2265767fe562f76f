"""variance=regressed: which head serves a model, and the head itself. A head is known by the weights that it was trained on.

The head's training is a model directory beside the others. Its training.json holds the digest of the weights that it serves, so a
head is found for a model, and a head of other weights is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from diffusion_lab.config.guiding import sha256_of
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.foreign import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.diffusion import Variance

_OPTION = "measured_variance.head"


def needed_head(directory: ModelDirectory, cfg: DictConfig, weights: str) -> ModelDirectory | None:
    """The folder of the head for these weights of a model; None where the variance of `cfg` needs none.

    The one that `cfg` names, or the newest beside the model. weights: their name, or "auto". MistakeError where there is no head.
    """
    from diffusion_lab.training.ema import default_weights

    node = cfg.get("measured_variance")
    if node is None or not getattr(get_object(node._target_), "needs_head", False):
        return None
    if not directory.finished:
        raise MistakeError(
            f"variance=regressed needs a head, which is trained on a finished model: train {directory.path} with another variance, "
            "then its head with `diffusion-lab train model=variance_head init_from=…`"
        )
    name = default_weights(directory.weight_names, directory.read_training()["steps"]) if weights == "auto" else weights
    file = directory.weight_files({name}).get(name)
    if file is None:
        raise MistakeError(
            f"variance=regressed: a head needs weights that are saved in {directory.path}, which lacks {name}; use one of "
            f"{', '.join(directory.weight_names)}"
        )
    served, named = sha256_of(file), node.get("head")
    if named is None:
        heads = [head for head in _beside(directory) if head.serves == served]
        if not heads:
            raise MistakeError(
                f"variance=regressed: there is no head for the weights {name} of {directory.path} beside it; "
                f"{_how(directory, name)}, or name it with {_OPTION}=…"
            )
        return max(heads, key=lambda head: head.training.stat().st_mtime_ns)
    head = ModelDirectory(Path(named))
    if head.read_training().get("serves") is None:
        raise MistakeError(f"{_OPTION}={named}: this folder has no variance head; {_how(directory, name)}")
    if head.serves != served:
        raise MistakeError(
            f"{_OPTION}={named}: this head was trained on other weights than {name} of {directory.path}; {_how(directory, name)}"
        )
    return head


def _beside(directory: ModelDirectory) -> list[ModelDirectory]:
    return [ModelDirectory(path) for path in sorted(directory.path.resolve().parent.glob("*")) if path.is_dir()]


def _how(directory: ModelDirectory, weights: str) -> str:
    from diffusion_lab.config.loading import load_config

    try:
        choices, conditional = directory.read_choices(), load_config(directory).get("conditional") is True
    except RunError:
        choices, conditional = {}, False
    classes = ["conditional=true"] if conditional else [f"labels={choices['labels']}"] if choices.get("labels") else []
    options = [*([f"data={choices['data']}"] if choices.get("data") else []), *classes, f"init_from={directory.path}"]
    command = f"train model=variance_head {' '.join(options)}"
    return f"train one with `diffusion-lab {command} init_weights={weights}`"


def load_head(head: ModelDirectory, variance: DictConfig) -> tuple[Callable[..., Tensor], Variance]:
    """(image and output, timesteps) -> v with the weights that suit its training, going where its input is; and the variance that
    reads v."""
    from diffusion_lab.config.loading import build_trained, load_config, settled
    from diffusion_lab.models.trainable import RAW
    from diffusion_lab.training.ema import default_weights

    model = build_trained(head, settled(load_config(head), head))
    if not model.needs_base:
        raise MistakeError(f"{_OPTION}={head.path}: this folder holds a {type(model).__name__}, not a variance head")
    files = head.weight_files()
    weights = default_weights(head.weight_names, head.read_training()["steps"])
    model.load_weights({RAW: files[weights]})
    model.requires_grad_(False).eval()
    name = f"{head.path.name}, {weights}, {sha256_of(files[weights])[:12]}"
    return lambda x, timesteps: model.to(x.device)(x, timesteps), instantiate(variance)(head=name)
