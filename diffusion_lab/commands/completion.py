"""Tab completion: commands first, then Hydra's own completion of the command's options and choices."""

from __future__ import annotations

import os
from collections.abc import Collection
from importlib import import_module

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


def complete(arguments: list[str], commands: Collection[str]) -> None:
    """`-sc install=<shell>` prints what to evaluate in the shell; `-sc query=<shell>` answers for the line in COMP_LINE."""
    what, _, shell = (arguments or [""])[0].partition("=")
    if what == "install" and shell in _INSTALL:
        print(_INSTALL[shell], end="")
    elif what == "query":
        print("\n".join(candidates(os.environ.get("COMP_LINE", ""), commands)))
    else:
        print("usage: diffusion-lab -sc install=bash (or zsh, fish)")


def candidates(line: str, commands: Collection[str]) -> list[str]:
    """What the last word of `line` may become."""
    words = line.split()[1:] + ([""] if line.endswith(" ") else [])
    if len(words) <= 1:
        return [f"{command} " for command in commands if command.startswith(words[0] if words else "")]
    if words[0] not in commands:
        return []
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    app = import_module("diffusion_lab.commands.app")
    hydra = Hydra.create_main_hydra2(words[0], create_config_search_path(str(app.CONF)))
    plugin = DefaultCompletionPlugin(hydra.config_loader)
    return plugin._query(config_name=words[0], line=" ".join(words[1:]))
