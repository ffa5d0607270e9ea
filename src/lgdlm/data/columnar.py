"""Entries of the columnar formats: Parquet files and Hugging Face datasets saved to disk (Arrow streams).

    saved dataset: state.json {"_data_files": [{"filename": "data-00000-of-00001.arrow"}, ...]} beside those files
    several splits: dataset_dict.json {"splits": [...]} with one such folder for each

Only the text and id columns are read, batch by batch, and strings are decoded strictly by us: Arrow does not check them.
A value that a file holds once and names a thousand times is one value until its rows are read, and few of those are read at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lgdlm.data.confinement import Confinement
from lgdlm.data.entries import Entry
from lgdlm.data.strict_json import parse
from lgdlm.errors import InputError

BATCH_ROWS = 8192
SLICE_BYTES = 1 << 26  # of rows that are read at once


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Entry | InputError]:
    """The rows of a Parquet file. Yields InputError: BAD_PARQUET, BAD_UTF8. Raises InputError (MISSING_PACKAGE)."""
    arrow, parquet = _arrow(), _parquet()
    index = 0
    try:
        held = [name for name in columns if name in parquet.read_schema(path).names]
        with parquet.ParquetFile(path, read_dictionary=held) as file:
            for batch in file.iter_batches(_rows_at_once(file.metadata, held), columns=held):
                yield from _rows(path, batch, held, index)
                index += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        yield InputError("BAD_PARQUET", f"{path}#{index}", "file", f"not readable as Parquet: {_first_line(error)}")


def read_saved_dataset(files: Sequence[Path], columns: Sequence[str]) -> Iterator[Entry | InputError]:
    """The rows of the Arrow files of a saved dataset, in order. Yields InputError: BAD_ARROW, BAD_UTF8."""
    arrow = _arrow()
    for path in files:
        index = 0
        try:
            with arrow.memory_map(str(path)) as source, arrow.ipc.open_stream(source) as stream:
                held = [name for name in columns if name in stream.schema.names]
                for batch in stream:
                    yield from _rows(path, batch, held, index)
                    index += batch.num_rows
        except (arrow.ArrowException, OSError) as error:
            yield InputError("BAD_ARROW", f"{path}#{index}", "file", f"not readable as an Arrow stream: {_first_line(error)}")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved_dataset_files(folder: Path, split: str | None) -> list[Path]:
    """The Arrow files of a saved dataset, or of its `split`.

    Raises InputError: UNKNOWN_SPLIT (absent, or several and none named), BAD_DATASET (what `state.json` says cannot be used).
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _read(folder / "dataset_dict.json", "splits")
        chosen = split or (splits[0] if len(splits) == 1 else None)
        if chosen not in splits:
            got = f"'{split}'" if split else "none"
            raise InputError("UNKNOWN_SPLIT", folder, "prepare.split", f"name one of {', '.join(map(str, splits))}; got {got}")
        folder = Confinement(folder).path(f"{chosen}/state.json", folder / "dataset_dict.json", "splits").parent
    elif split:
        raise InputError("UNKNOWN_SPLIT", folder, "prepare.split", f"the dataset has no splits; leave out '{split}'")
    inside, state = Confinement(folder), folder / "state.json"
    entries = _read(state, "_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else entry for entry in entries]
    return [inside.path(name, state, "_data_files") for name in names]


def _read(path: Path, key: str) -> list[Any]:
    try:
        content = parse(path.read_bytes())
    except ValueError as error:
        raise InputError("BAD_DATASET", path, "file", f"not readable as JSON ({error}); save the dataset again") from None
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise InputError("BAD_DATASET", path, key, "expected a list; save the dataset again with save_to_disk")
    if content.get("_indices_data_files"):
        raise InputError("BAD_DATASET", path, "_indices_data_files", "rows are selected through indices; flatten_indices() and save again")
    return content[key]


def _rows_at_once(metadata: Any, columns: Sequence[str]) -> int:
    """How many rows are decoded together: fewer where the file says that they are large."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in columns)
    return max(1, min(BATCH_ROWS, SLICE_BYTES * max(1, metadata.num_rows) // max(1, size)))


def _rows(path: Path, batch: Any, columns: Sequence[str], start: int) -> Iterator[Entry | InputError]:
    sizes = sum((_sizes(batch.column(name)) for name in columns), np.zeros(batch.num_rows, np.int64))
    first, ends = 0, np.cumsum(sizes)
    while first < batch.num_rows:
        last = max(first + 1, int(np.searchsorted(ends, (ends[first - 1] if first else 0) + SLICE_BYTES, side="right")))
        yield from _slice(path, batch.slice(first, last - first), columns, start + first)
        first = last


def _sizes(column: Any) -> np.ndarray:
    """Bytes of each value of strings or bytes, int64 [rows]; of other types nothing is known, and they are small."""
    arrow, compute = _arrow(), _compute()
    if arrow.types.is_dictionary(column.type):
        each = _sizes(column.dictionary)
        at = column.indices.to_numpy(zero_copy_only=False)
        known = column.indices.is_valid().to_numpy(zero_copy_only=False)
        sizes = np.zeros(len(column), np.int64)
        sizes[known] = each[at[known].astype(np.int64)]
        return sizes
    try:
        lengths = compute.binary_length(column)
    except arrow.ArrowNotImplementedError:
        return np.zeros(len(column), np.int64)
    return compute.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _slice(path: Path, batch: Any, columns: Sequence[str], start: int) -> Iterator[Entry | InputError]:
    values = {name: _values(batch.column(name)) for name in columns}
    for i in range(batch.num_rows):
        where, row = f"{path}#{start + i}", {}
        for name, column in values.items():
            value = column[i]
            if isinstance(value, bytes):
                try:
                    value = value.decode("utf-8")
                except UnicodeDecodeError as error:
                    bad = f"byte 0x{value[error.start]:02x} at offset {error.start} of the value is not UTF-8"
                    yield InputError("BAD_UTF8", where, name, f"{bad}; write the column as UTF-8 strings")
                    break
            if value is not None:
                row[name] = value
        else:
            yield Entry(where, row)


def _values(column: Any) -> list[Any]:
    arrow = _arrow()
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type) or arrow.types.is_string_view(column.type):
        column = column.cast(arrow.large_binary())
    return column.to_pylist()


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise InputError("MISSING_PACKAGE", "pyarrow", "package", "Parquet and saved datasets need it; run: pip install pyarrow") from None
    return pyarrow


def _compute() -> Any:
    import pyarrow.compute

    return pyarrow.compute


def _parquet() -> Any:
    import pyarrow.parquet

    return pyarrow.parquet


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
