"""python -m diffusion_lab: the installed command, for whoever starts it as a module."""

import sys
from pathlib import Path

if not sys.flags.safe_path and sys.path[0] != str(Path(__file__).parents[1]):
    del sys.path[0]  # the working directory, unless this package lies there

from diffusion_lab.commands.main import main

main()
