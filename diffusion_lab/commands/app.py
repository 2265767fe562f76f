"""Running one Hydra app per command, with one sentence for every mistake of the user.

The module of a command is imported when its job begins: Hydra's help and a mistake in the options wait for no import of torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from diffusion_lab.commands.help import show
from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.composing import completed, drop_leftovers
from diffusion_lab.config.mistakes import (
    mistake_in_job,
    mistake_in_options,
    refuse_outside_sweeps,
    refuse_words,
    refused_option,
)
from diffusion_lab.config.options import check_options
from diffusion_lab.config.overrides import flags_and_words
from diffusion_lab.config.working_directory import add_to_path, check_outputs, with_own_choices
from diffusion_lab.store.records import printable
from diffusion_lab.training.interruption import Interrupted

_HELP, _SWEEPS = {"-h", "--help"}, {"-m", "--multirun"}


def run(command: str, options: list[str]) -> int:
    """Run `diffusion-lab <command>` with Hydra's overrides; returns the exit code. Mistakes end in one sentence on stderr.

    HYDRA_FULL_ERROR=1 also shows their tracebacks.
    """
    wanted = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra prints errors in its own way and exits
    failed: list[Exception] = []
    add_to_path()

    def task(cfg: DictConfig) -> Any:
        """One job. In a sweep Hydra handles an error: it names the job and continues with the next."""
        add_to_path()  # repeated here, because a launcher may start the job in another process
        try:
            return _job(command, cfg) if names is None else show(command, cfg, names)
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise
            failed.append(error)  # raised below, because Hydra would add its own lines

    try:
        refuse_words(options, command)
        options, names = _names_for_help(completed(command, with_own_choices(options)))
        _start(command, options, task)
        if failed:
            raise failed[0]
    except Interrupted as stop:
        if str(stop):
            print(f"diffusion-lab {command}: {stop}", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print(f"diffusion-lab {command}: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return int(stop.code or 0)  # Hydra's exit after --help
    except Exception as error:
        GlobalHydra.instance().clear()  # a hint may need to compose the config again
        message = mistake_in_job(error)
        if message is None and (error not in failed or isinstance(error, OmegaConfBaseException)):
            message = mistake_in_options(error, command, options)
        if wanted == "1" or message is None:
            raise
        # One line without control characters, which may occur in values of an untrusted file.
        print(printable(f"diffusion-lab {command}: {' '.join(message.splitlines())}"), file=sys.stderr)
        return 1
    finally:
        GlobalHydra.instance().clear()
        os.environ["HYDRA_FULL_ERROR"] = wanted
    return 0


def _names_for_help(options: list[str]) -> tuple[list[str], list[str] | None]:
    """(the other options, the names that --help is to explain); None in place of the names without --help."""
    flags, words = flags_and_words(options)
    if not _HELP & {*flags}:
        return options, None
    kept = [word for word in (*flags, *words) if word not in _HELP | _SWEEPS and (word in flags or "=" in word)]
    return kept, [word for word in words if "=" not in word]


def _job(command: str, cfg: DictConfig) -> Any:
    """Check a composed config and run the command."""
    refuse_outside_sweeps()
    hydra_cfg = HydraConfig.get()
    if experiment := hydra_cfg.runtime.choices.get("experiment"):
        typed = OverridesParser.create().parse_overrides(list(hydra_cfg.overrides.task))
        if dropped := drop_leftovers(cfg, typed):
            print(f"ignoring {', '.join(dropped)}: experiment={experiment} sets it for a different choice than yours")
    check_options(cfg, str(hydra_cfg.job.config_name), hydra_cfg)
    check_outputs(cfg)
    return import_module(f"diffusion_lab.commands.{command}").run(cfg)


def _start(command: str, options: Sequence[str], task: Callable[[DictConfig], Any]) -> None:
    """Let Hydra compose the config and call the task, show the config, complete a word, or start a sweep."""
    flags, words = flags_and_words(options)
    # Hydra requires overrides to be contiguous; with flags behind them, no word is taken as the value of a flag.
    sys.argv = ["diffusion-lab" if "-sc" in flags else f"diffusion-lab {command}", *words, *flags]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(task)()
    except ConfigCompositionException as error:
        # Hydra composes the fixed options of a sweep before the swept ones, so network.latent_dim=8 fails despite model=vae,flow.
        # As an axis with one value it is applied in the cells.
        key = f"{refused_option(error)}="
        axis = f"{key}choice("
        axes = [f"{axis}{o.removeprefix(key)})" if o.startswith(key) and axis not in o else o for o in options]
        if not _SWEEPS & {*options} or key.startswith(("hydra", "sweep")) or axes == [*options]:
            raise
        GlobalHydra.instance().clear()
        _start(command, axes, task)
