"""Memory that is no longer used goes back to the system."""

import ctypes
import functools
import gc
from collections.abc import Callable


def forget_imports() -> None:
    """Leave what has been imported so far out of the search for reference cycles, which then takes no time."""
    gc.collect()
    gc.freeze()


def give_back_freed_memory() -> None:
    """Give memory that nothing uses back to the system.

    What the HTTP client has sent or received hangs in reference cycles until they are searched for. And the C library
    keeps what is freed, torn as it is between what is in use, while the next phase of a round, whose pieces have other
    sizes, takes more: the peak would be the sum of the phases' peaks. That part does nothing without glibc.
    """
    gc.collect()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
