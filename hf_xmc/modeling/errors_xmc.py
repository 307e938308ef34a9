"""The package's errors, or stand-ins for them where this folder runs as custom code from the Hub, without hf_xmc."""

from __future__ import annotations

try:  # transformers reads this text for packages that must be installed, and skips what is in a try block
    if not __name__.startswith("hf_xmc."):
        raise ImportError("this is a copy from the Hub, which works without hf_xmc and with any version of it")
    from hf_xmc.errors import ModelFolderError, SettingsError, XMCError
except ImportError:

    class XMCError(Exception):  # type: ignore[no-redef]
        """See `hf_xmc.errors.XMCError`."""

        def __init__(self, found: str, path: object = None, line: int | None = None, hint: str = "") -> None:
            where = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
            super().__init__(f"{where}{found}" + (f"; {hint}" if hint else ""))

    class ModelFolderError(XMCError, ValueError):  # type: ignore[no-redef]
        """See `hf_xmc.errors.ModelFolderError`."""

    class SettingsError(XMCError, ValueError):  # type: ignore[no-redef]
        """See `hf_xmc.errors.SettingsError`."""


__all__ = ["ModelFolderError", "SettingsError", "XMCError"]
