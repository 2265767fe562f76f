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
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, base


@contextmanager
def less_composing() -> Iterator[None]:
    """In the block Hydra parses a file or a reference once, and merges a list of files once, as long as no file changes.

    Otherwise it does so for every config, and composes each config first to look for hydra.mode, which no test gives.
    Which choices are known it writes down for each name in a list of defaults; here only for a name that refers to them.
    Most of a copy of a config are the types of its values, which `copy` takes apart and puts together again. After each merge every
    value is told its parent; here only one that has another.
    """
    Plugins.instance()  # it executes the modules of its sources anew: classes imported from them before are not those it uses
    load, loaded = ConfigRepository.load_config, {}
    merge, merged = ConfigLoaderImpl._compose_config_from_defaults_list, {}
    map_choices, resolve = defaults_list._create_interpolation_map, InputDefault._resolve_interpolation_impl

    def load_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        source = repository._find_object_source(config_path, ObjectType.CONFIG)
        if source is None:
            return None
        if source.scheme() == "structured":  # what the lab stores there is of the model at hand
            result = load(repository, config_path)
            result.state = (pickle.dumps(result),)
            return result
        state = (source.provider, source.path, config_path)
        if source.scheme() == "file":
            file = Path(source.path, source._normalize_file_name(config_path)).resolve()
            found = file.stat()
            state += (file, found.st_ino, found.st_size, found.st_mtime_ns)
        if state not in loaded:
            result = load(repository, config_path)
            result.state = state
            loaded[state] = pickle.dumps(result)
        return pickle.loads(loaded[state])

    def merge_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        files = tuple((*repo.load_config(d.config_path).state, d.package, d.primary) for d in defaults)
        if files not in merged:
            merged[files] = pickle.dumps(merge(loader, defaults, repo))
        return pickle.loads(merged[files])

    def resolve_a_reference(default: InputDefault, known_choices: Callable[[], DictConfig], name: str) -> str:
        return name if re.fullmatch(r"[\w/]+", name) else resolve(default, known_choices(), name)

    def copy_types(types: base.Metadata, memo: dict[int, object]) -> base.Metadata:
        twin = copy.copy(types)
        twin.flags, twin.resolver_cache = types.flags and {**types.flags}, copy.deepcopy(types.resolver_cache, memo)
        return twin

    def correct_parents(box: base.Box) -> None:
        content = box.__dict__["_content"]
        for child in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
            if child is not None and child.__dict__["_parent"] is not box:
                child._set_parent(box)
            if isinstance(child, base.Box):
                child._re_parent()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_once)
        patch.setattr(ConfigRepository, "__deepcopy__", lambda repository, _: copy.copy(repository), raising=False)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)
        patch.setattr(defaults_list, "_create_interpolation_map", lambda *known: partial(map_choices, *known))
        patch.setattr(InputDefault, "_resolve_interpolation_impl", resolve_a_reference)
        patch.setattr(base, "parse", cache(base.parse))
        patch.setattr(base.Container, "_re_parent", correct_parents, raising=False)
        patch.setattr(base.Metadata, "__deepcopy__", copy_types, raising=False)
        patch.setattr(version, "_get_version", cache(version._get_version))
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield
