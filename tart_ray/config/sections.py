"""Sections that several jobs share, and the checks that they have in common."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)

from tart_ray.config.changes import changed
from tart_ray.locations import MASK, STORES, check_location, printable, scheme_of

Fraction = Annotated[float, Field(ge=0, le=1)]
Location = Annotated[str, AfterValidator(check_location)]  # what is read
Destination = Annotated[str, AfterValidator(partial(check_location, written=True))]
ROLES = ("candidates", "queries", "corpus", "qrels")
CANDIDATE_COLUMNS = ("query_id", "query", "doc_id", "text", "title", "instruction", "score", "candidates")
QUERY_COLUMNS, CORPUS_COLUMNS = ("query_id", "query"), ("doc_id", "text", "title")
QRELS_COLUMNS, RUN_COLUMNS = ("query_id", "doc_id", "relevance"), ("query_id", "doc_id", "score", "candidates")

TEMPLATE_FIELDS = {  # what each part can be made of
    "query": ("instruction", "query"),
    "document": ("title", "text"),
    "prompt": ("instruction",),
}


def check_column_names(
    key: str, columns: Mapping[str, str], roles: Mapping[str, Sequence[str]], names: Sequence[str] | None = None
) -> None:
    """Refuse names of columns that are none of ours.

    Args:
        roles: what may stand behind each role and a dot.
        names: what may stand without a role; None: anything.

    Raises:
        ValueError: a name is another.
    """
    of_roles = [f"{role}.{name}" for role, found in roles.items() for name in found]
    with_role = [name for name in columns if name.partition(".")[0] in ROLES and "." in name]
    unknown = sorted({*with_role} - {*of_roles})
    if names is not None:
        unknown += sorted({*columns} - {*with_role} - {*names})
    if unknown:
        raise ValueError(f"{key}: got {unknown}, expected names among {[*(names or ()), *of_roles]}")


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, by the keys of YAML."""
        return changed(self)


class TemplateConfig(Section):
    """How a pair is written for a cross-encoder other than EncT5; see docs/models.md.

    Attributes:
        query: The first text, of {instruction} and {query}; null is "{query}".
        document: The second text, of {title} and {text}; null is "{title} {text}".
        prompt: What the model is told beside the two, of {instruction}; null gives a model that reads chats the
            instruction, and every other one what its checkpoint says, if anything.
    """

    query: str | None = None
    document: str | None = None
    prompt: str | None = None

    @model_validator(mode="after")
    def _known_fields(self) -> TemplateConfig:
        for part, fields in TEMPLATE_FIELDS.items():
            if (template := getattr(self, part)) is not None:
                check_template(part, template, fields)
        return self


def check_template(part: str, template: str, fields: Sequence[str]) -> None:
    """Refuse a format string of other names than ``fields``.

    Raises:
        ValueError: there are others, or its braces do not match.
    """
    try:
        parsed = [*string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"{part}: got {template!r}: {error}; double the braces that are text") from None
    odd = {name for _, name, form, conversion in parsed if name is not None and (form or conversion)}
    unknown = sorted({name for _, name, _, _ in parsed if name is not None} - {*fields} | odd)
    if unknown:
        known = " and ".join(f"{{{name}}}" for name in fields)
        raise ValueError(f"{part}: got {unknown} in {template!r}, expected {known} alone")


