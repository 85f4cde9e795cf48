"""Memory that has been freed goes back to the system."""

import ctypes
import functools
from collections.abc import Callable


def give_back_freed_memory() -> None:
    """Give pages of the heap that hold nothing back to the system.

    The C library keeps them, torn as they are between what is still in use, and the next phase of a round, whose
    pieces have other sizes, takes new ones: the peak would be the sum of the phases' peaks. Does nothing where the C
    library is not glibc.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
