"""What identifies a score: the content of what it is made of."""

from omegaconf import OmegaConf

from diffusion_lab.config.naming import features_by_content, name_of_training


def test_weights_count_by_their_content(tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"1")
    features = {
        "shipped": {"name": "digits_cnn"},
        "own": {"name": "x", "weights": str(own)},
        "pixels": {"name": "none"},
    }
    found = features_by_content(features)
    assert {name for name, options in found.items() if options != features[name]} == {"shipped", "own"}
    own.write_bytes(b"2")
    assert features_by_content(features)["own"] != found["own"]


def test_the_order_of_conditions_makes_another_training():
    """A network has an input for each, in their order."""
    conditions = {name: {"_target_": f"diffusion_lab.conditions.{name.title()}"} for name in ("vector", "field")}
    first, other = (
        OmegaConf.create({"condition": chosen, "facts": {"identity": "data"}})
        for chosen in (conditions, dict(reversed(conditions.items())))
    )
    assert name_of_training(first) != name_of_training(other)
