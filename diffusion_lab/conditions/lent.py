"""Conditions that the data set lends: the classes of its images, or a vector or a field beside each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diffusion_lab.conditions.condition import Condition, Source


class Classes(Condition):
    """The class of an image."""

    def prepare(self, data: Source) -> None:
        if data.num_classes is None:
            raise ValueError(
                f"condition=classes: {data.name} has no classes to condition a model on; use condition=none or condition=clusters, "
                "or other data (image_folder: data.classes=subfolders)"
            )
        self.size, self.names = data.num_classes, data.class_names

    def of(self, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        return given["classes"]


class Vector(Condition):
    """The vector beside an image, such as measured quantities. The network sees it as it is: scale its numbers to about 1."""

    name = "vector"

    def prepare(self, data: Source) -> None:
        if self.name not in data.shown(1)[1]:
            raise ValueError(
                f"condition={self.name}: {data.name} has no {self.name} beside its images; use data that have one, such as "
                f"data=arrays with data.train_{self.name}s"
            )
        super().prepare(data)

    def of(self, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        return given[self.name]


class Field(Vector):
    """The field beside an image: another image of it, of any resolution and number of channels. It is mirrored with the image."""

    name = "field"
