"""Weights and inputs by a rule that anybody can repeat: the numbers of NumPy's RandomState, whose stream never changes."""

import math
import zlib

import numpy as np
import torch


def weights(shapes):
    """Name -> shape gives name -> float32: N(0, 1/fan-in), in norms 1 + N(0, 0.1²), in biases N(0, 0.1²), keyed by the name."""
    return {name: _numbers(name, shape) for name, shape in shapes.items()}


def _numbers(name, shape):
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(math.prod(shape)).astype(np.float32)
    drawn = torch.from_numpy(drawn).reshape(shape)
    if name.endswith(("label_emb.weight", "positional_embedding")):
        return 0.5 * drawn
    if len(shape) > 1:
        return drawn / math.prod(shape[1:]) ** 0.5
    return 0.1 * drawn + (1.0 if name.endswith("weight") else 0.0)


def inputs(batch, size):
    """x (batch, 3, size, size) ~ N(0, 1), timesteps int64 (batch,), y int64 (batch,): the same for every network."""
    x = np.random.RandomState(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    return torch.from_numpy(x), torch.tensor([3, 500][:batch]), torch.tensor([7, 2][:batch])


def shown(output):
    """What is kept of an output (B, …): 16 numbers, evenly spread, and the root mean square."""
    flat = output.flatten().double()
    places = torch.linspace(0, len(flat) - 1, 16).long()
    return flat[places].tolist(), float(flat.square().mean().sqrt())
