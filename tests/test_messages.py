"""`python -m tests.messages` lists what is raised, printed and returned as a sentence."""

from .messages import main, messages


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
    main("diffusion_lab/store/status")
    assert "diffusion_lab/store/status_file.py:" in capsys.readouterr().out
