"""A value of the wrong kind, such as a word for a number, is an error that names the option, before anything is built.

What an option takes stands in one place: for those of a command itself here, for those of an object in the annotations of its
class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra._internal.utils import _locate  # what Hydra itself finds a target with
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion_lab.from_config.build import CODE
from diffusion_lab.from_config.mistakes import MistakeError
from diffusion_lab.from_config.signatures import written_annotations

OPTIONS = {
    **dict.fromkeys(("conditional", "score", "retrain", "rescore", "compile", "trajectory", "watch", "moments"), bool),
    **dict.fromkeys(
        ("num_images", "batch_size", "seed", "val.every_n_steps", "val.num_images", "val.batch_size", "val.seed"), int
    ),
    **dict.fromkeys(("outputs", "init_weights"), str),
    **dict.fromkeys(("objective_metric", "init_from", "branch_from", "samples", "reference", "to"), str | None),
    **dict.fromkeys(("tags", "snapshots.at", "snapshots.branches"), list[Any]),
    "snapshots.averages": int,
    **dict.fromkeys(("default_steps", "trainer.max_steps"), int | None),
    "label": int | str | list[Any] | None,
    "train_images": int | float | None,
    # Of Lightning's Trainer, which takes seconds to import.
    **dict.fromkeys(("trainer.accumulate_grad_batches", "trainer.num_nodes"), int),
    "trainer.log_every_n_steps": int | None,
    "trainer.gradient_clip_val": int | float | None,
}
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list, such as [1,2]",
}
_WORDS[NoneType] = "null"


def check_kinds(cfg: DictConfig, typed: Collection[str] = ()) -> None:
    """MistakeError for the first plain value or list that its option does not take.

    typed: options of the command line. They are checked first, before the classes of all others, such as Lightning's, are imported.
    """
    for key, value, annotation in _annotated_values(cfg, "", typed):
        kinds = set(_kinds(annotation))
        taken = kinds | ({int} if float in kinds else set())
        if Any not in kinds and type(value) not in taken:
            expected = " or ".join(words for kind, words in _WORDS.items() if kind in kinds)
            raise MistakeError(f"{key}={'null' if value is None else value}: this option must be {expected}")


def _annotated_values(
    node: DictConfig | ListConfig, prefix: str, typed: Collection[str]
) -> Iterator[tuple[str, Any, Any]]:
    """(key, value, annotation) of the values below a node for which something says what they may be."""
    is_object = isinstance(node, DictConfig) and isinstance(node.get("_target_"), str)
    names = list(node) if isinstance(node, DictConfig) else range(len(node))
    for name in sorted(names, key=lambda name: not any(f"{key}.".startswith(f"{prefix}{name}.") for key in typed)):
        if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name):
            continue
        key, child = f"{prefix}{name}", node[name]
        if not isinstance(child, DictConfig):
            annotation = OPTIONS.get(key)
            if annotation is None and is_object:  # a class is imported only for what nothing else says
                target = node["_target_"]
                annotation = _written(target).get(name) or _parameter_annotations(target).get(name)
            if annotation is not None:
                yield key, list(child) if isinstance(child, ListConfig) else child, annotation
        if isinstance(child, DictConfig | ListConfig):
            yield from _annotated_values(child, f"{key}.", typed)


@cache
def _written(target: str) -> dict[str, Any]:
    return written_annotations(CODE, target)


@cache
def _parameter_annotations(target: str) -> dict[str, Any]:
    """Parameter name -> annotation of a target; empty if it cannot be imported or has no annotations."""
    try:
        found = _locate(target)
        return get_type_hints(found.__init__ if isinstance(found, type) else found)
    except Exception:  # whatever an import raises: building the object raises it again
        return {}


def _kinds(annotation: Any) -> Iterator[Any]:
    """What suits an annotation: the plain kinds that it names, or anything where it names what a value may become."""
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    elif annotation in _WORDS:
        yield annotation
    elif get_origin(annotation) in (list, tuple, Sequence):
        yield list
    elif not (isinstance(annotation, type) and annotation.__module__ == "torch"):  # no value becomes a Tensor
        yield Any
