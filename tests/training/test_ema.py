import pytest
import torch

from diffusion_lab.training.ema import EMA, average_name, default_weights


class Trainer:
    global_step = 0


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))
        self.averages = {}

    def averaged_parameters(self):
        return dict(self.named_parameters())


def trained(ema, values, start=0.0):
    trainer, model = Trainer(), Model()
    model.w.data.fill_(start)
    ema.on_fit_start(trainer, model)
    for value in values:
        model.w.data.fill_(value)
        trainer.global_step += 1
        ema.on_train_batch_end(trainer, model, {}, None, 0)
    return trainer, model


def test_an_average_is_the_recursion_with_its_warm_up():
    values = [1.0, 4.0, -2.0, 3.0, 3.0]
    _, model = trained(EMA([0.3, 0.999]), values)
    for decay in (0.3, 0.999):
        expected = 0.0
        for n, value in enumerate(values, start=1):
            d = min(decay, (1 + n) / (10 + n))
            expected = d * expected + (1 - d) * value
        assert float(model.averages[average_name(decay)]["w"][0]) == pytest.approx(expected, rel=1e-6)


def test_the_initial_weights_are_soon_forgotten_and_the_raw_ones_untouched():
    _, model = trained(EMA([0.9999]), [1.0] * 300, start=1000.0)
    assert float(model.averages["ema_0.9999"]["w"][0]) == pytest.approx(
        1.0, abs=1e-3
    )  # without warm-up it would be 971
    assert model.w.tolist() == [1.0, 1.0]
    assert list(model.state_dict()) == ["w"]


def test_an_accumulated_gradient_is_no_step():
    ema = EMA([0.5])
    trainer, model = trained(ema, [2.0])
    before = model.averages["ema_0.5"]["w"].clone()
    model.w.data.fill_(50.0)
    ema.on_train_batch_end(trainer, model, {}, None, 1)
    assert torch.equal(model.averages["ema_0.5"]["w"], before)


def test_averages_go_through_a_checkpoint():
    ema = EMA([0.5, 0.9])
    trainer, model = trained(ema, [1.0, 2.0, 3.0])
    checkpoint = {}
    ema.on_save_checkpoint(trainer, model, checkpoint)
    resumed, fresh = EMA([0.5, 0.9]), Model()
    resumed.on_load_checkpoint(trainer, fresh, checkpoint)
    resumed.on_fit_start(trainer, fresh)
    for a, m in ((ema, model), (resumed, fresh)):
        m.w.data.fill_(7.0)
        trainer.global_step = 4
        a.on_train_batch_end(trainer, m, {}, None, 0)
    assert torch.equal(fresh.averages["ema_0.9"]["w"], model.averages["ema_0.9"]["w"])


def test_bfloat16_weights_have_an_average_that_small_steps_move():
    """(1 − d)·(θ − θ̄) = 1e-4/128 a step, a 1000th of what bfloat16 can tell from 1."""
    ema, trainer, model = EMA([0.9999]), Trainer(), Model().bfloat16()
    model.w.data.fill_(1.0)
    ema.on_fit_start(trainer, model)
    model.w.data.fill_(1 + 2**-7)
    trainer.global_step = 1_000_000  # long after the warm-up
    for _ in range(10_000):
        trainer.global_step += 1
        ema.on_train_batch_end(trainer, model, {}, None, 0)
    average = model.averages["ema_0.9999"]["w"]
    assert average.dtype == torch.float32
    assert float(average[0]) == pytest.approx(1 + 2**-7 * (1 - 0.9999**10_000), rel=1e-5)


def test_a_name_is_of_one_decay():
    names = [average_name(decay) for decay in (0.9999, 0.9999999, 0.99999991, 0.5)]
    assert names == ["ema_0.9999", "ema_0.9999999", "ema_0.99999991", "ema_0.5"]
    assert list(EMA([0.9999999, 0.99999991]).decays) == names[1:3]
    with pytest.raises(ValueError, match="remove the repeated decay"):
        EMA([0.9, 0.9])


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5, -0.1])
def test_a_decay_lies_between_0_and_1(decay):
    with pytest.raises(ValueError, match=r"ema.decays"):
        EMA([decay])


def test_the_weights_that_suit_the_length_of_training():
    names = ["raw", "ema_0.9999", "ema_0.999"]
    assert default_weights(names, 100) == "ema_0.999"  # none has warmed up: all are alike
    assert default_weights(names, 9_000) == "ema_0.999"
    assert default_weights(names, 100_000) == "ema_0.9999"
    assert default_weights(["raw"], 100_000) == "raw"


def test_what_serves_training_only_has_no_average():
    class Adversaries(Model):
        def __init__(self):
            super().__init__()
            self.critic = torch.nn.Parameter(torch.ones(3))

        def averaged_parameters(self):
            return {"w": self.w}

    ema, trainer, model = EMA([0.5]), Trainer(), Adversaries()
    ema.on_fit_start(trainer, model)
    model.w.data.fill_(2.0)
    trainer.global_step += 1
    ema.on_train_batch_end(trainer, model, {}, None, 0)
    assert list(model.averages["ema_0.5"]) == ["w"]
    assert float(model.averages["ema_0.5"]["w"][0]) == pytest.approx(2.0 * 9 / 11)
