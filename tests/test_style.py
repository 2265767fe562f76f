"""Phrases that were replaced by plainer ones stay away (CONTRIBUTING.md, Style). `python -m tests.messages` lists all messages."""

import re

import pytest

from .messages import CODE, CONFIGS, PAGES, ROOT, lines, main, messages

# Nowhere: not in messages, docstrings, comments, configs and docs.
OLD = (
    "passed over",
    "stands? in the way",
    "without a word",
    "knows? both",
    "is it spelt",
    "to and fro",
    "in a hurry",
    "gave no sign of life",
    "knows no account",
)
# Not where users read: in messages, configs and the help.
OLD_FOR_USERS = (
    "(?:is|are|was|were) told",
    "draws? nothing",
    "asks? for",
    "nobody",
    "anew",
    "goes on from",
    "no value yet",
    "give the same command",
    "does it again",
    "say how many",
    "take fewer",
    "makes none",
    "leave one of the two out",
    "stands? here",
    "stands? beside",
    "as it has it",
    "brings? (?:its|another|with it)",
    "is no (?:text|object|number|probability|variance|diffusion|tensor|covariance|flag|folder|file)",
    "unfolds? to",
    "(?:known|possible) here",
    "this is the place of",
    "(?:is|are) looked for",
    "rulers?",
    "in a circle",
)


def found(phrases, texts):
    pattern = re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE)
    return [
        f"{file.relative_to(ROOT)}:{line}: {hit[0]}" for file, line, text in texts for hit in pattern.finditer(text)
    ]


def test_nothing_says_it_in_an_old_phrase():
    texts = [(file, *piece) for file in (*CODE, *CONFIGS, *PAGES) for piece in lines(file)]
    assert found(OLD, texts) == []


def test_messages_and_configs_are_plain():
    # Without what is filled in: a variable may be called anything.
    texts = [(file, message.line, re.sub(r"{[^}]*}", "…", message.text)) for file in CODE for message in messages(file)]
    texts += [(file, *piece) for file in CONFIGS for piece in lines(file)]
    assert found(OLD_FOR_USERS, texts) == []


def test_the_table_has_what_is_raised_printed_and_returned(tmp_path, capsys):
    file = tmp_path / "some.py"
    file.write_text(
        '"""Not a message."""\n'
        'raise ValueError(f"seed={seed}: give "\n    "a number")\n'
        'console.print("this is shown")\n'
        'def wrong() -> str:\n    "Not one either."\n    return "two of three words"\n'
    )
    table = [(message.line, message.how, message.text) for message in messages(file)]
    assert table == [
        (2, "raise ValueError", "seed={seed}: give a number"),
        (4, "print", "this is shown"),
        (7, "text", "two of three words"),
    ]
    main("diffusion_lab/status")
    assert "\ttext\tprocess {status.pid} on {status.host} ended" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["it ended without a word", "a file stands in the way"])
def test_the_check_sees_an_old_phrase(text):
    assert len(found(OLD, [(CODE[0], 1, text)])) == 1
