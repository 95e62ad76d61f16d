"""Where a checkpoint is, and which one must be there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tart_ray.errors import CheckpointError, LocationError
from tart_ray.locations import DEMO, check_location

DEMO_MODEL = Path(__file__).parents[1] / "demo" / "model"  # trained by recipes/demo_model; README.md is its card
HUB_URL = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^@]+?))?/?")


@dataclass(frozen=True)
class CheckpointPlace:
    """A place for a checkpoint. Credentials do not tell one from another, and are not printed.

    Attributes:
        path: a local directory, a URL of a store (``s3://bucket/model/``), a hub id (``owner/name``, or
            ``hf://owner/name@revision``), or the word ``demo``: the model that comes with the package, also where
            there is a directory of that name, which is ``./demo`` or a `Path`.
        revision: a hub branch, tag or commit.
        storage_options: passed to fsspec for a URL (``endpoint_url``, ``key`` …).
        fingerprint: of the checkpoint that must be there (`tart_ray.model.checkpoint`); None takes any.
    """

    path: str | Path
    revision: str | None = None
    storage_options: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    fingerprint: str | None = None

    def located(self) -> CheckpointPlace:
        """The same place by a checked path; of a hf:// URL the hub id, and its revision if no other is given.

        Of ``demo`` the directory on the machine that asks: a worker's installation may lie elsewhere than the driver's.

        Raises:
            CheckpointError: no model can be there.
        """
        if self.path == DEMO:
            return dataclasses.replace(self, path=DEMO_MODEL, revision=None)
        try:
            text = check_location(f"./{self.path}" if self.path == Path(DEMO) else str(self.path))
        except LocationError as error:
            raise CheckpointError(f"model path: {error}") from error
        if not text.startswith("hf://"):
            return dataclasses.replace(self, path=text)
        found = HUB_URL.fullmatch(text)
        if found is None:
            raise CheckpointError(f"model path {text!r}: expected hf://owner/name or hf://owner/name@revision")
        return dataclasses.replace(self, path=found[1], revision=self.revision or found[2])

    @property
    def is_url(self) -> bool:
        """Whether it is in object storage, or another filesystem that a URL names."""
        return "://" in str(self.located().path)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory of this machine."""
        return not self.is_url and Path(self.located().path).expanduser().is_dir()

    @property
    def is_hub_id(self) -> bool:
        """Whether it is a model of the hub, if there is one of that name."""
        return not self.is_url and not self.is_directory
