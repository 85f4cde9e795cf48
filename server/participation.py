"""Who is there, and who answered: nodes, introductions, and replies in the fixed order of the sites."""

import logging
import time
from collections.abc import Iterator, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from medvlmoe.errors import QuorumError
from strategies.messages import InvalidMessageError, SiteIntroduction, read_introduction

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


def await_nodes(grid: Grid, count: int | None, seconds: float) -> list[int]:
    """The connected nodes, once there are ``count`` of them.

    Args:
        grid: the federation.
        count: nodes to wait for; ``None``: those that are connected now.
        seconds: how long to wait.

    Raises:
        QuorumError: not enough nodes in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        nodes = sorted(grid.get_node_ids())
        if nodes and len(nodes) >= (count or 0):
            return nodes
        if time.monotonic() > deadline:
            wanted = count or 1
            raise QuorumError(f"{len(nodes)} of {wanted} sites connected within {seconds:.0f} s; start the others")
        time.sleep(_POLL_SECONDS)


def introductions(grid: Grid, nodes: Sequence[int], seconds: float) -> dict[int, SiteIntroduction]:
    """Ask every node who it is.

    Raises:
        QuorumError: a site answered with an error or not at all, or two sites bear one name.
    """
    requests = [(str(node), Message(RecordDict(), dst_node_id=node, message_type="query")) for node in nodes]
    found: dict[int, SiteIntroduction] = {}
    for node, (_, reply) in zip(nodes, replies_in_order(grid, requests, seconds), strict=True):
        if reply is None or reply.has_error():
            reason = "no answer" if reply is None else f"error code {reply.error.code}: {reply.error.reason}"
            raise QuorumError(f"node {node} did not introduce itself ({reason}); see that site's own log")
        try:
            found[node] = read_introduction(reply.content)
        except InvalidMessageError as fault:
            raise QuorumError(f"node {node}: {fault}") from fault
    names = [introduction.name for introduction in found.values()]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise QuorumError(f"two sites call themselves '{twice.pop()}'; give each its own name")
    return found


def replies_in_order(
    grid: Grid, requests: Sequence[tuple[str, Message]], seconds: float, request_sites: dict[str, str] | None = None
) -> Iterator[tuple[str, Message | None]]:
    """Send requests and yield the replies in the order of the requests, whatever the order of arrival.

    One reply is pulled, handed out and forgotten before the next is pulled, so memory does not grow with the sites.

    Args:
        grid: the federation.
        requests: site name and request.
        seconds: deadline for all of them together.
        request_sites: filled with the site name by request id.

    Yields:
        Site name and its reply, or ``None`` if none came before the deadline.
    """
    identities = list(grid.push_messages([request for _, request in requests]))
    if request_sites is not None:
        request_sites.update({identity: site for identity, (site, _) in zip(identities, requests, strict=True)})
    deadline = time.monotonic() + seconds
    for identity, (site, _) in zip(identities, requests, strict=True):
        yield site, _await_reply(grid, identity, deadline)


def _await_reply(grid: Grid, identity: str | None, deadline: float) -> Message | None:
    if identity is None:
        return None  # Flower could not accept the request
    while True:
        replies = list(grid.pull_messages([identity]))
        if replies:
            return replies[0]
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_SECONDS)
