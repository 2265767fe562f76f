"""python -m diffusion_lab: the installed command, for whoever starts it as a module."""

from diffusion_lab.commands.main import main

main()
