"""Our network of published flags, with weights by rule."""

import torch
from hydra.utils import instantiate

from diffusion_lab.interop.from_openai import described
from diffusion_lab.interop.openai_weights import published_shapes
from tests.models.stand_ins import configured

from . import by_rule


def network_of(code, flags, classifier=False, num_classes=1000):
    """(network, what the flags say)."""
    found = described(code, flags, classifier)
    size = found.image_size
    classes = num_classes if found.conditional else None
    cfg = configured(*found.options, shape=(3, size, size), num_levels=256, num_classes=classes)
    build = instantiate(cfg.network)
    if classifier:
        return build(out_channels=num_classes).classifier().eval(), found
    halves = 1 + instantiate(cfg.variance).outputs_per_channel
    return build(out_channels=3 * halves, num_classes=classes).eval(), found


def save_by_rule(path, code, flags, classifier=False, num_classes=1000):
    """A file as torch.save of the published code would write it."""
    network, _ = network_of(code, flags, classifier, num_classes)
    torch.save(by_rule.weights(published_shapes(network)), path)
