"""Errors that a user can mend, and the exit codes of the command line.

Exit codes: 0 success, 1 a bug (traceback shown), 2 a mistake in configuration, data or files (one line shown),
3 a federation that could not reach its quorum, 4 data that differ from what was published (``medvlmoe data check``),
5 a grid of runs of which some failed (``medvlmoe reproduce``),
130 interrupted, 141 the reader of the output is gone (``| head``).
"""

EXIT_BUG = 1
EXIT_USER_ERROR = 2
EXIT_NO_QUORUM = 3
EXIT_DIFFERENT = 4
EXIT_CELLS_FAILED = 5
EXIT_INTERRUPTED = 130
EXIT_READER_GONE = 141


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and the mend."""

    exit_code = EXIT_USER_ERROR


class ConfigError(UserError):
    """A configuration key or value is unknown or contradicts another."""


class DataError(UserError):
    """A data set, table or image is missing or malformed."""


class LeakError(DataError):
    """A site's text tells its labels."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, cannot be written, or belongs to another configuration."""


class LocalProcessError(UserError):
    """A process that this one started on the same machine is gone, most often for want of memory."""


class QuorumError(UserError):
    """Too few sites took part for the federation to go on."""

    exit_code = EXIT_NO_QUORUM


class FederationError(UserError):
    """A process of a federation did not start, or a run of it failed."""
