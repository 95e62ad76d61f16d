"""The configuration of jobs.rerank."""

from __future__ import annotations

from tart_ray.config.sections import (
    ClusterConfig,
    InputConfig,
    LimitsConfig,
    ModelConfig,
    OutputConfig,
    PlanConfig,
    Section,
    StorageConfig,
)


class RerankConfig(Section):
    """Configuration of jobs.rerank."""

    input: InputConfig
    output: OutputConfig
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()
    plan: PlanConfig = PlanConfig()