class ModelConfig(Section):
    """The checkpoint and how it reads a pair.

    Attributes:
        path: Hub id, local directory, s3://bucket/prefix/, or demo: the small model that comes with tart-ray.
        family: enct5, as TART is; cross-encoder, any that sentence-transformers loads; auto reads the checkpoint's
            config.json.
        template: How a pair is written for a cross-encoder.
        revision: Hub branch, tag or commit.
        fingerprint: Of the checkpoint that must be there, as a run's manifest.json names it; null takes what is there.
        dtype: bfloat16 on GPUs and float32 on CPUs where it is auto; float32 is the reference.
        max_length: Tokens of a pair, or of a window of it.
        long_documents: What becomes of longer ones: truncate cuts them; maxp reads the whole document in windows, and
            the best window's score is the pair's. See docs/long_documents.md.
        truncation: longest_first as TART was trained (it can cut the query), or only_document.
        split_special_tokens: True encodes "</s>" and the like in raw text as plain text.
        max_tokens_per_batch: Padded tokens that go through a replica at once; auto suits the device, and is found by
            trying on GPUs.
        encoder: Of an EncT5. On GPUs auto tries all on the first chunk and takes the fastest that is right, for the
            whole run; on CPUs it is packed. reference is transformers' own; padded is for GPUs. See docs/speed.md.
    """

    path: Location = "facebook/tart-full-flan-t5-xl"
    family: Literal["auto", "enct5", "cross-encoder"] = "auto"
    template: TemplateConfig = TemplateConfig()
    revision: str | None = None
    fingerprint: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_length: Annotated[int, Field(ge=8)] = 512
    long_documents: Literal["truncate", "maxp"] = "truncate"
    truncation: Literal["longest_first", "only_document"] = "longest_first"
    split_special_tokens: bool = False
    max_tokens_per_batch: PositiveInt | Literal["auto"] = "auto"
    encoder: Literal["auto", "reference", "padded", "packed"] = "auto"


class CandidatesConfig(Section):
    """Candidates and what belongs to them, in every job that takes them.

    Attributes:
        candidates: File, directory or glob: Parquet or JSONL of pairs or of lists, a TREC run, or what an earlier run
            wrote to reranked/ or scores/.
        queries: For candidates without query text: BEIR queries.jsonl, TSV or Parquet.
        corpus: For candidates without document text: BEIR corpus.jsonl, TSV or Parquet.
        instruction: For every row; a row's own instruction column wins, unless an earlier run wrote it. "" says that
            none is meant.
        columns: Our name: their name, of columns that are called otherwise: of the candidates, or else of the queries
            or the corpus. A name may say whose: {corpus.doc_id: docno}. Other columns of the candidates can be renamed
            in the same way.
        drop_columns: Their names of columns to leave out.
        ids: required refuses candidates without query_id or doc_id; from_text makes the ids that have no column out of
            the texts, and takes a column document for the text. See docs/input.md.
        empty_documents: Documents whose title and text are blank: quarantine keeps them out, score gives them the score
            of an empty text, as the original does.
    """

    candidates: Location | None = None
    queries: Location | None = None
    corpus: Location | None = None
    instruction: str | None = None
    columns: dict[str, str] = {}
    empty_documents: Literal["quarantine", "score"] = "quarantine"
    drop_columns: list[str] = []
    ids: Literal["required", "from_text"] = "required"

    @model_validator(mode="after")
    def _known_columns(self) -> CandidatesConfig:
        roles = {"candidates": CANDIDATE_COLUMNS, "queries": QUERY_COLUMNS, "corpus": CORPUS_COLUMNS}
        check_column_names("input.columns", self.columns, roles)
        return self


class InputConfig(CandidatesConfig):
    """What is scored."""

    candidates: Location


class MineInputConfig(CandidatesConfig):
    """Whose scores are mined: those of a finished run, or of candidates that are scored first, into scoring/.

    Attributes:
        run: output.path of a finished jobs.rerank; nothing is scored.
    """

    run: Location | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> MineInputConfig:
        given = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        if (self.run is None) == (self.candidates is None) or (self.run is not None and given != ["run"]):
            raise ValueError(f"input: got {given}, expected run alone, or candidates and what belongs to them")
        if self.candidates is not None:
            self.to_score()
        return self

    def to_score(self) -> InputConfig:
        """The candidates, as jobs.rerank takes them."""
        return InputConfig.model_validate(self.model_dump(exclude={"run"}))


class OutputConfig(Section):
    """Where results go.

    Attributes:
        path: Directory of this run, local or s3://; one run, one path.
        partition_by: Columns that become key=value directories of reranked/.
        top_k: Documents kept per query in reranked/; scores/ keeps every pair.
        include: Texts that reranked/ has behind its other columns, so that it is read without a join: query, text,
            title.
    """

    path: Destination
    partition_by: list[str] = []
    top_k: PositiveInt | None = None
    include: list[Literal["query", "text", "title"]] = []


