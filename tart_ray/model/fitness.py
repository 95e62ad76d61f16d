"""Whether a checkpoint can be scored with, or trained from: all that is known before any model is made."""

from __future__ import annotations

from tart_ray.model.checkpoint import list_checkpoint
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.model.weights import check_geometry, check_values


def check_checkpoint(place: CheckpointPlace, *, with_head: bool = True) -> None:
    """Load the tokenizer, read the headers of the weights, and the weights themselves where they are on this machine.

    The weights of a hub id are looked at if they are in its cache. Whoever loads the others looks at their values.

    Args:
        with_head: a classifier must be among the weights, of one label or two.

    Raises:
        CheckpointError: the tokenizer cannot be read, or the weights are damaged, incomplete, of another geometry than
            ``config.json`` says, or no numbers.
    """
    tokenizer = EncT5Tokenizer.from_place(place)
    origin = str(place.path)
    sizes, open_file = list_checkpoint(place)
    tokens = len(tokenizer) if with_head else 0  # a start may get its row for <s> later
    check_geometry(origin, sizes, open_file, tokens=tokens, with_head=with_head, needs_weights=not place.is_hub_id)
    if place.is_directory:
        check_values(origin, sizes, open_file)
