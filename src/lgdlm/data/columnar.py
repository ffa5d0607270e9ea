"""Entries of the columnar formats: Parquet files and Hugging Face datasets saved to disk (Arrow streams).

    saved dataset: state.json {"_data_files": [{"filename": "data-00000-of-00001.arrow"}, ...]} beside those files
    several splits: dataset_dict.json {"splits": [...]} with one such folder for each

Only the text and id columns are read, batch by batch, and strings are decoded strictly by us: Arrow does not check them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lgdlm.data.confinement import Confinement
from lgdlm.data.entries import Entry
from lgdlm.data.strict_json import parse
from lgdlm.errors import InputError

BATCH_ROWS = 8192


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Entry | InputError]:
    """The rows of a Parquet file. Yields InputError: BAD_PARQUET, BAD_UTF8. Raises InputError (MISSING_PACKAGE)."""
    arrow, parquet = _arrow(), _parquet()
    index = 0
    try:
        with parquet.ParquetFile(path) as file:
            held = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH_ROWS, columns=held):
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


def _rows(path: Path, batch: Any, columns: Sequence[str], start: int) -> Iterator[Entry | InputError]:
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


def _parquet() -> Any:
    import pyarrow.parquet

    return pyarrow.parquet


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
