"""What is served under each name: the version that a reference means now, and how it is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rayfill.inference.load import make_inpainter
from rayfill.runs.provenance import version_of
from rayfill.runs.references import Located, Reference, find_registered, locate
from rayfill.runs.registry import RegisteredModel
from rayfill_data.errors import RayfillError
from rayfill_data.storage import MANIFEST, read_file

if TYPE_CHECKING:
    from rayfill.config.sections import Finish
    from rayfill.inference.inpainter import Inpainter

#: Digits of a manifest's SHA-256 that tell a bundle from another one in its place.
_DIGITS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedVersion:
    """What a name stands for at a moment, not loaded yet."""

    name: str
    """What it is called in requests and answers."""
    version: str
    """Of the registry, of a bundle's manifest, or of Rayfill itself, for baselines."""
    registered: RegisteredModel | None = None
    """What the registry knows of it."""


class ModelSource(Protocol):
    """Where models come from."""

    def find(self, name: str) -> ServedVersion:
        """Return the version to serve under ``name`` now."""

    def load(self, version: ServedVersion) -> Inpainter:
        """Return that version, ready to fill holes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceSource:
    """The models that references lead to, by the names they are served under."""

    references: Mapping[str, Reference]
    tracking_uri: str
    cache_dir: str
    device: str = "cpu"
    finish: Finish = "auto"

    def find(self, name: str) -> ServedVersion:
        """Return what a reference means now: an alias may have moved, a bundle been replaced.

        Raises:
            RayfillError: a model that is not there, or a store that does not answer.
        """
        reference = self.references[name]
        if reference.kind == "baseline":
            return ServedVersion(name=name, version=version_of("rayfill"))
        if reference.kind == "registered":
            found = find_registered(reference, tracking_uri=self.tracking_uri)
            return ServedVersion(name=name, version=found.version, registered=found)
        bundle = self._located(reference).bundle
        manifest = read_file(f"{bundle}/{MANIFEST}")
        if manifest is None:
            raise RayfillError(f"{bundle} has no {MANIFEST}. Fetch or save the model bundle again.")
        digest = hashlib.sha256(manifest).hexdigest()[:_DIGITS]
        return ServedVersion(name=name, version=digest)

    def load(self, version: ServedVersion) -> Inpainter:
        """Return a version with its network in memory; one of the registry is fetched once.

        Raises:
            RayfillError: a bundle that cannot be fetched or used.
        """
        reference = self.references[version.name]
        if version.registered:  # the very version that was found, wherever its alias is by now
            reference = dataclasses.replace(reference, alias="", version=version.version)
        located = None if reference.kind == "baseline" else self._located(reference)
        return make_inpainter(reference, located, device=self.device, finish=self.finish)

    def _located(self, reference: Reference) -> Located:
        cache = Path(self.cache_dir)
        return locate(reference, tracking_uri=self.tracking_uri, cache_dir=cache)
