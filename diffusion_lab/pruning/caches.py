"""Which cached references, samples and statistics belong to no model and no score that stays.

What decides them is named by hashes, so a config or a score that contains the hash is what refers to it.
"""

from __future__ import annotations

import re

from diffusion_lab.pruning.models import Found, fingerprint_of
from diffusion_lab.pruning.unused import Unused
from diffusion_lab.runs import FINGERPRINT_LENGTH, CacheDirectory
from diffusion_lab.runs.cache import read_key
from diffusion_lab.store.lease import is_held

_FINGERPRINT = re.compile("[0-9a-f]{64}")


def unused_cache(cache: CacheDirectory, found: Found) -> list[Unused]:
    """Files there under our keys. They are computed again when they are needed."""
    return [*_references(cache, found), *_streams(cache, found)]


def _references(cache: CacheDirectory, found: Found) -> list[Unused]:
    """Those that no score has looked at or started from. A model that has no score yet may need any of its data."""
    waiting = [found.config(model) for model in found.models if not found.scores(model)]
    scores, unused = [found.score(run) for run in found.runs], []
    for file in cache.references:
        key = read_key(file) or {}
        data, features = str(key.get("data")), str(key.get("features"))
        # Where a chain started from moments (start=data_moments), the score names their data, but no features.
        of_start = key.get("kind") == "moments" or str(key.get("kind")).endswith("-means")
        start = f"training images, {data[:12]}" if of_start else features
        scored = any(data in score and (features in score or start in score) for score in scores)
        if not scored and not any(data in config for config in waiting):
            unused.append(Unused(file, "no score has these data and features", [file]))
    return unused


def _streams(cache: CacheDirectory, found: Found) -> list[Unused]:
    stay = {fingerprint_of(model) for model in found.models}
    scored = {text for run in found.runs for text in _FINGERPRINT.findall(found.score(run))}
    unused = []
    for folder, files in cache.streams.items():
        if is_held(folder):
            continue
        fingerprint = str((read_key(files[0]) or {}).get("model")).partition(" ")[0]
        if fingerprint[:FINGERPRINT_LENGTH] not in stay and fingerprint not in scored:
            unused.append(Unused(folder, "of a model that is listed or gone", files, home=folder))
    return unused
