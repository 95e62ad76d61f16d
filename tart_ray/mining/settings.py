"""What is mined, and into which files, checked before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from tart_ray.config import MineConfig, MiningPolicy
from tart_ray.errors import ConfigurationError
from tart_ray.input.sources import Source
from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.groups import group
from tart_ray.mining.negatives import mine
from tart_ray.mining.positives import judgements_from_labels
from tart_ray.mining.trainer_files import FORMATS
from tart_ray.tables import texts

JUDGEMENTS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int64())])
JUDGED_TEXTS = pa.schema([*JUDGEMENTS, ("text", texts.SHARED_TEXT), ("title", texts.SHARED_TEXT)])


@dataclass(frozen=True)
class Settings:
    """What is mined, checked. Pickles into every worker."""

    policies: tuple[MiningPolicy, ...]
    twins: bool
    formats: tuple[str, ...]
    options: FormatOptions
    label_column: str | None
    min_relevance: int

    @property
    def regroup_by(self) -> str | None:
        """The column whose equal values must be in one bucket, so that instructions can be contrasted."""
        return next((policy.same_query for policy in self.policies if policy.source == "contrast"), None)


def check_settings(config: MineConfig) -> Settings:
    """The policies and formats.

    Raises:
        ConfigurationError: an unknown format or policy, with what is available.
    """
    unknown = sorted(set(config.trainer.formats) - set(FORMATS))
    if unknown or len(set(config.trainer.formats)) < len(config.trainer.formats):
        raise ConfigurationError(
            f"trainer.formats: got {[*config.trainer.formats]}, available, once each: {[*FORMATS]}"
        )
    names = {policy.name for policy in config.mining.policies}
    if not names.issuperset(config.trainer.easy_policies):
        raise ConfigurationError(
            f"trainer.easy_policies: got {[*config.trainer.easy_policies]}, available: {sorted(names)}"
        )
    options = config.trainer.model_dump(exclude={"formats"})
    options["easy_policies"] = tuple(options["easy_policies"])
    settings = Settings(
        config.mining.policies,
        config.mining.twins,
        tuple(config.trainer.formats),
        FormatOptions(**options),
        config.positives.label_column,
        config.positives.min_relevance,
    )
    _check_formats(settings)
    return settings


def _check_formats(settings: Settings) -> None:
    """Refuse formats that could hold no row, or whose rows would say what is wrong.

    Raises:
        ConfigurationError: more negatives are needed than the policies choose, or the instruction would be missing
            that makes a negative one.
    """
    most = 0
    for policy in settings.policies:
        most = max(most, policy.num_negatives) if policy.fill else most + policy.num_negatives
    needed = settings.options.num_negatives or 0
    starved = [name for name in settings.formats if FORMATS[name].uses_num_negatives and needed > most]
    if starved:
        raise ConfigurationError(
            f"trainer.num_negatives: got {needed} for {starved}, and the policies choose at most {most} for a query: "
            f"every query would be left out; expected at most {most}, or more of mining.policies"
        )
    by_instruction = [policy.name for policy in settings.policies if policy.source in ("contrast", "other_task")]
    bare = [name for name in settings.formats if FORMATS[name].lacks_instruction(settings.options)]
    if by_instruction and bare and settings.options.join_instruction is None:
        with_instruction = [name for name in FORMATS if not FORMATS[name].lacks_instruction(settings.options)]
        raise ConfigurationError(
            f"trainer.formats: {bare} have no field for the instruction, without which negatives of {by_instruction} "
            'may well answer the query: set trainer.join_instruction to true for queries as "instruction [SEP] query", '
            f"or to false for queries alone, or take formats among {with_instruction}"
        )


def remarks_on(name: str, options: FormatOptions) -> Iterator[str]:
    """What a user should know of a format's rows."""
    kind = FORMATS[name]
    yield kind.where_instruction_is(options)
    if options.with_scores and not kind.scores:
        yield "no scores, for which it has no field"


def check_columns(schema: pa.Schema, candidates: Source, settings: Settings) -> None:
    """Try the policies and formats on a table without rows.

    Args:
        schema: of a scored pair with its texts.

    Raises:
        ConfigurationError: a column is missing or of the wrong type, a format lacks an option.
    """
    rows = schema.empty_table()
    if settings.label_column is not None and candidates.shape == "lists":
        raise ConfigurationError(
            f"positives.label_column: got {settings.label_column!r} and candidates as lists, of which columns say "
            "something of the query, not of each document; expected candidates as pairs, or positives.qrels"
        )
    try:
        if settings.label_column is not None:
            judgements_from_labels(rows, settings.label_column)
        mined = mine(rows, JUDGED_TEXTS.empty_table(), settings.policies, twins=settings.twins)
    except ValueError as error:
        raise ConfigurationError(f"mining.policies or positives: {error}") from None
    for name in settings.formats:
        try:
            FORMATS[name].rows(group(mined, rows.select(["query_id", "query"])).rows, settings.options)
        except ValueError as error:
            raise ConfigurationError(f"trainer.formats: {error}") from None
    ranked = candidates.shape == "lists" or "score" in candidates.columns
    if not ranked and (why := unmet_windows(settings)):
        raise ConfigurationError(why)
    shared = {policy.same_query for policy in settings.policies if policy.source == "contrast"}
    if len(shared) > 1:
        raise ConfigurationError(
            f"mining.policies: got {sorted(shared)} as same_query, expected one column: rows are brought together by it"
        )


def unmet_windows(settings: Settings) -> str:
    """What is wrong where no candidate has a first-stage rank; nothing if no policy asks for one."""
    windows = [policy.name for policy in settings.policies if policy.needs_first_stage_ranks]
    if not windows:
        return ""
    return (
        f"mining.policies: {windows} have a window of retrieval ranks, and the candidates have no score of a first "
        "stage (column score; input.columns maps other names): give one, or set rank_by to margin or remaining"
    )
