"""Flags as the two repositories publish them, as options of this package."""

import pytest

from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.interop.from_openai import GUIDED, IMPROVED, PRESETS, described, only_guided


def options(code, flags, classifier=False):
    return dict(option.split("=", 1) for option in described(code, flags, classifier).options)


def test_the_two_repositories_read_the_same_flags_differently():
    improved, guided = (options(code, "--diffusion_steps 4000 --learn_sigma True") for code in (IMPROVED, GUIDED))
    assert (improved["network.timestep_scale"], guided["network.timestep_scale"]) == ("0.25", "1.0")
    assert (improved["objective.vlb_weight"], guided["objective.vlb_weight"]) == ("0.001", "0.00025")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("", {"variance": "fixed_large", "objective": "simple", "prediction": "noise", "schedule": "linear"}),
        ("--sigma_small True --predict_xstart yes", {"variance": "fixed_small", "prediction": "start"}),
        ("--learn_sigma True --use_kl True", {"variance": "learned_jointly", "objective": "vlb"}),
        ("--timestep_respacing 250", {"sampler": "strided", "sampler.spacing.num_steps": "250"}),
        ("--timestep_respacing=ddim25", {"sampler": "ddim", "sampler.spacing.num_steps": "25"}),
        ("--num_heads 1 --num_heads 2", {"network.num_heads": "2"}),
        ("--image_size 256 --attention_resolutions 16,7", {"network.attention_resolutions": "[16]"}),
        ("--use_scale_shift_norm False", {"network.additive_embedding": "true"}),
        ("--class_cond True", {"condition": "classes", "network.null_class": "False".lower()}),
        ("--lr 1e-4 --batch_size 128 --schedule_sampler loss-second-moment", {"schedule": "linear"}),
    ],
)
def test_a_flag_is_an_option_here(flags, wanted):
    assert options(IMPROVED, flags).items() >= wanted.items()


def test_half_a_level_is_whole_in_ours():
    network = options(*PRESETS["512x512_diffusion"])
    assert network["network.base_channels"] == "128"
    assert network["network.channel_multipliers"] == "[1,2,2,4,4,8,8]"
    assert network["network.embedding_channels"] == "256"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--image_sise 64", "improved_diffusion: unrecognized arguments: --image_sise 64"),
        ("--image_size 65", "networks only for"),
        ("--num_channels 1e9", "argument --num_channels: invalid int value: '1e9'"),
        ("--diffusion_steps 0", "use at least 1"),
        ("--learn_sigma perhaps", "use True or False"),
        ("--attention_resolutions 0", "list of whole numbers"),
        ("--noise_schedule sigmoid", "use linear or cosine"),
        ("--timestep_respacing 10,20", "only one number of steps"),
        ("--num_heads_upsample 2", "supported only if it equals --num_heads"),
        ("--dropout 'a", "No closing quotation"),
    ],
)
def test_what_is_no_flag_is_said_in_one_sentence(flags, said):
    with pytest.raises(CheckpointError, match=said):
        described(IMPROVED, flags, classifier=False)


def test_a_code_or_a_pooling_that_is_not_known_is_named():
    with pytest.raises(CheckpointError, match="code=theirs"):
        described("theirs", "", classifier=False)
    with pytest.raises(CheckpointError, match="classifier_pool spatial"):
        described(GUIDED, "--classifier_pool spatial", classifier=True)
    with pytest.raises(CheckpointError, match="multiple of the first"):
        described(GUIDED, "--image_size 8 --channel_mult 2,3 --attention_resolutions 8", classifier=False)


def test_flags_of_one_repository_tell_whose_they_are():
    assert only_guided("--resblock_updown True")
    assert only_guided("--classifier_depth=4")
    assert not only_guided("--image_size 64 --class_cond True")
