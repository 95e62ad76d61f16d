"""Whether an input can be labelled as it is configured, before any of it is scored."""

from __future__ import annotations

import logging

from tart_ray.config import CalibrationConfig, LabelsConfig, RelabelConfig
from tart_ray.errors import ConfigurationError, InputError
from tart_ray.input.columns import Naming, check_used
from tart_ray.input.judgements import check_grades, check_ids
from tart_ray.input.sources import Source, inspect_source
from tart_ray.relabeling.known import CONTENT, SCORED_AT, SCORED_BY
from tart_ray.relabeling.labels import LABEL, PAIR, PROBABILITY, THRESHOLD
from tart_ray.relabeling.old_labels import GIVEN, OLD_LABEL
from tart_ray.storage import Storage
from tart_ray.tables.grades import can_be_grades
from tart_ray.tables.hive import partitionable

log = logging.getLogger(__name__)

ADDED = {GIVEN, *(field.name for field in (CONTENT, SCORED_BY, SCORED_AT, OLD_LABEL, LABEL, THRESHOLD, PROBABILITY))}


def check_columns(candidates: Source, labels: LabelsConfig) -> None:
    """Look at the columns that labels are read from, and at the names of the others.

    Raises:
        ConfigurationError: a column is not there, is of another type, or has a name that the output uses.
    """
    extras = candidates.extras
    for key, name in (
        ("old_column", labels.old_column),
        ("calibration.label_column", labels.calibration.label_column),
    ):
        if name is None:
            continue
        if name not in extras.names or not can_be_grades(extras.field(name).type):
            available = {field.name: str(field.type) for field in extras}
            raise ConfigurationError(
                f"labels.{key}: got {name!r}, expected an integer or boolean column; available: {available}"
            )
    clash = sorted(ADDED & {*extras.names} - {labels.old_column})
    if clash:
        raise ConfigurationError(
            f"{candidates.url}: columns {clash} have a name that the output uses; rename them by input.columns, "
            "leave them out by input.drop_columns, or name the one with the labels until now in labels.old_column"
        )


def check_columns_as_read(candidates: Source, labels: LabelsConfig) -> None:
    """The same check, of columns that the sample of the input did not show, or showed otherwise.

    Raises:
        InputError: a column is of another type, or has a name that the output uses.
    """
    try:
        check_columns(candidates, labels)
    except ConfigurationError as error:
        raise InputError(str(error)) from None


def find_judgements(storage: Storage, candidates: Source, chosen: CalibrationConfig) -> Source | None:
    """The qrels of a calibration, if any; refuses judgements of other queries, or too few of either kind.

    Raises:
        StorageError: they are not there.
        ConfigurationError, InputError: no calibration can be fitted to them, whatever the scores are.
    """
    naming, qrels = Naming.of(chosen.columns, "qrels", "labels.calibration.columns"), None
    if chosen.qrels is not None:
        qrels = inspect_source(storage, chosen.qrels, "qrels", naming)
        check_used(naming.key, chosen.columns, {"qrels": (qrels.columns, qrels.names)})
    of_each = 2 * chosen.min_labels  # to fit on, and as many held out
    if qrels is not None:
        key = "labels.calibration.qrels"
        warning = check_ids(storage, qrels, [candidates], key, chosen.min_relevance)
        if warning:
            log.warning("%s", warning)
        check_grades(storage, qrels, key, chosen.min_relevance, of_each=of_each)
    elif chosen.label_column is not None:
        key, column = "labels.calibration.label_column", chosen.label_column
        if candidates.shape == "lists":
            raise ConfigurationError(
                f"{key}: got {column!r} and candidates as lists, of which columns say something of the query, not of "
                "each document; expected candidates as pairs, or labels.calibration.qrels"
            )
        check_grades(storage, candidates, key, chosen.min_relevance, of_each=of_each, column=column)
    return qrels


def choose_partitions(candidates: Source, config: RelabelConfig) -> tuple[str, ...]:
    """The columns of the directories of labels/: those that are configured, or else those of the input.

    Raises:
        ConfigurationError: the column with the labels until now is among them.
    """
    old_column, wanted = config.labels.old_column, config.output.partition_by
    available = [name for name in (*PAIR, *partitionable(candidates.extras)) if name != old_column]
    if wanted is None:
        keys = dict.fromkeys(key for file in candidates.files for key, _ in file.keys)
        return tuple(key for key in keys if key in available)
    if old_column in wanted:
        raise ConfigurationError(
            f"output.partition_by: got {old_column!r}, which is labels.old_column; available: {available}"
        )
    return tuple(wanted)
