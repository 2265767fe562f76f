"""The entry point: diffusion-lab <command> [option=value …]. Imports neither torch nor lightning, so --help is fast."""

from __future__ import annotations

import difflib
import os
import select
import signal
import sys
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path

from diffusion_lab.commands.app import run
from diffusion_lab.commands.next_steps import next_steps
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import mistake_in_job
from diffusion_lab.config.overrides import flags_and_words
from diffusion_lab.store.processes import end_with_parent
from diffusion_lab.store.records import RunError
from diffusion_lab.training.interruption import Interrupted, ending
from diffusion_lab.versions import __version__, versions

_FIRST = ("train", "sample", "evaluate")  # first in the list of commands; the others are sorted by name


def _commands() -> dict[str, str]:
    """Name -> description. A command is a module here with conf/NAME.yaml; its first line describes it."""
    modules = [Path(__file__).with_name(f"{config.stem}.py") for config in CONF.glob("*.yaml")]
    first_lines = {file.stem: file.read_text("utf-8").partition("\n")[0] for file in modules if file.is_file()}
    found = {name: line.removesuffix('"""').partition(": ")[2].rstrip(".") for name, line in first_lines.items()}
    return {name: found[name] for name in [*_FIRST, *sorted(found.keys() - set(_FIRST))]}


COMMANDS = _commands()

HELP = f"""\
diffusion-lab {__version__}: train, sample and compare diffusion models

usage: diffusion-lab <command> [option=value ...]
       diffusion-lab                                     what to do next in this folder

{chr(10).join(f"  {name:<10} {what}" for name, what in COMMANDS.items())}

first steps
  diffusion-lab train                                    handwritten digits, one to three minutes on two cores
  diffusion-lab train schedule=linear variance=fixed     the same with other choices
  diffusion-lab evaluate sampler.spacing.num_steps=10    score the newest model with ten sampling steps

  diffusion-lab <command> --help       its options and their values
  diffusion-lab <command> --cfg job    the whole config that would be used
  diffusion-lab --version              versions of this package, Python, torch, …
  eval "$(diffusion-lab -sc install=bash)"               tab completion by Hydra (also zsh, fish)
"""


def main() -> None:
    """The entry point of the installed command; exits with 0, 1 (the command failed) or 2 (no such command).

    141 if its output is closed early, as in `diffusion-lab train --help | head`; 130 after SIGINT, 143 after SIGTERM.
    """
    is_rank = end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # ? for characters that the encoding lacks
    try:
        try:
            with nullcontext() if is_rank else ending():
                code = _main(sys.argv[1:])
        finally:
            if sys.stdout is not None:  # it was closed by the shell
                sys.stdout.flush()
    except Interrupted as stop:
        print(f"diffusion-lab: {stop}", file=sys.stderr)
        code = 128 + stop.signum
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain when closing it
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _nobody_reads() -> bool:
    """Whether the broken pipe is our own output."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main(arguments: list[str]) -> int:
    match arguments[:1]:
        case []:
            try:
                print("\n".join(next_steps(Path("outputs"))))
            except (RunError, OSError) as error:
                sys.exit(f"diffusion-lab: {mistake_in_job(error) or error}")
        case ["-h" | "--help" | "help"]:
            print(HELP, end="")
        case ["--version"]:
            print("\n".join(f"{name} {version}" for name, version in versions().items()))
        case ["-sc" | "--shell-completion"]:
            return _complete(arguments)
        case _:
            return _run(arguments)
    return 0


def _run(arguments: list[str]) -> int:
    command = next(iter(flags_and_words(arguments)[1]), arguments[0])
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}."
        print(f"diffusion-lab: there is no command {command!r}; {hint}", file=sys.stderr)
        return 2
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.exit("diffusion-lab: the working directory was removed: change to another one")
    os.environ["PYTHONSAFEPATH"] = (
        "1"  # ranks and jobs, started with `python -m`, look into the working directory last, too
    )
    arguments.remove(command)
    return run(command, arguments)


def _complete(arguments: list[str]) -> int:
    """Hydra's completion, which knows no commands: they are completed here, and left out of the line that Hydra completes."""
    command = _FIRST[0]  # any one prints the code to evaluate
    if "query" in " ".join(arguments[1:]):
        line = os.environ.get("COMP_LINE", "")
        _, command, options = [*line.split(maxsplit=2), "", "", ""][:3]
        if command not in COMMANDS or not (options or line.endswith(" ")):
            print("\n".join(name for name in COMMANDS if name.startswith(command)))
            return 0
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - what is wrong with the line would be printed into it
        os.environ["COMP_LINE"] = f"diffusion-lab {options}"
    return run(command, arguments)
