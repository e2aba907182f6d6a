"""TFLite Model Metadata: what clients such as MediaPipe Tasks read out of a file before they use it.

A FlatBuffer of its own (TensorFlow Lite Support's metadata_schema.fbs, identifier M001) lies in a buffer of the model
that its entry ``TFLITE_METADATA`` names; the files it speaks of lie in a ZIP archive behind the model. Here tables are
written and read by the numbers of their fields, as that schema counts them: no code has to be generated for a dozen.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import flatbuffers.number_types
import flatbuffers.table
import numpy as np

from leafport import files
from leafport.contract import Contract
from leafport.errors import ModelError

ENTRY = "TFLITE_METADATA"
IDENTIFIER = b"M001"
PARSER_VERSION = "1.0.0"  # The oldest reader that understands all that is written here.
LABELS_FILE = "labels.txt"
CONTRACT_FILE = "contract.json"

_AXIS_LABELS = 2  # AssociatedFileType.TENSOR_AXIS_LABELS
_IMAGE, _RGB = 2, 1  # ContentProperties.ImageProperties, ColorSpaceType.RGB
_NORMALISATION = 1  # ProcessUnitOptions.NormalizationOptions


@dataclass(frozen=True)
class Metadata:
    """What a file's metadata say.

    Attributes:
        texts: name, description, version, author and license, as far as they are there.
        normalisation: (mean, standard deviation) of the first input, which clients take from a pixel and divide it by:
            one value, or one a channel; None where nothing is said.
        label_files: the names of files in the archive with the labels of the first output, one a line.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    label_files: tuple[str, ...] = ()


