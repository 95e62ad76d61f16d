"""What is wrong with a checkpoint's weights, found from its files without torch and before any model is made.

The headers of safetensors and of zipped ``.bin`` files name every tensor with its type, shape and place, so geometry is
checked by reading a few kilobytes, over the network too. Values are read as bit patterns, a part at a time.
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tart_ray.errors import CheckpointError
from tart_ray.model.checkpoint import LABELS, check_label_count

Open = Callable[[str], BinaryIO]  # opens a file of the checkpoint for reading anywhere in it

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
EXPONENTS = {  # how many bits a number has, and those that are all set in NaN and infinite ones alone
    "F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0xFF << 23), "F16": ("<u2", 0x1F << 10), "BF16": ("<u2", 0xFF << 7),
}  # fmt: skip
STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
SHARED, OWN = "shared.weight", "encoder.embed_tokens.weight"  # one tensor of EncT5, under two names
HEAD = ("classifier.weight", "classifier.bias")
LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
AT_ONCE = 64 << 20  # bytes of a tensor that are looked at together
TOLD = 5  # names in a message

T5_DEFAULTS = {
    "vocab_size": 32_128, "d_model": 512, "d_kv": 64, "d_ff": 2_048, "num_layers": 6, "num_heads": 8,
    "relative_attention_num_buckets": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is. ``begin``: its first byte in ``file``, or in a member of it where that is an archive."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    member: str | None = None

    @property
    def nbytes(self) -> int:
        """Its size, bytes."""
        return math.prod(self.shape) * BYTES[self.dtype]


def read_config(origin: str, opened: BinaryIO) -> dict[str, Any]:
    """The geometry that a ``config.json`` describes, T5's defaults in place of what it leaves out.

    Raises:
        CheckpointError: it cannot be read, or says what is no geometry.
    """
    try:
        config = json.loads(opened.read())
    except ValueError as error:
        raise CheckpointError(f"{origin}: config.json cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{origin}: config.json: got {type(config).__name__}, expected an object")
    labels = config.get("num_labels", len(config.get("id2label") or LABELS))
    geometry = {**T5_DEFAULTS, **{name: config[name] for name in T5_DEFAULTS if name in config}, "num_labels": labels}
    odd = {name: value for name, value in geometry.items() if type(value) is not int or value < 1}
    if odd:
        raise CheckpointError(f"{origin}: config.json: got {odd}, expected whole numbers from 1")
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    return {**geometry, "gated": gated, "model_type": config.get("model_type")}


def check_geometry(
    origin: str,
    sizes: Mapping[str, int],
    open_file: Open,
    *,
    tokens: int = 0,
    with_head: bool = True,
    needs_weights: bool = True,
) -> None:
    """Refuse weights that are no EncT5 of the geometry that ``config.json`` describes.

    Args:
        origin: of the checkpoint, for messages.
        sizes: of its files, bytes, by name.
        tokens: of its tokenizer, which the embedding must have rows for.
        with_head: a classifier must be among them, of one label or two.
        needs_weights: False where they may be elsewhere: only ``config.json`` is looked at if there are none.

    Raises:
        CheckpointError: a file is damaged or missing, or tensors are missing or of other shapes.
    """
    with open_file("config.json") as opened:
        config = read_config(origin, opened)
    if with_head:
        check_label_count(config["num_labels"], origin)
    if config["vocab_size"] < tokens:
        raise CheckpointError(
            f"{origin}: config.json: got vocab_size {config['vocab_size']}, expected {tokens} for its tokenizer"
        )
    if not any(name.endswith((".safetensors", ".bin")) for name in sizes) and not needs_weights:
        return
    tensors = find_tensors(origin, sizes, open_file)
    if tensors is None:  # of a format that torch alone can read
        return
    expected = expected_shapes(config)
    if not with_head and not {*HEAD} & {*tensors}:
        expected = {name: shape for name, shape in expected.items() if name not in HEAD}
    missing = [name for name in expected if name not in tensors and name != OWN]
    if OWN in tensors and SHARED in missing:  # either will do
        missing.remove(SHARED)
    if missing:
        raise CheckpointError(
            f"{origin}: weights missing for {_some(missing)}; is it an EncT5 checkpoint? Its config.json says "
            f"model_type {config['model_type']!r} with {config['num_layers']} layers; found {_some(sorted(tensors))}"
        )
    odd = [
        f"{name}: got {[*tensors[name].shape]}, expected {[*shape]}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if odd:
        raise CheckpointError(f"{origin}: shapes that do not fit its config.json: {_some(odd)}")


def check_values(origin: str, sizes: Mapping[str, int], open_file: Open) -> None:
    """Refuse weights that are no numbers, and two embeddings that EncT5 has one place for.

    Raises:
        CheckpointError: there are such.
    """
    tensors = find_tensors(origin, sizes, open_file) or {}
    read = {name: tensor for name, tensor in tensors.items() if not name.startswith(("decoder.", "lm_head."))}
    bad = [name for name, tensor in read.items() if not _is_finite(tensor, open_file)]
    if bad:
        raise CheckpointError(
            f"{origin}: NaN or infinite numbers in the weights {_some(bad)}: the checkpoint is damaged"
        )
    one, other = read.get(SHARED), read.get(OWN)
    if one and other and one != other and not _are_equal(one, other, open_file):
        raise CheckpointError(
            f"{origin}: {SHARED} and {OWN} differ. They are one tensor of the model, which is read from the second by "
            "the original and from the first by others: save the embedding that it was trained with under both names"
        )


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of an EncT5."""
    width, inner, forward = config["d_model"], config["d_kv"] * config["num_heads"], config["d_ff"]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((SHARED, OWN), (config["vocab_size"], width))
    for i in range(config["num_layers"]):
        attention, dense = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        shapes |= {f"{attention}.SelfAttention.{name}.weight": (inner, width) for name in "qkv"}
        shapes[f"{attention}.SelfAttention.o.weight"] = (width, inner)
        shapes |= {f"{layer}.layer_norm.weight": (width,) for layer in (attention, dense)}
        inputs = ("wi_0", "wi_1") if config["gated"] else ("wi",)
        shapes |= {f"{dense}.DenseReluDense.{name}.weight": (forward, width) for name in inputs}
        shapes[f"{dense}.DenseReluDense.wo.weight"] = (width, forward)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    shapes[bias] = (config["relative_attention_num_buckets"], config["num_heads"])
    shapes["encoder.final_layer_norm.weight"] = (width,)
    return shapes | {HEAD[0]: (config["num_labels"], width), HEAD[1]: (config["num_labels"],)}


