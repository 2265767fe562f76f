"""Each option exists, and its value has the type of the annotation: pairs of options and sentences, composed in process."""

from collections.abc import Sequence

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffusion_lab.commands.main import COMMANDS
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.options import check_options
from diffusion_lab.sampling import Sampler

pytestmark = pytest.mark.usefixtures("hydra_in_less_time")


def composed(command: str, *options: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, [*options])


@pytest.mark.parametrize("command", [*COMMANDS, "evaluate_samples"])
def test_the_defaults_of_a_command_are_options(command):
    check_options(composed(command), command)


@pytest.mark.parametrize(
    "options",
    [
        "+trainer.limit_train_batches=3",
        "+callbacks.mine={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}",
        "+metrics.mine._target_=diffusion_lab.metrics.cost.Cost",
        "logger=csv +logger.csv.flush_logs_every_n_steps=3",
        "+width=8 network.base_channels=${width}",
        "+sizes.base=8 network.base_channels=${sizes.base}",
        "+sizes.min=8 +callbacks.mine._target_=builtins.dict +callbacks.mine.sizes=${sizes}",
        "objective=vlb",
        "variance=analytic",
        "network=diffusion/diffusers",
        "callbacks.progress=null",
        "compile=graphs",
        "data.on_device=true",
        "train_images=0.5",
        "optimizer.lr=1",
    ],
)
def test_an_option_that_something_receives_is_taken(options):
    words = [options] if "{_" in options else options.split()
    check_options(composed("train", *words))


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("+lr=0.1", "'lr'; did you mean optimizer.lr?"),
        ("+batch_size=3", "'batch_size'; did you mean data.batch_size or"),
        ("+ckpt_path=foo", "'ckpt_path': the same command resumes by itself, and init_from="),
        ("+a.b.c.d=1", "'a.b.c.d'; see diffusion-lab train --help"),
        ("+lr=${seed}", "'lr'; did you mean optimizer.lr"),
        ("+_lr=0.1", "there is no option '_lr'"),
        ("+optimzer.lr=0.5", "'optimzer.lr'; did you mean optimizer.lr?"),
        ("+trainer.max_step=3", "did you mean trainer.max_steps?"),
        ("+trainer.limit_train_batch=3", "did you mean trainer.limit_train_batches?"),
        ("+network.base_chanels=3", "did you mean network.base_channels?"),
        ("+val.foo=1", "'val.foo'"),
        ("+callbacks.mine.foo=1", "'callbacks.mine.foo'"),
        ("+sampling.foo=1", "'sampling.foo'"),
    ],
)
def test_an_option_that_nothing_receives_is_refused(option, meant):
    with pytest.raises(MistakeError) as refused:
        check_options(composed("train", option))
    assert meant in str(refused.value)


def test_a_choice_of_another_family_is_refused():
    with pytest.raises(MistakeError, match=r"schedule is not a part .* model=diffusion or noisy_classifier"):
        check_options(composed("train", "model=gan", "+schedule=linear"))


def test_an_unknown_option_in_the_users_yaml_is_refused():
    cfg = composed("train")
    OmegaConf.update(cfg, "learning_rte", 3, force_add=True)
    with pytest.raises(MistakeError, match="there is no option 'learning_rte'"):
        check_options(cfg)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("seed=1.5", "valid integer"),
        ("seed=true", "valid integer"),
        ("seed=99999999999999999999", "below 2**63"),
        ("score=maybe", "valid boolean"),
        ("outputs=3", "valid string"),
        ("tags=abc", "a list"),
        ("val=3", "a group of options"),
        ("val.seed=a", "valid integer"),
        ("val.batch_size=a", "valid integer"),
        ("init_from=[a]", "valid string"),
        ("train_images=abc", "integer or a valid number"),
        ("trainer.max_steps=abc", "valid integer"),
        ("trainer.accelerator=3", "valid string"),
        ("network.channel_multipliers=[a]", "valid integer"),
        ("network.dropout=nan", "finite"),
        ("callbacks.progress=3", "a group of options"),
        ("evaluation.seed=inf", "finite"),
        ("sampler.spacing.num_steps=3.5", "valid integer"),
        ("ema.decays=0.9", "a list"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(option, said):
    with pytest.raises(MistakeError) as refused:
        check_options(composed("train", option))
    assert str(refused.value).startswith(option.partition("=")[0])
    assert said in str(refused.value)


class Made:
    def __init__(self, size: tuple[int, int], names: Sequence[str], part: Sampler | None, loose=None) -> None: ...


@pytest.mark.parametrize(
    ("option", "right", "wrong"),
    [
        ("size", [1, 2], [1]),
        ("names", ["a"], [1]),
        ("part", None, "x"),
        ("part", {"_target_": "diffusion_lab.sampling.DDIMSampler"}, 3),
    ],
)
def test_a_value_is_checked_against_the_users_class(option, right, wrong):
    node = {"_target_": f"{__name__}.Made", "loose": "anything"}
    check_options(OmegaConf.create({"sampler": {**node, option: right}}), "evaluate")
    with pytest.raises(MistakeError, match=rf"^sampler\.{option}="):
        check_options(OmegaConf.create({"sampler": {**node, option: wrong}}), "evaluate")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("schedule._target_=builtins.dict", "this makes a dict, but schedule must be a .*Schedule"),
        ("guidance._target_=diffusion_lab.diffusion.NoiseStart", "a NoiseStart, but guidance must be a .*Guidance"),
    ],
)
def test_a_target_makes_what_its_receiver_takes(option, said):
    with pytest.raises(MistakeError, match=said):
        check_options(composed("train", option))
