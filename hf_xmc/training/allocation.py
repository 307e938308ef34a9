"""Memory that is used again and again: kept by this process during a training, rather than given back in between."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's mallopt: sizes from which memory is asked of the system for one array alone, and from which what is free
# is given back.
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
LARGE = 2**30
USUAL = 2**17


@contextmanager
def kept_memory(wanted: bool = True) -> Iterator[None]:
    """Within this context the C library keeps arrays of up to 1 GiB that were freed, for the next ones.

    The system hands out memory page by page and filled with zeros. A step over all labels makes some twenty arrays of
    tens of megabytes, and that alone took a third of its time. Elsewhere than on Linux with glibc nothing happens.

    Args:
        wanted: False for no effect.
    """
    library = glibc() if wanted else None
    if library is None:
        yield
        return
    library.mallopt(MMAP_THRESHOLD, LARGE)
    library.mallopt(TRIM_THRESHOLD, LARGE)
    try:
        yield
    finally:
        library.mallopt(MMAP_THRESHOLD, USUAL)
        library.mallopt(TRIM_THRESHOLD, USUAL)
        library.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return (
        library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim", "gnu_get_libc_version")) else None
    )