class ReplicasConfig(Section):
    """How far the pool of replicas scales.

    Attributes:
        min: Replicas that are kept while there is work.
        max: Replicas at most.
    """

    min: PositiveInt = 1
    max: PositiveInt = 8

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasConfig:
        if self.min > self.max:
            raise ValueError(f"cluster.replicas: got min {self.min} above max {self.max}")
        return self


class ClusterConfig(Section):
    """The Ray cluster.

    Attributes:
        address: auto joins the cluster of RAY_ADDRESS, or one that `ray start` started on this machine, or else starts
            Ray for this job alone; local always does the latter; or host:port of a head. See docs/clusters.md.
        replicas: How far the pool of replicas scales.
        gpus_per_replica: 0 scores on CPUs.
        cpus_per_replica: Also the threads of torch in a replica.
    """

    address: str = "auto"
    replicas: ReplicasConfig = ReplicasConfig()
    gpus_per_replica: Annotated[float, Field(ge=0)] = 1
    cpus_per_replica: Annotated[float, Field(gt=0)] = 1


class LimitsConfig(Section):
    """When a run gives up.

    Attributes:
        max_quarantined_fraction: More bad rows than this: exit code 3, and no _SUCCESS.
        max_attempts_per_chunk: Processes that may die with a row at work before it goes to quarantine, and on any
            other unit of work before the job fails.
        max_seconds_per_batch: A replica that takes longer for a batch hangs: its process is ended, which counts as
            such a death. Loading the model may take four times as long.
    """

    max_quarantined_fraction: Fraction = 0.01
    max_attempts_per_chunk: PositiveInt = 3
    max_seconds_per_batch: PositiveFloat = 900


class StorageConfig(Section):
    """The stores, where their usual environment variables do not say it; see docs/storage.md.

    Attributes:
        endpoint_url: Of an S3 server other than AWS.
        region: AWS region.
        key: Of S3, the access key id; better left to the environment or an instance profile.
        secret: Of S3, the secret access key.
        token: Of S3, the session token.
        anonymous: Read public S3 buckets without credentials.
        gs: Options of gcsfs for gs://, such as project or token.
        az: Options of adlfs for az:// and abfs://, such as account_name or sas_token.
        hf: Options of huggingface_hub's filesystem for hf://, such as token.
    """

    endpoint_url: str | None = None
    region: str | None = None
    key: SecretStr | None = None
    secret: SecretStr | None = None
    token: SecretStr | None = None
    anonymous: bool = False
    gs: dict[str, Any] = Field(default={}, repr=False)
    az: dict[str, Any] = Field(default={}, repr=False)
    hf: dict[str, Any] = Field(default={}, repr=False)

    @field_serializer("gs", "az", "hf", when_used="json")
    def _masked(self, options: dict[str, Any]) -> dict[str, str]:
        return dict.fromkeys(options, MASK)  # any of them may be a secret

    @field_validator("key", "secret", "token", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is not None and not isinstance(text, str):
            raise ValueError("got a number, expected text: put it in quotes")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _without_credentials(cls, value: str | None) -> str | None:
        if value and ("@" in value or "?" in value or printable(value) != value):
            raise ValueError("credentials in the URL would show in logs; use storage.key and storage.secret")
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"got {value!r}, expected http://host:port or https://host")
        return value

    def fsspec_options(self, location: str) -> dict[str, Any]:
        """Keyword arguments of the filesystem that serves ``location``; secrets in clear."""
        store = STORES.get(scheme_of(location) or "")
        if store is None:
            return {}
        if store.name != "s3":
            return {**store.options, **getattr(self, store.name, {})}
        client = {"region_name": self.region} if self.region else {}
        secrets = {"key": self.key, "secret": self.secret, "token": self.token}
        return {
            **store.options,
            "endpoint_url": self.endpoint_url,
            "anon": self.anonymous,
            "client_kwargs": client,
            **{name: value.get_secret_value() for name, value in secrets.items() if value},
        }


class PlanConfig(Section):
    """What --dry-run reckons with.

    Attributes:
        pairs_per_second: Of one replica; a window counts as a pair.
        dollars_per_gpu_hour: Price of one GPU.
    """

    pairs_per_second: PositiveFloat | None = None
    dollars_per_gpu_hour: PositiveFloat | None = None
