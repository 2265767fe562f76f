"""python -m diffusion_lab: the installed command as a module."""

from diffusion_lab.commands.main import main

main()
