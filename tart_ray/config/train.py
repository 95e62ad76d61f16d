"""The configuration of jobs.train."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from tart_ray.config.sections import (
    Destination,
    Fraction,
    LimitsConfig,
    Location,
    Section,
    StorageConfig,
    check_column_names,
)

EXAMPLE_COLUMNS = (
    "query", "document", "label", "score", "docs", "labels", "scores", "positives", "negatives",
    "pos_scores", "neg_scores", "unfollowing", "task", "instruction",
)  # fmt: skip


class GeometryConfig(Section):
    """A new model's size.

    Attributes:
        num_layers: Blocks of attention and feed-forward.
        d_model: Width.
        num_heads: Of attention.
        d_kv: Width of a head.
        d_ff: Width of the feed-forward layers, which are gated.
    """

    num_layers: PositiveInt = 4
    d_model: PositiveInt = 256
    num_heads: PositiveInt = 8
    d_kv: PositiveInt = 32
    d_ff: PositiveInt = 512

    @model_validator(mode="after")
    def _heads_fit(self) -> GeometryConfig:
        if self.d_kv > self.d_model:
            raise ValueError(f"got d_kv {self.d_kv} above d_model {self.d_model}, expected at most as much")
        return self


class StartConfig(Section):
    """What training starts from: a checkpoint, or a vocabulary and a size.

    Attributes:
        path: A T5 (google/flan-t5-xl, or any size) or an EncT5: hub id, local directory, or s3://bucket/prefix/.
        revision: Hub branch, tag or commit.
        vocabulary: Of a new model: a sentencepiece model in T5's layout, or a place that holds spiece.model.
        geometry: Of a new model.
        initialisation: Of a new model: t5 as T5 is, mimetic lets attention begin as a search for equal tokens.
        max_length: Tokens of a pair; longer ones are cut.
    """

    path: Location | None = None
    revision: str | None = None
    vocabulary: Location | None = None
    geometry: GeometryConfig = GeometryConfig()
    initialisation: Literal["t5", "mimetic"] = "mimetic"
    max_length: Annotated[int, Field(ge=8)] = 512

    @model_validator(mode="after")
    def _one_of_two(self) -> StartConfig:
        if (self.path is None) == (self.vocabulary is None):
            given = [name for name in ("path", "vocabulary") if getattr(self, name) is not None]
            raise ValueError(f"model: got {given}, expected one of path, vocabulary")
        if self.path is not None:
            for name in ("geometry", "initialisation"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"model: got {name} beside model.path, which brings its own")
        return self


class TrainInputConfig(Section):
    """What is trained on.

    Attributes:
        train: File, directory or glob: JSONL or Parquet of pairs, lists or groups, see docs/training.md.
        evaluation: The like, of queries held out.
        instructions: JSON, {task: [instruction, ...]}: one of its task's is drawn for each pair.
        columns: Our name: their name, of fields that are called otherwise.
    """

    train: Location
    evaluation: Location | None = None
    instructions: Location | None = None
    columns: dict[str, str] = {}

    @model_validator(mode="after")
    def _known_columns(self) -> TrainInputConfig:
        check_column_names("input.columns", self.columns, {}, EXAMPLE_COLUMNS)
        return self


class TrainOutputConfig(Section):
    """Where results go.

    Attributes:
        path: Directory of this run, local or s3://; one run, one path. The checkpoint is in checkpoint/.
        dtype: Of the weights in the checkpoint; bfloat16 halves it.
    """

    path: Destination
    dtype: Literal["float32", "bfloat16"] = "float32"


class WorkersConfig(Section):
    """The Ray cluster, and the workers that share each step.

    Attributes:
        address: auto joins the cluster of RAY_ADDRESS, or one that `ray start` started on this machine, or else starts
            Ray for this job alone; local always does the latter; or host:port of a head. See docs/clusters.md.
        workers: Each holds the model and all examples.
        gpus_per_worker: 1, or 0 to train on CPUs.
        cpus_per_worker: Also the threads of torch in a worker.
    """

    address: str = "auto"
    workers: PositiveInt = 1
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 1
    cpus_per_worker: PositiveInt = 1


PUBLISHED_RECIPE: dict[str, Any] = {  # of TART-full; what else belongs to it is tart_ray.training.published
    "loss": "cross_entropy",
    "num_negatives": 4,
    "random_negatives": (0.0, 0.0),
    "max_unfollowing_fraction": 0.16,
    "max_unfollowing": 10_000,
    "learning_rate": 5e-5,
    "schedule": "linear",
    "warmup_fraction": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optimizer": "adamw",
    "dropout": None,
    "dtype": "float32",
    "select_by": "accuracy",
    "patience": 5,
}


class TrainingConfig(Section):
    """How an EncT5 is trained.

    Attributes:
        preset: tart is the recipe that TART-full was published with, exactly: it sets the keys listed in
            docs/training.md, draws its pairs once, takes 64 of them a step, and starts as the authors' code does. Null
            is this project's own recipe, with the defaults given here.
        loss: cross_entropy of two labels; listwise, a softmax over the margins of a positive and its negatives; or
            margin_mse and kl_divergence, distillation of a teacher's margins, by their differences or by a softmax over
            those of a positive and its negatives.
        num_negatives: Of each positive, drawn afresh in every epoch; null takes all there are.
        random_negatives: Share of the negatives that are documents of other queries of the task: at the start and at
            the end of training, linear in between.
        max_unfollowing_fraction: Of a task's pairs, those whose document answers the query but not the instruction;
            distillation uses none.
        max_unfollowing: Of a task in an epoch, at most so many of those pairs.
        epochs: Each has every positive once.
        max_steps: In place of epochs.
        queries_per_step: Positives, each with its negatives, of one step of the optimizer, over all workers.
        max_tokens_per_batch: Padded tokens that go through a worker at once; a step is cut into such batches.
        learning_rate: At its peak.
        schedule: Of the learning rate after the warm-up.
        warmup_fraction: Of all steps.
        weight_decay: Of matrices; norms, biases and embeddings have none.
        max_grad_norm: Longer gradients are scaled down to it.
        optimizer: adafactor keeps next to no state.
        dropout: null keeps the checkpoint's.
        dtype: bfloat16 computes in it where that is safe; weights and their updates are float32.
        gradient_checkpointing: Compute activations a second time rather than keep them.
        seed: Of order, negatives, instructions and dropout.
        evaluate_every: Steps between evaluations on the held-out queries.
        select_by: What tells the best weights on the held-out queries: ndcg_at_10, or accuracy of the two labels.
        patience: Stop after so many evaluations without better weights; null never does.
        checkpoint_every: Steps between states that a killed run continues from.
        log_every: Steps between lines of the log.
    """

    preset: Literal["tart"] | None = None
    loss: Literal["cross_entropy", "listwise", "margin_mse", "kl_divergence"] = "cross_entropy"
    num_negatives: PositiveInt | None = 4
    random_negatives: tuple[Fraction, Fraction] = (0.0, 0.0)
    max_unfollowing_fraction: Fraction = 0.16
    max_unfollowing: Annotated[int, Field(ge=0)] = 10_000
    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    queries_per_step: PositiveInt = 32
    max_tokens_per_batch: PositiveInt = 8_192
    learning_rate: PositiveFloat = 1e-4
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_fraction: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: PositiveFloat = 1.0
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    evaluate_every: PositiveInt = 500
    select_by: Literal["ndcg_at_10", "accuracy"] = "ndcg_at_10"
    patience: PositiveInt | None = None
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 50

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        """The preset's values in place of the defaults; the command line gives both as if they had been asked for."""
        if not isinstance(values, dict) or values.get("preset") != "tart":
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        fixed = PUBLISHED_RECIPE | {"queries_per_step": defaults["queries_per_step"]}
        given = {name: values[name] for name in fixed if name in values}
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        other = {name: value for name, value in given.items() if value not in (defaults[name], fixed[name])}
        if other:
            raise ValueError(f"got {other} beside preset tart, which sets these keys; leave them or the preset out")
        return values | fixed

    @model_validator(mode="after")
    def _random_negatives_fit(self) -> TrainingConfig:
        if self.distils and max(self.random_negatives):
            raise ValueError(f"random_negatives: a teacher has not scored them, expected [0, 0] with loss {self.loss}")
        if self.num_negatives is None and max(self.random_negatives):
            raise ValueError("random_negatives: got a share of no number, expected num_negatives beside it")
        return self

    @property
    def distils(self) -> bool:
        """Whether the loss compares with a teacher's margins."""
        return self.loss in ("margin_mse", "kl_divergence")


class TrainConfig(Section):
    """Configuration of jobs.train."""

    model: StartConfig
    input: TrainInputConfig
    output: TrainOutputConfig
    training: TrainingConfig = TrainingConfig()
    cluster: WorkersConfig = WorkersConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _patience_has_something_to_wait_for(self) -> TrainConfig:
        if self.training.patience is not None and self.input.evaluation is None:
            why = "the published recipe stops early" if self.training.preset else "whose queries it waits for"
            raise ValueError(f"got training.patience without input.evaluation: {why}")
        if self.training.preset and self.model.path is None:
            raise ValueError("got training.preset tart without model.path: the published recipe starts from a T5")
        return self