def find_tensors(origin: str, sizes: Mapping[str, int], open_file: Open) -> dict[str, Tensor] | None:
    """Every tensor of a checkpoint; None where only torch can tell.

    Raises:
        CheckpointError: there are no weights, a shard is missing, or a file is damaged.
    """
    for whole, read in (("model.safetensors", _safetensors), ("pytorch_model.bin", _zipped)):
        index = f"{whole}.index.json"
        if whole in sizes:
            names = [whole]
        elif index in sizes:
            with open_file(index) as opened:
                names = _shards(f"{origin}: {index}", opened)
        else:
            continue
        missing = sorted({*names} - {*sizes})
        if missing:
            raise CheckpointError(f"{origin}: {index} names {_some(missing)}, which are not there")
        tensors: dict[str, Tensor] = {}
        for name in names:
            with open_file(name) as opened:
                found = read(f"{origin}: {name}", name, sizes[name], opened)
            if found is None:
                return None
            tensors |= {key.removeprefix("transformer."): tensor for key, tensor in found.items()}
        return tensors
    raise CheckpointError(
        f"{origin}: no weights that can be read (model.safetensors or pytorch_model.bin, one file or shards); "
        f"found {sorted(sizes)}"
    )


def _shards(origin: str, opened: BinaryIO) -> list[str]:
    try:
        index = json.loads(opened.read())
        index["metadata"]  # transformers wants it
        return sorted({str(name) for name in index["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{origin}: cannot be read as an index of shards: {error!r}") from error


def _safetensors(origin: str, name: str, size: int, opened: BinaryIO) -> dict[str, Tensor]:
    length = int.from_bytes(opened.read(8), "little")
    if size < 8 or length > min(size - 8, LARGEST_HEADER):
        raise CheckpointError(f"{origin}: is no safetensors file, or was cut: {size} bytes, a header of {length}")
    try:
        header = json.loads(opened.read(length))
        entries = {
            key: (Tensor(name, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]), entry)
            for key, entry in header.items()
            if key != "__metadata__"
        }
        ends = {key: 8 + length + entry["data_offsets"][1] for key, (_, entry) in entries.items()}
        odd = [key for key, (tensor, _) in entries.items() if tensor.begin + tensor.nbytes != ends[key]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{origin}: its header is broken: {error!r}") from error
    places = sorted((tensor.begin, ends[key]) for key, (tensor, _) in entries.items())
    gaps = any(end != begin for (_, end), (begin, _) in pairwise(places))
    end = places[-1][1] if places else 8 + length
    if odd or gaps or end != size:
        raise CheckpointError(f"{origin}: got {size} bytes, its header describes {end}: it was cut or is damaged")
    return {key: tensor for key, (tensor, _) in entries.items()}


def _zipped(origin: str, name: str, size: int, opened: BinaryIO) -> dict[str, Tensor] | None:
    """Tensors of a file that torch.save wrote since its release 1.6; None for the older format and unknown objects."""
    start = opened.read(2)
    if start == b"\x80\x02":  # a pickle: the older format
        return None
    try:
        with zipfile.ZipFile(opened) as archive:
            (pickled,) = (member for member in archive.namelist() if member.endswith("/data.pkl"))
            state = _Describer(archive.open(pickled)).load()
            held = {info.filename: info.file_size for info in archive.infolist()}
    except _UnknownObjectError:
        return None
    except (zipfile.BadZipFile, ValueError, EOFError, pickle.UnpicklingError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{origin}: {size} bytes that torch did not write, or that were cut: {error}") from error
    folder = pickled.removesuffix("data.pkl")
    tensors = {}
    for key, described in state.items():
        if not isinstance(described, _Described):
            continue
        begin = described.offset * BYTES[described.dtype]
        member = f"{folder}data/{described.key}"
        tensor = Tensor(name, described.dtype, described.shape, begin, member)
        if held.get(member, -1) < tensor.begin + tensor.nbytes:
            raise CheckpointError(f"{origin}: {key} is not whole in it: the file was cut or is damaged")
        tensors[str(key)] = tensor
    return tensors


class _UnknownObjectError(Exception):
    """Something beside tensors: torch decides what it does with it."""


@dataclass(frozen=True)
class _Described:
    dtype: str
    key: str
    offset: int = 0  # elements
    shape: tuple[int, ...] = ()


class _Describer(pickle.Unpickler):
    """Reads what torch.save says of tensors and makes none: nothing that a pickle names is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, *_: _Described(storage.dtype, storage.key, offset, tuple(shape))
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise _UnknownObjectError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return _Described(pid[1], str(pid[2]))


def _is_finite(tensor: Tensor, open_file: Open) -> bool:
    if tensor.dtype not in EXPONENTS:
        return True
    exponent = EXPONENTS[tensor.dtype][1]
    return not any(((bits & exponent) == exponent).any() for bits in _bits(tensor, open_file))


def _are_equal(one: Tensor, other: Tensor, open_file: Open) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape) or one.dtype not in EXPONENTS:
        return False
    both = zip(_bits(one, open_file), _bits(other, open_file), strict=True)
    return all(np.array_equal(ours, theirs) for ours, theirs in both)


def _bits(tensor: Tensor, open_file: Open) -> Iterator[npt.NDArray[np.unsignedinteger]]:
    """The numbers of a tensor as bit patterns, `AT_ONCE` after `AT_ONCE`."""
    with ExitStack() as stack:
        opened: Any = stack.enter_context(open_file(tensor.file))
        if tensor.member is not None:
            archive = stack.enter_context(zipfile.ZipFile(opened))
            opened = stack.enter_context(archive.open(tensor.member))
        opened.seek(tensor.begin)
        for start in range(0, tensor.nbytes, AT_ONCE):
            wanted = min(AT_ONCE, tensor.nbytes - start)
            part = opened.read(wanted)
            if len(part) < wanted:
                raise CheckpointError(f"{tensor.file}: ends within a tensor: it was cut")
            yield np.frombuffer(part, EXPONENTS[tensor.dtype][0])


def _some(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:TOLD]) + (f" and {len(names) - TOLD} more" if len(names) > TOLD else "")
