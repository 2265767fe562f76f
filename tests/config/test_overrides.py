"""Values in Hydra's override grammar: what is read is what was written."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_lab.config.overrides import flags_and_words, named, quoted, unquoted

VALUES = [
    "/für/Läufe",
    "back\\slash",
    "ends in \\",
    "two\\\\",
    '\\"',
    'a "quote"',
    "it's",
    "a,b=c [d] {e: f}",
    " # ",
    "two\nlines",
    "",
    "null",
    "1",
    "true",
    None,
    True,
    3,
    -0.5,
    1e-05,
    1e16,
    [],
    ["/für", "\\", '"', None, False, 1.5, ["x"]],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_hydra_reads_is_what_was_written(value):
    read = OverridesParser.create().parse_override(f"key={quoted(value)}").value()
    assert (type(read), str(read)) == (type(value), str(value))


@pytest.mark.parametrize("text", [value for value in VALUES if isinstance(value, str)], ids=repr)
def test_a_text_in_quotes_is_read_as_hydra_reads_it(text):
    assert unquoted(quoted(text)) == text


@pytest.mark.parametrize(
    "text", ["", "outputs/models/a", "für", "C:\\lab", "007", "a,b", '"a","b"', '"a', "'a\"", '"a"b']
)
def test_a_text_without_quotes_is_left_as_it_is(text):
    assert unquoted(text) == text


@pytest.mark.parametrize("flag", ["-p", "--package", "-cn", "--experimental-rerun"])
def test_the_value_of_a_flag_is_no_option(flag):
    assert named(["schedule=gentle", "--cfg", "job", flag, "schedule", "~sampler"]) == {
        "schedule": "gentle",
        "sampler": "",
    }


@pytest.mark.parametrize("flag", ["--info", "-i"])
def test_only_its_own_values_belong_to_info(flag):
    assert flags_and_words([flag, "train", "-m"]) == ([flag, "-m"], ["train"])
    assert flags_and_words([flag, "plugins", "train"]) == ([flag, "plugins"], ["train"])
