"""The random streams of a seed: the keys that `derive_seed` and `fork` take, each an independent stream.

Keys used with one seed differ. A stream keeps its number, because another number would change what a seed draws.
"""

# For the seed of a training, in every batch.
DROPOUT = 0
TRAINING = 1
CONDITION_DROP = 3
SECOND_TIME = 4
# For the seed of a training, at its start.
ADAPTERS = 5
# For the seed of samples: noise besides that of the sampler's steps.
CLASS = 1
DECODER = 3
# For the seed of a likelihood.
BOUND = 2
# For the seed of a network's statistics.
STATISTICS = 4
# For the seed of an edited image: noise of a start, and of an inpainting's known part, way back and later repeats.
START = 1
KNOWN = 1
BACK = 2
UNKNOWN = 3
