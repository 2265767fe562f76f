"""Hydra in less time, for many commands in one process: composing their configs takes longer than training two steps."""

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest
from hydra import version
from hydra._internal import defaults_list
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.default_element import InputDefault
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, base


@contextmanager
def less_composing() -> Iterator[None]:
    """In the block Hydra parses a file or a reference once, as long as it does not change, and composes a config once.

    Otherwise it parses each file for every config, and composes each config first to look for hydra.mode, which no test gives.
    Which choices are known it writes down for each name in a list of defaults; here only for a name that refers to them.
    Most of a copy of a config are the types of its values, which `copy` takes apart and puts together again.
    """
    Plugins.instance()  # it executes the modules of its sources anew: classes imported from them before are not those it uses
    of_files = SourcesRegistry.instance().resolve("file")
    parse, parsed = of_files.load_config, {}
    map_choices, resolve = defaults_list._create_interpolation_map, InputDefault._resolve_interpolation_impl

    def parse_once(source: ConfigSource, config_path: str) -> ConfigResult:
        file = Path(source.path, source._normalize_file_name(config_path)).resolve()
        if not file.is_file():
            return parse(source, config_path)  # it says so
        stat = file.stat()
        stamp = (source.provider, source.path, file, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if stamp not in parsed:
            parsed[stamp] = pickle.dumps(parse(source, config_path))
        return pickle.loads(parsed[stamp])

    def resolve_a_reference(default: InputDefault, known_choices: Callable[[], DictConfig], name: str) -> str:
        return name if re.fullmatch(r"[\w/]+", name) else resolve(default, known_choices(), name)

    def copy_types(types: base.Metadata, memo: dict[int, object]) -> base.Metadata:
        twin = copy.copy(types)
        twin.flags, twin.resolver_cache = types.flags and {**types.flags}, copy.deepcopy(types.resolver_cache, memo)
        return twin

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_files, "load_config", parse_once)
        patch.setattr(defaults_list, "_create_interpolation_map", lambda *known: partial(map_choices, *known))
        patch.setattr(InputDefault, "_resolve_interpolation_impl", resolve_a_reference)
        patch.setattr(base, "parse", cache(base.parse))
        patch.setattr(base.Metadata, "__deepcopy__", copy_types, raising=False)
        patch.setattr(version, "_get_version", cache(version._get_version))
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield
