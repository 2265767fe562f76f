"""Whether the current code would turn a saved config into the training that it was saved with."""

from __future__ import annotations

from importlib.util import find_spec

from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.config.build import CODE, training_fingerprint
from diffusion_lab.config.loading import read_config
from diffusion_lab.config.strangers import check_targets, targets
from diffusion_lab.store import ModelDirectory, RunDirectory, RunError
from diffusion_lab.store.fingerprints import TRAINING, training_part

_BUILT = ("variance", "objective")  # to know what they read; the folder may be somebody else's


def is_current(place: ModelDirectory | RunDirectory, fingerprint: str) -> bool:
    """Whether the fingerprint of the training in `place`, computed again, begins with these digits.

    RunError, in one sentence, where it cannot be computed: it names a module that is not here, or what a file may not hold.
    """
    code = place.read_training().get("code") if isinstance(place, ModelDirectory) and place.finished else None
    if code is not None and all(map(_is_found, {name.partition(".")[0] for name in code["names"]})):
        return CODE.digest(code["names"], TRAINING) == code["digest"]  # as recorded: nothing has to be composed again
    cfg = read_config(place)
    if not isinstance(cfg.facts.get("identity"), str):
        raise RunError(f"{place.config} does not say which data it was trained on")
    try:
        for target in targets(training_part(OmegaConf.to_container(cfg))):
            package = target.partition(".")[0]
            if not _is_found(package):
                raise RunError(f"{place.config} names {target}, but Python cannot find {package}")
        check_targets({group: OmegaConf.to_container(cfg[group]) for group in _BUILT if cfg.get(group)}, place.config)
        return training_fingerprint(cfg).startswith(fingerprint)
    except (OmegaConfBaseException, InstantiationException, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{place.config}: {' '.join(str(error).split())}") from None


def _is_found(package: str) -> bool:
    return package.isidentifier() and find_spec(package) is not None