def attach(model: bytes, contract: Contract) -> bytes:
    """The bytes of a .tflite file with the contract's metadata, and with labels and contract behind it.

    What it carries of another contract is replaced.
    """
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    parsed = flatbuffer_utils.convert_bytearray_to_object(model)
    entry = next((each for each in parsed.metadata or () if each.name in (ENTRY, ENTRY.encode())), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = ENTRY, len(parsed.buffers)
        parsed.buffers.append(schema.BufferT())
        parsed.metadata = [*(parsed.metadata or ()), entry]
    parsed.buffers[entry.buffer].data = np.frombuffer(_metadata(contract), np.uint8)
    whole: bytes = flatbuffer_utils.convert_object_to_bytearray(parsed)
    return whole + _archive(contract)


def restate(path: Path, contract: Contract) -> None:
    """Put another contract into a file that ``attach`` made."""
    files.write_bytes(path, attach(path.read_bytes(), contract))


def read(buffer: bytes) -> Metadata:
    """What a metadata FlatBuffer says. Raises ValueError when it is damaged."""
    try:
        if buffer[4:8] != IDENTIFIER:
            raise ValueError("its metadata lack the mark M001")
        model = _Table(buffer, struct.unpack_from("<I", buffer)[0])
        names = dict(enumerate(("name", "description", "version", None, "author", "license")))
        texts = {name: text for slot, name in names.items() if name and (text := model.text(slot))}
        subgraph = next(iter(model.tables(3)), None)
        if subgraph is None:
            return Metadata(texts)
        units = [unit for tensor in subgraph.tables(2)[:1] for unit in tensor.tables(4)]
        scaling = next((unit.table(1) for unit in units if unit.byte(0) == _NORMALISATION), None)
        carried = [file for tensor in subgraph.tables(3)[:1] for file in tensor.tables(6)]
        return Metadata(
            texts,
            None if scaling is None else (scaling.floats(0), scaling.floats(1)),
            tuple(file.text(0) for file in carried if file.byte(2) == _AXIS_LABELS),
        )
    except (struct.error, IndexError, TypeError, OverflowError) as problem:
        raise ValueError(f"its metadata are damaged: {problem}") from None


def read_archive(path: Path, names: Collection[str]) -> dict[str, str]:
    """Those of the text files called ``names`` that lie in the archive behind a model. Raises ModelError."""
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [member for member in archive.infolist() if member.filename in names]
            if any(member.file_size > files.MAX_JSON_BYTES for member in wanted):
                raise ModelError(f"{path} carries associated files of more than 64 MiB: refused.")
            return {member.filename: archive.read(member).decode() for member in wanted}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as problem:
        raise ModelError(f"{path} carries damaged associated files: {problem}.") from None


class _Byte(int):
    """A value of one byte."""


class _Word(int):
    """An unsigned value of four bytes."""


def _metadata(contract: Contract) -> bytes:
    image, locale = contract.image, contract.locale or ""
    raw_pixels = {0: _Byte(_NORMALISATION), 1: {0: [0.0], 1: [1.0]}}
    size = {0: _Word(image.width), 1: _Word(image.height)}
    taken = {
        0: "image",
        1: "Raw RGB, 0 to 255: any scaling is part of the model.",
        3: {0: _Byte(_IMAGE), 1: {0: _Byte(_RGB), 1: size}},
        4: [raw_pixels],
        5: {0: [255.0], 1: [0.0]},
    }
    given = {
        0: "probabilities",
        1: "One for each label; they sum to 1.",
        6: [{0: LABELS_FILE, 1: "The labels in order, one a line.", 2: _Byte(_AXIS_LABELS), 3: locale}],
    }
    beside = {0: CONTRACT_FILE, 1: f"The leafport contract, sha256 {contract.sha256}."}
    builder = flatbuffers.Builder(1024)
    model = {
        0: contract.name,
        1: contract.description,
        2: contract.version,
        3: [{2: [taken], 3: [given]}],
        4: contract.author,
        5: contract.license,
        6: [beside],
        7: PARSER_VERSION,
    }
    builder.Finish(_write_table(builder, model), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _archive(contract: Contract) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in (
            (LABELS_FILE, "\n".join(contract.labels) + "\n"),
            (CONTRACT_FILE, json.dumps(contract.to_json(), ensure_ascii=False)),
        ):
            archive.writestr(zipfile.ZipInfo(name), text)  # ZipInfo's fixed date keeps equal models equal bytes.
    return packed.getvalue()


def _write_table(builder: Any, slots: Mapping[int, Any]) -> int:
    """A table with these fields; what is empty is left out. Returns its offset."""
    given = {slot: value for slot, value in slots.items() if isinstance(value, int) or value}
    offsets = {slot: _write(builder, value) for slot, value in given.items() if not isinstance(value, int)}
    builder.StartObject(max(given) + 1)
    for slot, value in given.items():
        if isinstance(value, _Byte):
            builder.PrependUint8Slot(slot, value, 0)
        elif isinstance(value, _Word):
            builder.PrependUint32Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
    table: int = builder.EndObject()
    return table


def _write(builder: Any, value: Any) -> int:
    """A string, a table, a list of floats or one of tables."""
    offset: int
    if isinstance(value, Mapping):
        offset = _write_table(builder, value)
    elif isinstance(value, str):
        offset = builder.CreateString(value)
    elif isinstance(value[0], float):
        offset = builder.CreateNumpyVector(np.array(value, np.float32))
    else:
        tables = [_write_table(builder, one) for one in value]
        builder.StartVector(4, len(tables), 4)
        for one in reversed(tables):
            builder.PrependUOffsetTRelative(one)
        offset = builder.EndVector()
    return offset


class _Table:
    """A FlatBuffer's table, read by the numbers of its fields; what is not there is empty."""

    def __init__(self, buffer: bytes, position: int) -> None:
        if not 0 <= position <= len(buffer) - 4:
            raise ValueError("a table of its metadata lies outside them")
        self._at = flatbuffers.table.Table(buffer, position)

    def _field(self, slot: int) -> int:
        return int(self._at.Offset(4 + 2 * slot))

    def text(self, slot: int) -> str:
        found = self._field(slot)
        return self._at.String(found + self._at.Pos).decode(errors="replace") if found else ""

    def byte(self, slot: int) -> int:
        found = self._field(slot)
        return int(self._at.Get(flatbuffers.number_types.Uint8Flags, found + self._at.Pos)) if found else 0

    def table(self, slot: int) -> _Table | None:
        found = self._field(slot)
        return _Table(self._at.Bytes, self._at.Indirect(found + self._at.Pos)) if found else None

    def tables(self, slot: int) -> list[_Table]:
        return [_Table(self._at.Bytes, self._at.Indirect(start)) for start in self._vector(slot)]

    def floats(self, slot: int) -> tuple[float, ...]:
        read = flatbuffers.number_types.Float32Flags
        return tuple(float(self._at.Get(read, start)) for start in self._vector(slot))

    def _vector(self, slot: int) -> range:
        """Where the items of a vector of four bytes each begin."""
        found = self._field(slot)
        if not found:
            return range(0)
        start, count = self._at.Vector(found), self._at.VectorLen(found)
        if start + 4 * count > len(self._at.Bytes):
            raise ValueError("a vector of its metadata is longer than they are")
        return range(start, start + 4 * count, 4)
