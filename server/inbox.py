"""Where replies arrive: asked for by the request's id, one poll at a time."""

from pathlib import Path
from typing import Protocol, TypeGuard

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.superlink.grid.http_grid import HttpGrid

from server.spool import SpoolingInbox


class Inbox(Protocol):
    """Replies by request id. A reply is handed out once."""

    def poll(self, request: str, seconds: float) -> Message | None:
        """The reply, or ``None`` if it has not arrived (as a whole); takes little longer than ``seconds``."""

    def idle(self, request: str) -> float | None:
        """Seconds since anything of the reply last arrived; ``None`` if it has not begun to arrive."""

    def delivered(self, request: str) -> bool:
        """Whether the site has fetched all of a request."""

    def connections(self) -> dict[int, str]:
        """The nodes that are connected now, each with something that is another for another process of the node."""

    def forget(self, request: str) -> None:
        """Free what is kept for a request whose reply has been used, or is no longer wanted."""


class GridInbox:
    """Replies of any Grid, each whole in memory: for simulations, whose replies are in memory anyway."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def poll(self, request: str, seconds: float) -> Message | None:
        """See :class:`Inbox`."""
        return next(iter(self._grid.pull_messages([request])), None)

    def idle(self, request: str) -> float | None:
        """See :class:`Inbox`."""
        return None

    def delivered(self, request: str) -> bool:
        """See :class:`Inbox`."""
        return True

    def connections(self) -> dict[int, str]:
        """See :class:`Inbox`."""
        return dict.fromkeys(self._grid.get_node_ids(), "")

    def forget(self, request: str) -> None:
        """See :class:`Inbox`."""


def inbox_of(grid: Grid, folder: Path, most_bytes: int) -> Inbox:
    """The inbox for a grid.

    Args:
        grid: the federation.
        folder: where replies that come over the network are kept, instead of in memory.
        most_bytes: no reply over the network may have more.
    """
    return SpoolingInbox(grid, folder, most_bytes) if is_networked(grid) else GridInbox(grid)


def is_networked(grid: Grid) -> TypeGuard[HttpGrid]:
    """Whether the sites are other processes: then this one keeps the model on disk, not in memory."""
    return isinstance(grid, HttpGrid)
