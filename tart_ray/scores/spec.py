"""What scoring needs to know of the model, the replicas and the limits, settled once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tart_ray.config import CandidatesConfig, ClusterConfig, LimitsConfig, ModelConfig, StorageConfig
from tart_ray.errors import CheckpointChangedError
from tart_ray.model.checkpoint import PUT_BACK, fingerprint_checkpoint, resolve_revision
from tart_ray.model.fitness import check_checkpoint
from tart_ray.scores.releases import versions_of_scores


@dataclass(frozen=True)
class ScoringSpec:
    """How pairs are scored. Pickles into every worker.

    Attributes:
        model: with the commit and the fingerprint of the checkpoint, and the dtype that replicas compute in.
        cluster: how many replicas there are, and what each has.
        limits: when a row or the run is given up.
        storage: of the chunks and of the model.
        empty_documents: what becomes of documents without text.
    """

    model: ModelConfig
    cluster: ClusterConfig
    limits: LimitsConfig
    storage: StorageConfig
    empty_documents: Literal["quarantine", "score"] = "quarantine"

    @classmethod
    def resolve(
        cls,
        model: ModelConfig,
        cluster: ClusterConfig,
        limits: LimitsConfig,
        storage: StorageConfig,
        candidates: CandidatesConfig,
    ) -> ScoringSpec:
        """By the checkpoint that is there now, found fit to score with: workers load it, whatever is there by then.

        Raises:
            CheckpointError: it is not there, has another fingerprint than ``model.fingerprint``, or cannot be scored
                with.
        """
        options = storage.fsspec_options(model.path)
        revision = resolve_revision(model.path, revision=model.revision)
        found = fingerprint_checkpoint(model.path, revision=revision, storage_options=options)
        if model.fingerprint not in (None, found):
            raise CheckpointChangedError(
                f"{model.path}: got a checkpoint of fingerprint {found}, expected {model.fingerprint}: {PUT_BACK}"
            )
        check_checkpoint(model.path, fingerprint=found, revision=revision, storage_options=options)
        settled = {"revision": revision, "fingerprint": found, "dtype": dtype_of(model, cluster)}
        return cls(model.model_copy(update=settled), cluster, limits, storage, candidates.empty_documents)

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where replicas compute."""
        return "cuda" if self.cluster.gpus_per_replica else "cpu"

    @property
    def storage_options(self) -> dict[str, Any]:
        """Of the filesystem that the model is on; secrets in clear."""
        return self.storage.fsspec_options(self.model.path)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for scores to be equal: the model, and how it reads a pair."""
        assert self.model.fingerprint is not None
        read = {"fingerprint", "max_length", "long_documents", "truncation", "split_special_tokens", "dtype"}
        return {**self.model.model_dump(include=read), "versions": versions_of_scores()}


def dtype_of(model: ModelConfig, cluster: ClusterConfig) -> Literal["float32", "bfloat16"]:
    """The dtype that replicas compute in: ``auto`` is bfloat16 on GPUs, float32 on CPUs."""
    if model.dtype != "auto":
        return model.dtype
    return "bfloat16" if cluster.gpus_per_replica else "float32"
