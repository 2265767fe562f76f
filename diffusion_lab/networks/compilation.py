"""torch.compile as an option that never stops a run: where there is no compiler, one line says so."""

import shutil

from torch import nn


def compile_network(network: nn.Module) -> bool:
    """Compile in place, so that names in the state_dict stay; False, with a line of notice, where no C++ compiler is found."""
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++", "cl")):
        print("compile=true: no C++ compiler is installed, so the network runs as it is")
        return False
    network.compile()
    return True
