from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xmc.data.spreadsheets import other_sheets, spreadsheet_rows, write_spreadsheet
from hf_xmc.errors import DataError


def test_values_come_back_as_they_are_shown(tmp_path: Path) -> None:
    values = [
        "=1+1",
        3,
        2.0,
        0.25,
        np.float32(0.5),
        np.int64(7),
        None,
        True,
        dt.date(2024, 2, 1),
        ["a", "b"],
        "x\x0by",
    ]
    path = write_spreadsheet(tmp_path / "a.xlsx", [f"c{i}" for i in range(len(values))], [values])
    (_, header), (number, cells) = spreadsheet_rows(path)
    assert header[0] == "c0"
    assert number == 2
    assert cells == ["=1+1", "3", "2", "0.25", "0.5", "7", "", "TRUE", "2024-02-01", "a; b", "xy"]
    sheet = openpyxl.load_workbook(path).active
    assert sheet is not None
    assert sheet["A2"].data_type != "f"  # no formula is ever written
    assert sheet["B2"].value == 3


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(rows=st.lists(st.lists(st.text(max_size=20) | st.integers() | st.floats() | st.none(), max_size=4), max_size=5))
def test_anything_can_be_written(rows: list[list[object]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_spreadsheet(tmp_path_factory.mktemp("any") / "a.xlsx", ["first"], rows)
    found = dict(spreadsheet_rows(path))
    assert found[1] == ["first"]
    for number, row in enumerate(rows, start=2):
        for i, value in enumerate(row):
            if isinstance(value, float) and math.isfinite(value) and abs(value) < 1e10:
                assert float(found[number][i] or "nan") == pytest.approx(value)


def test_a_failed_run_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = write_spreadsheet(tmp_path / "a.xlsx", ["before"], [])

    def rows() -> Iterator[list[str]]:
        yield ["x"]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_spreadsheet(path, ["after"], rows())
    assert list(spreadsheet_rows(path)) == [(1, ["before"])]
    assert [p.name for p in tmp_path.iterdir()] == ["a.xlsx"]


def test_the_first_sheet_with_rows_is_read(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.create_sheet("Data").append(["text", "labels"])
    book.create_sheet("More").append(["other"])
    book.save(tmp_path / "a.xlsx")
    assert list(spreadsheet_rows(tmp_path / "a.xlsx")) == [(1, ["text", "labels"])]
    assert list(spreadsheet_rows(tmp_path / "a.xlsx", "More")) == [(1, ["other"])]
    assert other_sheets(tmp_path / "a.xlsx") == ["Data", "More"]
    with pytest.raises(DataError, match="no sheet 'Nope'; it has Sheet, Data, More"):
        list(spreadsheet_rows(tmp_path / "a.xlsx", "Nope"))


@pytest.mark.parametrize("content", [b"", b"text,labels\n", b"PK\x03\x04 and no more", b"\xd0\xcf\x11\xe0 .xls"])
def test_what_is_no_spreadsheet_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.xlsx: cannot be read as a spreadsheet .*saved as \.xlsx"):
        list(spreadsheet_rows(tmp_path / "a.xlsx"))


def test_a_truncated_spreadsheet_is_an_error(tmp_path: Path) -> None:
    path = write_spreadsheet(tmp_path / "a.xlsx", ["text"], [[f"row {i}"] for i in range(500)])
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 7):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.xlsx"):
            list(spreadsheet_rows(path))
