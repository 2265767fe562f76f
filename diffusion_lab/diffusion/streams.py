"""The random streams of a seed: the keys that `derive_seed` and `fork` take, each an independent stream.

Keys that meet under one seed differ. A stream keeps its number: with another one, the same seed would draw something else.
"""

# Of the seed of a training, in every batch.
DROPOUT = 0
TRAINING = 1
CONDITION_DROP = 3
# Of the seed of samples: noise beside that of the sampler's steps.
CLASS = 1
DECODER = 3
# Of the seed of a likelihood.
BOUND = 2
# Of the seed of the statistics of a network.
STATISTICS = 4
# Of the seed of an edited image. The noise of a start, and of an inpainting: its known part, its way back, its later repeats.
START = 1
KNOWN = 1
BACK = 2
UNKNOWN = 3
