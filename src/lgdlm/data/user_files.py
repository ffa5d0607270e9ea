"""The user's own texts: which files a path means, and how their entries become texts.

    file    .jsonl .ndjson .json .txt .parquet
    folder  a Hugging Face dataset saved to disk;  or files of one of those formats, in the order of their names;
            or train_data.jsonl (and validation_data.jsonl) with {"text", "shard", "idx"} beside latent_shards/

An entry needs a text; its id is the field `id`, or the file's stem and the entry's number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lgdlm.data.columnar import is_saved_dataset, read_parquet, read_saved_dataset, saved_dataset_files
from lgdlm.data.confinement import Confinement
from lgdlm.data.entries import Entry, read_json, read_jsonl, read_txt
from lgdlm.data.given_latents import GivenLatents
from lgdlm.data.text import Dropped, Text, flaw
from lgdlm.errors import InputError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".txt", ".parquet")
SHARDED_SPLITS = {"train_data.jsonl": "train", "validation_data.jsonl": "validation"}


@dataclass(frozen=True)
class UserFiles:
    """What `path` means, found without reading it.

    `text_field` and `id_field` name the fields of an entry; `split` chooses one of a saved dataset's splits.
    """

    path: Path
    text_field: str = "text"
    id_field: str = "id"
    split: str | None = None

    @property
    def sharded(self) -> bool:
        """Whether the entries name rows of `latent_shards/`."""
        return (self.path / "latent_shards").is_dir() and (self.path / "train_data.jsonl").is_file()

    def files(self) -> list[Path]:
        """The files in reading order. Raises InputError: MISSING_FILE, NOT_A_FILE, UNKNOWN_FORMAT, and those of a saved dataset."""
        if self.split is not None and not is_saved_dataset(self.path):
            raise InputError("UNKNOWN_SPLIT", self.path, "prepare.split", "only a saved Hugging Face dataset has splits; leave it out")
        if not self.path.is_dir():
            if not self.path.exists():
                raise InputError("MISSING_FILE", self.path, "prepare.input", "does not exist")
            if not self.path.is_file():
                raise InputError("NOT_A_FILE", self.path, "prepare.input", "is neither a regular file nor a folder")
            if self.path.suffix.lower() not in SUFFIXES:
                message = f"expected a file ending in {', '.join(SUFFIXES)}; convert it to JSONL"
                raise InputError("UNKNOWN_FORMAT", self.path, "prepare.input", message)
            return [self.path]
        if is_saved_dataset(self.path):
            return saved_dataset_files(self.path, self.split)
        names = [name for name in SHARDED_SPLITS if (self.path / name).is_file()] if self.sharded else self._names()
        inside = Confinement(self.path)
        return [inside.path(name, self.path / name, "prepare.input") for name in names]

    def read(self, shards: GivenLatents | None = None) -> Iterator[Text | Dropped | InputError]:
        """Every text in order, with what was dropped and what is wrong in its place; `row` counts entries over all files.

        With `shards` (the latents of the sharded layout) `row` is the row of the latent that the entry names.
        Yields InputError: BAD_UTF8, BAD_JSON, MISSING_KEY, WRONG_TYPE, those of `flaw`, DUPLICATE_ID, BAD_PARQUET,
        BAD_ARROW, MISSING_LATENT, UNREADABLE.
        """
        row, seen = 0, dict[str, str]()
        for file in self.files():
            split = SHARDED_SPLITS.get(file.name) if self.sharded else None
            for entry in self._entries(file):
                if not isinstance(entry, Entry):
                    yield entry
                    row += isinstance(entry, InputError)  # a broken entry keeps its number; a blank line has none
                    continue
                place = row if shards is None else _row_in_shards(entry, shards)
                text = place if isinstance(place, InputError) else self._text(entry, f"{file.stem}-{row:08d}", place, split)
                if isinstance(text, Text) and seen.setdefault(text.id, entry.where) != entry.where:
                    text = InputError("DUPLICATE_ID", entry.where, text.id, f"the text at {seen[text.id]} has this id; ids must differ")
                yield text
                row += 1

    def _names(self) -> list[str]:
        names = sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.suffix.lower() in SUFFIXES)
        formats = {Path(name).suffix.lower() for name in names}
        if len(formats) != 1:
            held = f"files ending in {', '.join(sorted(formats))}" if formats else "no such file"
            wanted = f"a saved dataset or files of one format ({', '.join(SUFFIXES)})"
            raise InputError("UNKNOWN_FORMAT", self.path, "prepare.input", f"expected {wanted}, got {held}; name one file instead")
        return names

    def _entries(self, file: Path) -> Iterator[Entry | Dropped | InputError]:
        try:
            yield from self._reader(file)
        except OSError as error:
            yield InputError("UNREADABLE", file, "file", f"cannot be read: {error.strerror}")

    def _reader(self, file: Path) -> Iterator[Entry | Dropped | InputError]:
        columns = (self.text_field, self.id_field)
        match file.suffix.lower():
            case ".jsonl" | ".ndjson":
                return read_jsonl(file)
            case ".json":
                return read_json(file)
            case ".txt":
                return read_txt(file, self.text_field)
            case ".parquet":
                return read_parquet(file, columns)
        return read_saved_dataset([file], columns)

    def _text(self, entry: Entry, default_id: str, row: int, split: str | None) -> Text | InputError:
        where, values = entry.where, entry.values
        text, name = values.get(self.text_field), values.get(self.id_field)
        if text is None:
            held = ", ".join(str(key)[:20] for key in list(values)[:6]) or "nothing"
            message = f"an entry needs this field (or prepare.text_field=...); this one holds {held}"
            return InputError("MISSING_KEY", where, self.text_field, message)
        if not isinstance(text, str):
            return InputError("WRONG_TYPE", where, self.text_field, f"expected a string, got {type(text).__name__}")
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if name is None:
            name = default_id
        if not isinstance(name, str) or not name:
            return InputError("WRONG_TYPE", where, self.id_field, f"expected a string or a whole number, got {name!r:.40}")
        for key, value in ((self.text_field, text), (self.id_field, name)):
            if fault := flaw(value):
                return InputError(fault[0], where, key, fault[1])
        return Text(name, text, "text", row, split)


def _row_in_shards(entry: Entry, shards: GivenLatents) -> int | InputError:
    shard, index = entry.values.get("shard"), entry.values.get("idx")
    if type(shard) is not int or type(index) is not int:
        return InputError("MISSING_KEY", entry.where, "shard, idx", f"expected two whole numbers, got {shard!r:.20} and {index!r:.20}")
    name = f"shard_{shard:04d}.npy"
    row = shards.row_of(name, index)
    if row is None:
        return InputError("MISSING_LATENT", entry.where, "shard, idx", f"latent_shards/{name} has no row {index}")
    return row
