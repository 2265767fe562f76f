"""Conditions that are attributes of the images in the data set: the class of each, or a vector or a field beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffusion_lab.conditions.condition import Condition, LacksConditionError, Source
from diffusion_lab.conditions.units import Units


class Classes(Condition):
    """The class of an image."""

    def prepare(self, data: Source) -> None:
        if data.num_classes is None:
            raise LacksConditionError(
                f"condition=classes: {data.name} has no classes to condition a model on; use condition=none or condition=clusters, "
                "or other data (image_folder: data.classes=subfolders, or data.table=FILE.csv with data.label_column)"
            )
        self.size, self.names = data.num_classes, data.class_names

    def of(self, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        return given["classes"]


class Vector(Condition):
    """(v − shift)/scale of the vector v beside an image, such as measured quantities: mean 0 and standard deviation 1 in the
    training images. `record` has shift and scale, so that vectors can be given in their own units.
    """

    name = "vector"
    also = ", or data=image_folder with data.vector_columns"

    def prepare(self, data: Source) -> None:
        if self.name not in data.shown(1)[1]:
            raise LacksConditionError(
                f"condition={self.name}: {data.name} has no {self.name} beside its images; use data that have one, such as "
                f"data=arrays with data.train_{self.name}s{self.also}"
            )
        values = self.values(data).double()
        self.size = tuple(values.shape[1:])
        axes = [axis for axis in range(values.ndim) if axis != 1]
        scale = values.std(axes, correction=0)
        scale[scale == 0] = 1  # an entry that never changes
        self.units = Units(values.mean(axes).tolist(), scale.tolist())

    def values(self, data: Source) -> Tensor:
        """The vectors or fields that determine shift and scale, (N, D) or (N, C, *spatial)."""
        return data.vectors()

    def of(self, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        return self.units.normalised(given[self.name])

    def record(self) -> dict[str, Any]:
        return {"shift": list(self.units.shift), "scale": list(self.units.scale)}


class Field(Vector):
    """The field beside an image: any number of channels and any resolution, each channel normalised by 1,000 fields."""

    name = "field"
    also = ""

    def values(self, data: Source) -> Tensor:
        return self.looked_at(data)[1][self.name]

    def most_images(self, dim: int) -> int:
        return min(1000, super().most_images(dim))  # read from the data for this
