"""Conditions of samples: classes, clusters, vectors, fields; see `condition.Condition`."""

from diffusion_lab.conditions.clusters import Clusters, GradientClusters
from diffusion_lab.conditions.condition import Condition
from diffusion_lab.conditions.lent import Classes, Field, Vector

__all__ = ["Classes", "Clusters", "Condition", "Field", "GradientClusters", "Vector"]
