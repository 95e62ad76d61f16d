"""The typed configuration of every job: what a YAML file and the command line can say, and nothing else.

Knows no Ray, torch or storage: it is read before any of them is imported. `command_line` reads it.
"""

from tart_ray.config.evaluate import (
    EvaluateConfig,
    EvaluateInputConfig,
    EvaluateOutputConfig,
    MetricsConfig,
    TaskConfig,
)
from tart_ray.config.mine import MineConfig, MineOutputConfig, MiningConfig, PositivesConfig, TrainerConfig
from tart_ray.config.policy import MiningPolicy
from tart_ray.config.relabel import (
    CalibrationConfig,
    LabelsConfig,
    RelabelConfig,
    RelabelInputConfig,
    RelabelLimitsConfig,
    RelabelOutputConfig,
)
from tart_ray.config.rerank import RerankConfig
from tart_ray.config.sections import (
    CandidatesConfig,
    ClusterConfig,
    InputConfig,
    LimitsConfig,
    MineInputConfig,
    ModelConfig,
    OutputConfig,
    PlanConfig,
    ReplicasConfig,
    Section,
    StorageConfig,
    TemplateConfig,
)
from tart_ray.config.train import (
    PUBLISHED_RECIPE,
    GeometryConfig,
    StartConfig,
    TrainConfig,
    TrainingConfig,
    TrainInputConfig,
    TrainOutputConfig,
    WorkersConfig,
)

__all__ = [
    "CalibrationConfig",
    "CandidatesConfig",
    "ClusterConfig",
    "EvaluateConfig",
    "EvaluateInputConfig",
    "EvaluateOutputConfig",
    "GeometryConfig",
    "InputConfig",
    "LabelsConfig",
    "LimitsConfig",
    "MetricsConfig",
    "MineConfig",
    "MineInputConfig",
    "MineOutputConfig",
    "MiningConfig",
    "MiningPolicy",
    "ModelConfig",
    "OutputConfig",
    "PUBLISHED_RECIPE",
    "PlanConfig",
    "PositivesConfig",
    "RelabelConfig",
    "RelabelInputConfig",
    "RelabelLimitsConfig",
    "RelabelOutputConfig",
    "ReplicasConfig",
    "RerankConfig",
    "Section",
    "StartConfig",
    "StorageConfig",
    "TaskConfig",
    "TemplateConfig",
    "TrainConfig",
    "TrainInputConfig",
    "TrainOutputConfig",
    "TrainerConfig",
    "TrainingConfig",
    "WorkersConfig",
]
