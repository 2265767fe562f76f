"""Parts that cannot train together are refused, with the option that fixes it."""

import pytest

from diffusion_lab.diffusion import (
    ContinuousBound,
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    Hybrid,
    LearnedRange,
    LearnedSchedule,
    LevelDecoder,
    LowDiscrepancyTimesteps,
    NormalTimesteps,
    RectifiedSchedule,
    Simple,
    UniformTimesteps,
)
from diffusion_lab.models.compatibility import check_guidance, check_parts
from diffusion_lab.sampling import ClassifierFree, ClassifierGuidance, Unguided

COSINE, REAL, WHOLE = CosineSchedule(20), LowDiscrepancyTimesteps(20, real=True), UniformTimesteps(20)


@pytest.mark.parametrize(
    ("parts", "fix"),
    [
        ((COSINE, LearnedRange(), Simple(), WHOLE), "use objective=hybrid"),
        ((LearnedSchedule(20), FixedSmall(), Simple(), WHOLE), "use objective=vlb_continuous"),
        ((COSINE, FixedSmall(), ContinuousBound(), WHOLE), "use timesteps=low_discrepancy"),
        ((COSINE, LearnedRange(), Hybrid(), REAL), "use timesteps=stratified timesteps.real=false"),
        ((COSINE, LearnedRange(), Hybrid(), NormalTimesteps(COSINE, 0, 1)), "use timesteps=stratified"),
        ((RectifiedSchedule(20), LearnedRange(), Hybrid(), WHOLE), "use variance=fixed_small objective=simple"),
    ],
)
def test_parts_that_cannot_train_together_are_refused(parts, fix):
    with pytest.raises(ValueError, match=fix):
        check_parts(*parts)


def test_parts_that_train_together_pass():
    check_parts(COSINE, LearnedRange(), Hybrid(), WHOLE)
    check_parts(RectifiedSchedule(20), FixedLarge(), Simple(), NormalTimesteps(RectifiedSchedule(20), 0, 1))
    check_parts(LearnedSchedule(20), FixedSmall(), ContinuousBound(decoder=LevelDecoder()), REAL)


def test_guidance_needs_what_the_model_was_trained_for():
    classifier = ClassifierGuidance(lambda x_t, timesteps: x_t, num_classes=3)
    check_guidance(Unguided(), (), 0.0)
    check_guidance(ClassifierFree(2.0), (3,), 0.1)
    check_guidance(classifier, (3,), 0.0)
    check_guidance(classifier, (), 0.0)
    for guidance, conditions, dropout, fix in (
        (ClassifierFree(2.0), (), 0.1, "condition=classes"),
        (ClassifierFree(2.0), (3,), 0.0, "model.condition_dropout above 0"),
        (classifier, ((2,),), 0.1, "use guidance=none"),
    ):
        with pytest.raises(ValueError, match=fix):
            check_guidance(guidance, conditions, dropout)
