"""Hydra in less time, for many commands in one process: composing their configs takes longer than training two steps."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra.plugins.config_source import ConfigResult


@contextmanager
def less_composing() -> Iterator[None]:
    """In the block Hydra parses a file once, as long as it does not change, and composes a config once.

    Otherwise it parses each file for every config, and composes each config first to look for hydra.mode, which no test gives.
    """
    parse, parsed = FileConfigSource.load_config, {}

    def parse_once(source: FileConfigSource, config_path: str) -> ConfigResult:
        file = Path(source.path, source._normalize_file_name(config_path)).resolve()
        if not file.is_file():
            return parse(source, config_path)  # it says so
        stat = file.stat()
        stamp = (source.provider, source.path, file, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if stamp not in parsed:
            parsed[stamp] = pickle.dumps(parse(source, config_path))
        return pickle.loads(parsed[stamp])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", parse_once)
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield
