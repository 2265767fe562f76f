"""Tab completion of the commands, and Hydra's completion of options and choices."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

_BASH = """\
_diffusion_lab() {
    COMPREPLY=($(COMP_LINE="${COMP_LINE:0:$COMP_POINT}" diffusion-lab -sc query=bash 2>/dev/null))
}
complete -o nospace -o default -F _diffusion_lab diffusion-lab
# '=' must not end a word, or option=value could not be completed
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + _BASH
_FISH = """\
function __diffusion_lab
    set -x COMP_LINE (commandline -cp)
    diffusion-lab -sc query=fish 2>/dev/null
end
complete -c diffusion-lab -f -a '(__diffusion_lab)'
"""
_INSTALL = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def complete(arguments: list[str], commands: Collection[str]) -> int:
    """`-sc install=<shell>` prints the shell code to evaluate; `-sc query=<shell>` prints completions of the line in COMP_LINE."""
    what, _, shell = (arguments or [""])[0].partition("=")
    if shell not in _INSTALL or what not in ("install", "query"):
        print("usage: diffusion-lab -sc install=bash (or zsh, fish)")
    elif what == "install":
        print(_INSTALL[shell], end="")
    else:
        line = os.environ.get("COMP_LINE", "")
        words = line.split()[1:] + ([""] if line.endswith(" ") else [])
        if len(words) > 1 and words[0] in commands:
            from diffusion_lab.commands.app import run

            os.environ["COMP_LINE"] = re.sub(r"^(\s*\S+\s+)\S+\s+", r"\1", line)  # as Hydra expects it
            return run(words[0], ["-sc", f"query={shell}"])
        if len(words) <= 1:
            start = words[0] if words else ""
            print("\n".join(f"{command} " for command in commands if command.startswith(start)))
    return 0
