"""A metric: what it measures of a model, what its numbers are called and mean, and how they were measured, in one class.

Why not a function for each number beside a table of what they mean: one of the two is forgotten. Why not torchmetrics.Metric: it
sees batches of one kind, which a bound, a time and a number of parameters are not, and it says nothing of names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from diffusion_lab.metrics.naming import Naming
from diffusion_lab.metrics.needs import Need
from diffusion_lab.store.measures import Measure

if TYPE_CHECKING:
    from diffusion_lab.metrics.scores import Scores
    from diffusion_lab.metrics.subject import Subject, View


class Metric(ABC):
    """Something that is measured of a model or of samples: a subclass with its options, and a yaml in conf/metrics or an override.

    needs: what it cannot do without. Where that is missing, `score` is not called, and all its numbers have the reason.
    needs_samples: whether it looks at samples; where no metric does, a model draws only those of the picture.
    needs_step_costs: what each step of the model's chain costs is measured before.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    needs_samples: ClassVar[bool] = True
    needs_step_costs: ClassVar[bool] = False

    @abstractmethod
    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        """All that it may measure, in the order of the columns; what a score does not have is left out there."""

    @abstractmethod
    def score(self, subject: Subject, scores: Scores) -> None:
        """Record values by the names of `measures`, and how they were measured.

        May raise UnmeasurableError: its sentence is then the reason of all that it has not recorded.
        """


class FeatureMetric(Metric):
    """Something that is measured of the features of samples and of real images, once for each set of features."""

    @abstractmethod
    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        """As `measures`, for one set of features."""

    @abstractmethod
    def score_view(self, view: View, scores: Scores) -> None:
        """As `score`, for one set of features. `view.naming` is what its numbers are called."""

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        return [measure for naming in namings for measure in self.feature_measures(naming)]

    def score(self, subject: Subject, scores: Scores) -> None:
        for view in subject.views:
            scores.attempt(self.feature_measures(view.naming), lambda view=view: self.score_view(view, scores))
