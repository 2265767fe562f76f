"""Conditions of samples: a class, a cluster, a vector or a field for each image.

condition   the interface; null conditions; records of held-out conditions
attributes  classes, vectors and fields of the data set
computed    conditions computed from the image itself
clusters    classes without labels, found in the images
units       units of real-valued data, vectors and fields
"""

from diffusion_lab.conditions.attributes import Classes, Field, Vector
from diffusion_lab.conditions.clusters import Clusters, GradientClusters
from diffusion_lab.conditions.condition import Condition

__all__ = ["Classes", "Clusters", "Condition", "Field", "GradientClusters", "Vector"]
