"""JSON and arrays of a folder, checked before they are used: types and ranges of every value, by pydantic."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_xmc.errors import ModelFolderError, XMCError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

NOT_WRITTEN = "{} would hold NaN or infinity, and is not written"
DIVERGED = "did the training diverge? Lower learning_rate; otherwise please report what led to it"


def read_document(
    path: Path,
    schema: type[BaseModel],
    newest: int | None = None,
    hint: str = "",
    error: type[XMCError] = ModelFolderError,
) -> dict[str, Any]:
    """The object in a JSON file, of which all values have the types and ranges of a schema.

    Args:
        newest: the newest format that this version reads.
        hint: what to do about a file that is damaged.
        error: the kind of error to raise.

    Raises:
        XMCError: of the given kind: the file is missing, is not JSON, comes from a later version, or has a value that
            it should not have. The message names the key, what was found and what was expected.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise error("no such file", path, hint=hint) from missing
    except (ValueError, RecursionError) as reason:
        raise error(f"not JSON ({reason!s:.200})", path, hint=hint) from reason
    return check_document(values, schema, path, newest, hint, error)


def check_document(
    values: Any,
    schema: type[BaseModel],
    path: Path,
    newest: int | None = None,
    hint: str = "",
    error: type[XMCError] = ModelFolderError,
) -> dict[str, Any]:
    """As `read_document`, for values that were read already."""
    from pydantic import ValidationError

    if not isinstance(values, dict):
        raise error(f"found {json.dumps(values)[:60]}, expected a JSON object", path, hint=hint)
    if newest is not None and isinstance(found := values.get("format"), int) and found > newest:
        raise error(
            f"format {found}, this version reads {newest}", path, hint="it comes from a later version: upgrade hf_xmc"
        )
    try:
        schema.model_validate(values)
    except ValidationError as reason:
        raise error(first_problem(reason), path, hint=hint) from reason
    return values


def first_problem(reason: ValidationError) -> str:
    """The first problem of a document in words: key, what was found, what was expected.

    >>> from pydantic import BaseModel, Field
    >>> class Settings(BaseModel):
    ...     k: int = Field(ge=1)
    >>> try:
    ...     Settings.model_validate({"k": 0})
    ... except ValueError as error:
    ...     print(first_problem(error))
    "k" is 0, expected greater than or equal to 1
    """
    problem = reason.errors(include_url=False, include_context=False)[0]
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f'"{key}" is missing'
    expected = problem["msg"].removeprefix("Value error, ").replace("Input should be ", "")
    return f'"{key}" is {problem["input"]!r:.60}, expected {expected}'


def write_document(about: Mapping[str, Any], path: Path, name: str) -> None:
    """Write JSON values, of which all numbers must be finite.

    Args:
        path: a temporary one, as of `replacing`.
        name: of the file, for the message.

    Raises:
        ModelFolderError: a number is not.
    """
    try:
        text = json.dumps(about, indent=2, allow_nan=False)
    except ValueError as error:
        raise ModelFolderError(NOT_WRITTEN.format(name), hint=DIVERGED) from error
    path.write_text(text + "\n", encoding="utf-8")


def write_arrays(arrays: Mapping[str, np.ndarray], path: Path, name: str, infinite: Collection[str] = ()) -> None:
    """Write a safetensors file of arrays, of which all numbers must be finite; see `write_document`.

    Args:
        infinite: as in `read_arrays`.

    Raises:
        ModelFolderError: a number is not.
    """
    from safetensors.numpy import save_file

    for key, array in arrays.items():
        if array.dtype.kind == "f" and not is_sound(array, key in infinite):
            raise ModelFolderError(NOT_WRITTEN.format(f"array {key!r} of {name}"), hint=DIVERGED)
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, str(path))


def read_arrays(
    path: Path, expected: Mapping[str, tuple[str, int]], infinite: Collection[str] = (), hint: str = ""
) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file.

    Args:
        expected: name -> the kinds of numbers that it may have (letters of `numpy.dtype.kind`) and the number of
            dimensions. Others in the file are returned as they are.
        infinite: names of arrays that may hold infinite numbers. None may hold NaN.

    Raises:
        ModelFolderError: the file is damaged, an array is missing, has another type or number of dimensions, or holds
            numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(str(path))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise ModelFolderError(f"not a sound safetensors file ({error!s:.200})", path, hint=hint) from error
    for name, (kinds, dimensions) in expected.items():
        if name not in arrays:
            raise ModelFolderError(f"no array {name!r}", path, hint=hint)
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != dimensions:
            found = f"array {name!r} is {array.dtype} of shape {list(array.shape)}"
            raise ModelFolderError(f"{found}, expected {dimensions} dimensions of kind {kinds}", path, hint=hint)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not is_sound(array, name in infinite):
            raise ModelFolderError(f"array {name!r} holds numbers that are not finite", path, hint=hint)
    return arrays


def is_sound(array: np.ndarray, infinite: bool = False) -> bool:
    """Whether all numbers are finite, or at least numbers."""
    return not np.isnan(array).any() if infinite else bool(np.isfinite(array).all())
