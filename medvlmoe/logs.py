"""Progress lines in processes that somebody else started."""

import logging
import sys


def show_progress(*packages: str) -> None:
    """Write what these packages log to the error stream, as the command line does.

    In a process of Flower's nobody has set up logging, and progress would be lost. Its own logger is left alone. Does
    nothing where logging is set up already (command line, tests).
    """
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for name in packages:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False  # Opacus gives the root logger a handler; every line would then come twice
