"""Parts that cannot train together are refused, with the option that fixes it."""

from functools import partial

import pytest

from diffusion_lab.diffusion import (
    ContinuousBound,
    CosineSchedule,
    Eulerian,
    FixedLarge,
    FixedSmall,
    FlowMap,
    Hybrid,
    Lagrangian,
    LearnedRange,
    LearnedSchedule,
    LevelDecoder,
    LinearSchedule,
    LowDiscrepancyTimesteps,
    NormalTimesteps,
    PredictFlow,
    PredictNoise,
    PredictStart,
    PredictVelocity,
    RectifiedSchedule,
    Simple,
    Teacher,
    UniformTimesteps,
)
from diffusion_lab.models.compatibility import (
    check_checkpointing,
    check_guidance,
    check_parts,
    check_sampler,
    check_velocities,
    two_times_for,
)
from diffusion_lab.networks import MLP, Transformer, UNet
from diffusion_lab.sampling import (
    Autoguidance,
    ClassifierFree,
    ClassifierGuidance,
    DDIMSampler,
    FlowMapSampler,
    StraightSpacing,
    Unguided,
    Worse,
)

from ..diffusion.test_flow_map_objective import conditional

FLOW_MAP = FlowMap(Eulerian())
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
        ((COSINE, FixedSmall(), FLOW_MAP, WHOLE), r"use timesteps=uniform timesteps\.real=true"),
        ((COSINE, LearnedRange(), FLOW_MAP, REAL), "variance=fixed"),
        ((LearnedSchedule(20), FixedSmall(), FLOW_MAP, REAL), "use objective=vlb_continuous"),
    ],
)
def test_parts_that_cannot_train_together_are_refused(parts, fix):
    with pytest.raises(ValueError, match=fix):
        check_parts(*parts)


def test_parts_that_train_together_pass():
    check_parts(COSINE, LearnedRange(), Hybrid(), WHOLE)
    check_parts(RectifiedSchedule(20), FixedLarge(), Simple(), NormalTimesteps(RectifiedSchedule(20), 0, 1))
    check_parts(LearnedSchedule(20), FixedSmall(), ContinuousBound(decoder=LevelDecoder()), REAL)
    check_parts(RectifiedSchedule(20), FixedSmall(), FLOW_MAP, NormalTimesteps(RectifiedSchedule(20), 0, 1))


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


def test_steps_of_a_flow_map_need_one():
    """And guidance by the network itself; other samplers draw from its instantaneous velocity."""
    sampler, classifier = FlowMapSampler(StraightSpacing(1)), ClassifierGuidance(lambda x_t, t: x_t, num_classes=3)
    worse = Worse(reverse=conditional())
    for objective, guidance, said in (
        (Simple(), Unguided(), r"which objective Simple does not train: .*objective=flow_map$"),
        (FLOW_MAP, classifier, r"^guidance ClassifierGuidance evaluates another model, .*sampler=ddim$"),
        (FLOW_MAP, Autoguidance(worse, 2.0), r"^guidance Autoguidance evaluates another model, .*sampler=ddim$"),
        (FLOW_MAP, ClassifierFree(2.0, worse=worse), r"^guidance ClassifierFree evaluates another model"),
    ):
        with pytest.raises(ValueError, match=said):
            check_sampler(sampler, objective, guidance)
        check_sampler(DDIMSampler(), objective, guidance)
    for guidance in (Unguided(), ClassifierFree(2.0)):
        check_sampler(sampler, FLOW_MAP, guidance)


def test_a_network_of_one_time_trains_no_flow_map():
    def of_one_time(out_channels, num_classes): ...

    assert two_times_for(of_one_time, Simple()) == {}
    assert two_times_for(MLP, FLOW_MAP) == {"two_times": True}
    with pytest.raises(ValueError, match="needs a network of two times, and this one takes one"):
        two_times_for(of_one_time, FLOW_MAP)


def test_guidance_in_training_needs_both():
    """Velocities with and without a condition: the model's own, or those of a teacher."""
    guided = FlowMap(Eulerian(), guidance=2.0)
    taught = FlowMap(Eulerian(), guidance=2.0, teacher=Teacher(conditional(), COSINE))
    unguided = FlowMap(Eulerian(), teacher=Teacher(conditional(), COSINE, unconditional=False))
    always = FlowMap(Eulerian(), guidance=2.0, teacher=Teacher(conditional(), COSINE, unconditional=False))
    for objective, conditions, dropout in (
        (FLOW_MAP, (), 0.0),
        (guided, (3,), 0.1),
        (taught, (3,), 0.0),
        (unguided, (3,), 0.0),
    ):
        check_velocities(objective, conditions, dropout, COSINE, PredictVelocity())
    for objective, conditions, dropout, fix in (
        (guided, (), 0.1, r"condition=classes, or objective\.guidance=1$"),
        (taught, (), 0.1, r"condition=classes, or objective\.guidance=1$"),
        (guided, (3,), 0.0, r"model\.condition_dropout above 0, or objective\.guidance=1$"),
        (always, (3,), 0.0, "the teacher's condition with"),
        (unguided, (3,), 0.1, "the teacher's condition with"),
        (unguided, (), 0.0, "the teacher's condition with"),
    ):
        with pytest.raises(ValueError, match=f"use {fix}"):
            check_velocities(objective, conditions, dropout, COSINE, PredictVelocity())


def test_a_velocity_far_larger_than_the_output_is_refused():
    """Under the cosine schedule 1 + σ_T/α_T is 2·10⁴ for noise; for the others, and under a linear schedule, it is less."""
    full = CosineSchedule(1000)
    for prediction in (PredictVelocity(), PredictStart(), PredictFlow()):
        check_velocities(FLOW_MAP, (), 0.0, full, prediction)
    check_velocities(FLOW_MAP, (), 0.0, LinearSchedule(1000), PredictNoise())
    check_velocities(Simple(), (), 0.0, full, PredictNoise())
    with pytest.raises(
        ValueError, match=r"error of PredictNoise is 2e\+04 times as large in the velocity.*prediction=velocity"
    ):
        check_velocities(FLOW_MAP, (), 0.0, full, PredictNoise())


@pytest.mark.parametrize(
    "network",
    [
        partial(UNet, 1, 1, 8, base_channels=8, channel_multipliers=[1], attention_resolutions=[], head_channels=8),
        partial(Transformer, 1, 1, 8, patch_size=4, width=16, num_blocks=1, num_heads=2),
    ],
)
def test_no_block_is_recomputed_for_the_gradient_of_a_derivative(network):
    lagrangian, recomputing = FlowMap(Lagrangian()), network(activation_checkpointing=True)
    check_checkpointing(recomputing, FLOW_MAP)
    check_checkpointing(network(), lagrangian)
    with pytest.raises(
        ValueError, match=r"use network\.activation_checkpointing=false, or another objective/residual$"
    ):
        check_checkpointing(recomputing, lagrangian)
