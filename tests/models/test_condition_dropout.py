"""A share of labels is dropped in training, the same whatever the number of ranks."""

import torch

from tests.models.stand_ins import digits, inputs_of, loss, of_digits, step


def told(diffusion, **where):
    """The labels that training tells the network of one batch of 64."""
    seen = inputs_of(diffusion.network)
    step(diffusion, digits(64), y=torch.arange(64) % 10, **where)
    return seen[0][2]


def test_training_drops_some_labels_to_the_null_class():
    y, seen = torch.arange(64) % 10, told(of_digits(num_classes=10, condition_dropout=0.5))
    dropped = seen == 10
    assert 16 < int(dropped.sum()) < 48
    assert torch.equal(seen[~dropped], y[~dropped])
    assert torch.equal(told(of_digits(num_classes=10, condition_dropout=0.0)), y)
    assert (told(of_digits(num_classes=10, condition_dropout=1.0)) == 10).all()


def test_dropped_labels_are_of_seed_and_global_batch():
    whole = told(of_digits(num_classes=10, condition_dropout=0.5))
    assert torch.equal(told(of_digits(num_classes=10, condition_dropout=0.5)), whole)
    assert not torch.equal(told(of_digits(num_classes=10, condition_dropout=0.5), k=1), whole)
    assert not torch.equal(told(of_digits(num_classes=10, condition_dropout=0.5, seed=2)), whole)
    parts = [told(of_digits(num_classes=10, condition_dropout=0.5), rank=rank, ranks=2) for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_an_unconditional_model_is_told_nothing():
    """And draws the same t and noise."""
    assert told(of_digits()) is None
    plain, labelled = of_digits(), of_digits(num_classes=10, condition_dropout=1.0)
    torch.nn.init.zeros_(labelled.network.encoder.conditioning.classes.weight)
    labelled.load_state_dict(plain.state_dict(), strict=False)
    assert loss(labelled, digits(8), y=torch.arange(8)) == loss(plain, digits(8))
