"""What may be missing of samples, or of what they are compared with."""

from enum import Enum


class Need(Enum):
    """What not all samples come with, or not all references."""

    MODEL = "what drew the samples"
    LABELS = "the class that each sample shows"
    REAL_IMAGES = "real images one by one"
