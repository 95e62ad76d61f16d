"""How pairs are scored, for tests of what scores them."""

from __future__ import annotations

from tart_ray.config import RerankConfig
from tart_ray.scores.spec import ScoringSpec


def spec_of(config: RerankConfig) -> ScoringSpec:
    """How a configuration's pairs are scored, whatever checkpoint is there."""
    return ScoringSpec(config.model, config.cluster, config.limits, config.storage, config.input.empty_documents)
