from diffusion_lab.store.option_names import above_and_itself, flat, short_names


def test_a_nested_config_becomes_dotted_names():
    assert flat({"data": {"batch_size": 64, "none": {}}, "seed": 1}) == {"data.batch_size": 64, "seed": 1}
    assert flat({"bound": {"draws": {"number": 2}}}, " ") == {"bound draws number": 2}


def test_names_are_short_where_that_is_clear():
    keys = ["sampler.spacing.num_steps", "seed", "a.lr", "b.lr", "sampler/spacing"]
    assert list(short_names(keys).values()) == ["num_steps", "seed", "a.lr", "b.lr", "spacing"]
    assert short_names(["evaluation.seed"]) == {"evaluation.seed": "evaluation.seed"}, "not that of training"


def test_a_key_stands_below_its_groups():
    assert list(above_and_itself("sampler.spacing.steps")) == ["sampler", "sampler.spacing", "sampler.spacing.steps"]
