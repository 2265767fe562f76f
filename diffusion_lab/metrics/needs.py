"""What samples, or the images they are compared with, may lack."""

from enum import Enum


class Need(Enum):
    """What not all samples come with, or not all references."""

    MODEL = "what drew the samples"
    LABELS = "the class that each sample shows"
    REAL_IMAGES = "real images one by one"
