"""Where `local: default` is looked for. Hydra imports this in every Hydra application, so it imports nothing heavy."""
