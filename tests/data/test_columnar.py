"""Columnar files of a user: a value that stands in them once and is named a thousand times does not fill the memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from lgdlm.data import columnar
from lgdlm.data.columnar import read_parquet, read_saved_dataset
from lgdlm.data.entries import Entry

pa = pytest.importorskip("pyarrow")
ROWS, BYTES = 400, 4 << 20


@pytest.fixture(params=["dictionary", "plain"])
def bomb(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """400 times the same four megabytes: 1.6 GB in a file of less than one megabyte."""
    from pyarrow import parquet

    text = "a" * BYTES
    indices = pa.array([0] * ROWS, pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array([text]))
    if request.param == "plain":  # written out, and compressed
        column = pa.chunked_array([pa.array([text] * 8)] * (ROWS // 8))
    parquet.write_table(
        pa.table({"text": column, "id": [str(i) for i in range(ROWS)]}), tmp_path / "x.parquet", row_group_size=ROWS, compression="zstd"
    )
    assert (tmp_path / "x.parquet").stat().st_size < 1 << 20
    return tmp_path / "x.parquet"


def test_a_repeated_text_is_read_a_few_rows_at_a_time(bomb: Path) -> None:
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        sizes = [len(entry.values["text"]) for entry in read_parquet(bomb, ("text", "id")) if isinstance(entry, Entry)]
        peak = tracemalloc.get_traced_memory()[1]
        arrow = pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert sizes == [BYTES] * ROWS
    assert peak < 6 * columnar.SLICE_BYTES
    assert arrow is None or arrow < 12 * columnar.SLICE_BYTES


@pytest.mark.parametrize("slice_bytes", [1, 40, 1 << 20])
def test_slices_change_nothing(slice_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row once and in order, nulls and other types among them."""
    from pyarrow import parquet

    texts = ["one", None, "", "three \u4e09", "x" * 100, None, "seven"]
    table = pa.table({"text": pa.array(texts), "id": pa.array(range(7)), "more": pa.array([[1]] * 7)})
    parquet.write_table(table, tmp_path / "x.parquet")
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.set_column(0, "text", table["text"].dictionary_encode()).cast(table.schema))
    monkeypatch.setattr(columnar, "SLICE_BYTES", slice_bytes)
    for found in (read_parquet(tmp_path / "x.parquet", ("text", "id")), read_saved_dataset([tmp_path / "x.arrow"], ("text", "id"))):
        entries = [entry for entry in found if isinstance(entry, Entry)]
        assert [entry.values.get("text") for entry in entries] == texts
        assert [entry.values["id"] for entry in entries] == list(range(7))
        assert [entry.where.rpartition("#")[2] for entry in entries] == [str(i) for i in range(7)]
