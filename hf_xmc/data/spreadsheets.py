"""Spreadsheets (`.xlsx`): their rows, and writing them a row at a time. Formulas are never run: a cell is read as the
value that the spreadsheet program stored, and written as the text or number that it is."""

from __future__ import annotations

import datetime as dt
import math
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree.ElementTree import ParseError  # nosec B405: the error only

from hf_xmc.data.files import refuse_pointer, replacing
from hf_xmc.errors import DataError

MAX_ROWS = 1_048_576  # of a sheet
MAX_CELL = 32_767  # characters
MAX_UNPACKED = 2**32  # bytes of a workbook, which is a zip archive
SMALL = 2**26  # bytes below which a workbook may be packed as tightly as it likes
MAX_RATIO = 200  # of its size to that of the file; spreadsheet programs come to about 20
NOT_COMPUTED = re.compile(  # a cell with a formula, and without the value that a spreadsheet program stores beside it
    rb"<c\b([^>]*)>\s*<f\b(?:[^>]*/>|[^>]*>[^<]*</f>)\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>"
)
BLOCK = 2**20  # bytes of a sheet that are searched at a time
ILLEGAL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # in XML
BROKEN = (OSError, zipfile.BadZipFile, ParseError, KeyError, ValueError, TypeError, IndexError, AttributeError)


