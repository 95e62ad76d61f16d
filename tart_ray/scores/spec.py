"""What scoring needs to know of the model, the replicas and the limits, settled once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from tart_ray.config import CandidatesConfig, ClusterConfig, LimitsConfig, ModelConfig, StorageConfig, TemplateConfig
from tart_ray.errors import CheckpointChangedError, ConfigurationError
from tart_ray.model.checkpoint import fingerprint_checkpoint, pin_revision
from tart_ray.model.checkpoint_files import CROSS_ENCODER_FILES, ENCT5_FILES
from tart_ray.model.cross_encoder import CrossEncoderTokenizer, load_cross_encoder
from tart_ray.model.family import Family, family_of
from tart_ray.model.fetching import PUT_BACK
from tart_ray.model.fitness import check_checkpoint
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.template import Template
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
        place = pin_revision(CheckpointPlace(model.path, model.revision, storage.fsspec_options(model.path)))
        family = family_of(place) if model.family == "auto" else model.family
        files = ENCT5_FILES if family == "enct5" else CROSS_ENCODER_FILES
        found = fingerprint_checkpoint(place, files=files)
        if model.fingerprint not in (None, found):
            raise CheckpointChangedError(
                f"{model.path}: got a checkpoint of fingerprint {found}, expected {model.fingerprint}: {PUT_BACK}"
            )
        place = dataclasses.replace(place, fingerprint=found)
        check_settings(model, family)
        if model.encoder == "padded" and not cluster.gpus_per_replica:
            raise ConfigurationError(
                "model.encoder: got padded and cluster.gpus_per_replica: 0, expected auto, packed or reference on CPUs"
            )
        template = model.template
        if family == "enct5":
            check_checkpoint(place)
        else:
            without_weights = load_cross_encoder(place, device="meta", check_weights=True)
            tokenizer = CrossEncoderTokenizer(without_weights, template_of(model.template), model.max_length)
            template = TemplateConfig(**dataclasses.asdict(tokenizer.template))
        settled = {"revision": place.revision, "family": family, "fingerprint": found, "template": template}
        model = model.model_copy(update={**settled, "dtype": dtype_of(model, cluster)})
        return cls(model, cluster, limits, storage, candidates.empty_documents)

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Where replicas compute."""
        return "cuda" if self.cluster.gpus_per_replica else "cpu"

    @property
    def place(self) -> CheckpointPlace:
        """Of the checkpoint; secrets in clear."""
        model = self.model
        options = self.storage.fsspec_options(model.path)
        return CheckpointPlace(model.path, model.revision, options, model.fingerprint)

    @property
    def family(self) -> Family:
        """Of the model."""
        return "enct5" if self.model.family == "auto" else self.model.family

    @property
    def template(self) -> Template | None:
        """How a pair is written for a cross-encoder; None for an EncT5, which has one way."""
        return None if self.family == "enct5" else template_of(self.model.template)

    @property
    def reads_instructions(self) -> bool:
        """Whether an instruction can change a score."""
        return self.template is None or self.template.reads_instructions

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for scores to be equal: the model, and how it reads a pair."""
        assert self.model.fingerprint is not None
        read = {"fingerprint", "max_length", "long_documents", "truncation", "split_special_tokens", "dtype"}
        if self.family != "enct5":  # whose runs of older releases know no family
            read |= {"family", "template"}
        if self.model.encoder != "auto":
            read |= {"encoder"}
        return {**self.model.model_dump(include=read), "versions": versions_of_scores(self.family)}


def dtype_of(model: ModelConfig, cluster: ClusterConfig) -> Literal["float32", "bfloat16"]:
    """The dtype that replicas compute in: ``auto`` is bfloat16 on GPUs, float32 on CPUs."""
    if model.dtype != "auto":
        return model.dtype
    return "bfloat16" if cluster.gpus_per_replica else "float32"


def check_settings(model: ModelConfig, family: Family) -> None:
    """Refuse settings that a family does not have.

    Raises:
        ConfigurationError: there are some.
    """
    if family == "enct5":
        if model.template != TemplateConfig():
            raise ConfigurationError(
                "model.template: got a template for an EncT5, expected none: it reads "
                '"{instruction} [SEP] {query}" and "{title} {text}", as it was trained'
            )
        return
    for name in ("long_documents", "truncation", "split_special_tokens", "encoder"):
        default = type(model).model_fields[name].default
        if getattr(model, name) != default:
            raise ConfigurationError(
                f"model.{name}: got {getattr(model, name)!r}, expected {default!r}: {model.path} is not an EncT5, and "
                "its library knows no other way"
            )


def template_of(given: TemplateConfig) -> Template:
    """The template of a configuration."""
    return Template(**{name: value for name, value in given.model_dump().items() if value is not None})