def spreadsheet_rows(path: Path, sheet: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Number (as the spreadsheet program shows it) and cells of each row that is not blank, read one at a time.

    Cells are strings: whole numbers without a decimal point, dates as in 2024-02-01, empty cells as "". Empty cells
    at the end of a row are left out.

    Args:
        sheet: name of the sheet; by default the first one that has rows.

    Raises:
        DataError: the file is not a spreadsheet, has no such sheet, or has formulas that no program has computed.
    """
    book = opened(path)
    try:
        names = book.sheetnames
        if sheet is not None and sheet not in names:
            raise DataError(f"no sheet {sheet!r}", path, hint=f"it has {', '.join(names)[:200]}")
        for name in [sheet] if sheet is not None else names:
            found = False
            check_formulas(book[name], path)
            for number, cells in sheet_rows(book[name], path):
                found = True
                yield number, cells
            if found:
                return
    finally:
        book.close()


def other_sheets(path: Path) -> list[str]:
    """Names of the sheets behind the first one, which `spreadsheet_rows` does not read unless it is asked to.

    Raises:
        DataError: the file is not a spreadsheet.
    """
    book = opened(path)
    try:
        return list(book.sheetnames[1:])
    finally:
        book.close()


def opened(path: Path) -> Any:
    """A workbook, read as it streams."""
    import openpyxl  # slow, and needed by few

    refuse_pointer(path)
    check_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and other things that are not read
            return openpyxl.load_workbook(path, read_only=True, data_only=True)
    except FileNotFoundError as error:
        raise DataError("no such file", path) from error
    except Exception as error:  # openpyxl raises its own, and those of zipfile and XML
        raise unreadable(path, error) from error


def unpacked_size(path: Path) -> int:
    """Bytes of a spreadsheet when it is unpacked. No more than these are read.

    Raises:
        BadZipFile: it is no spreadsheet.
    """
    with zipfile.ZipFile(path) as archive:
        return sum(one.file_size for one in archive.infolist())


def check_size(path: Path) -> None:
    """Refuse a workbook that is far larger than its file, or than can be read.

    Raises:
        DataError: it is.
    """
    try:
        size = unpacked_size(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # opening it says what is wrong
    if size > MAX_UNPACKED or (size > SMALL and size > MAX_RATIO * path.stat().st_size):
        hint = "save it as .csv if it is what it should be"
        raise DataError(f"the file has {path.stat().st_size:,} bytes and unpacks to {size:,}", path, hint=hint)


def check_formulas(sheet: Any, path: Path) -> None:
    """Refuse a sheet with formulas whose values are not stored, as programs write them that are no spreadsheet
    programs: their cells would be empty.

    Raises:
        DataError: it has one; the message names the cell.
    """
    part = str(getattr(sheet, "_worksheet_path", "")).lstrip("/")
    if not part:
        return
    try:
        with zipfile.ZipFile(path) as archive, archive.open(part) as file:
            rest = b""
            while block := file.read(BLOCK):
                text = rest + block
                found = (match[1] for match in NOT_COMPUTED.finditer(text) if b't="str"' not in match[1])
                if (cell := next(found, None)) is not None:
                    named = re.search(rb'\br="([A-Z]+\d+)"', cell)
                    hint = "open it in a spreadsheet program, save it, and read it again"
                    place = f" in {named[1].decode()}" if named else ""
                    raise DataError(f"the formula{place} was never computed, so its value is unknown", path, hint=hint)
                rest = text[text.rfind(b"<c") :][-MAX_CELL:]
    except (KeyError, *BROKEN[:2]):
        return  # reading the rows says what is wrong


def sheet_rows(sheet: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row of a sheet that is not blank."""
    if not hasattr(sheet, "iter_rows"):  # a sheet that is a chart
        return
    sheet.reset_dimensions()  # some programs state them wrong
    number = 0
    try:
        for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
            if number > MAX_ROWS:  # a row may state any number, and those before it are filled in
                raise DataError(f"a row beyond {MAX_ROWS:,}", path, hint="save the sheet again as .xlsx or .csv")
            cells = [cell_text(value) for value in values]
            while cells and not cells[-1].strip():
                cells.pop()
            if cells:
                yield number, cells
    except BROKEN as error:
        if isinstance(error, DataError):
            raise
        raise unreadable(path, error, number + 1) from error


def unreadable(path: Path, error: Exception, row: int | None = None) -> DataError:
    """The error of a file that is not a spreadsheet, or not a whole one."""
    hint = "is it complete, without a password, and saved as .xlsx?"
    return DataError(f"cannot be read as a spreadsheet ({error!s:.120})", path, row, hint)


def cell_text(value: Any) -> str:
    """A value as it is shown.

    >>> [cell_text(value) for value in (None, 3.0, 0.25, dt.datetime(2024, 2, 1), True, "a_x000D_")]
    ['', '3', '0.25', '2024-02-01', 'TRUE', 'a']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date().isoformat()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    return str(value).replace("_x000D_", "")


class SpreadsheetWriter:
    """Writes a sheet row by row; the file appears under its name when the block ends without an error.

    Args:
        path: the file, replaced if it exists.
        header: the first row, in bold, which stays in view.
        sheet: name of the sheet.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tags.xlsx"
    >>> with SpreadsheetWriter(path, ["text", "probability"]) as writer:
    ...     writer.write(["=a red car", 0.75])
    >>> [cells for _, cells in spreadsheet_rows(path)]
    [['text', 'probability'], ['=a red car', '0.75']]
    """

    def __init__(self, path: str | Path, header: Sequence[str], sheet: str = "Sheet1") -> None:
        import openpyxl
        from openpyxl.styles import Font

        self.path, self.rows = Path(path), 0
        self.book = openpyxl.Workbook(write_only=True)
        self.sheet = self.book.create_sheet(sheet)
        self.sheet.freeze_panes = "A2"
        self.bold = Font(bold=True)
        self.append(header, bold=True)

    def write(self, values: Sequence[Any]) -> None:
        """Add a row. Numbers stay numbers, lists are joined by "; ", anything else is text and never a formula.

        Raises:
            DataError: a sheet cannot have more rows.
        """
        self.append(values)

    def append(self, values: Sequence[Any], bold: bool = False) -> None:
        """Add a row, in bold or not."""
        from openpyxl.cell import WriteOnlyCell

        if self.rows == MAX_ROWS:
            raise DataError(f"a sheet has at most {MAX_ROWS:,} rows", self.path, hint="write .csv instead")
        self.rows += 1
        cells = []
        for value in values:
            kept = value_of(value)
            cell = WriteOnlyCell(self.sheet, kept if not isinstance(kept, str) else None)
            if isinstance(kept, str) and kept:
                cell.value = kept
                cell.data_type = "s"  # "=1+1" is a text here
            if bold:
                cell.font = self.bold
            cells.append(cell)
        self.sheet.append(cells)

    def __enter__(self) -> SpreadsheetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is not None:
            self.sheet.close()
            return
        with replacing(self.path) as temporary:
            self.book.save(temporary)


def value_of(value: Any) -> Any:
    """A value as a cell holds it: None, a finite number, a date, or a text without characters that XML forbids."""
    value = value.item() if hasattr(value, "item") else value  # of numpy
    if value is None or isinstance(value, bool | dt.datetime | dt.date | dt.time):
        return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        value = "; ".join(map(str, value))
    return ILLEGAL.sub("", str(value))[:MAX_CELL]


def write_spreadsheet(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a whole sheet; see `SpreadsheetWriter`."""
    with SpreadsheetWriter(path, header) as writer:
        for row in rows:
            writer.write(row)
    return Path(path)
