"""The replies of a round: collected as they arrive, handed out in the fixed order of the sites."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from server.inbox import Inbox
from server.outbox import Outbox
from server.spool import UploadRejectedError, UploadStalledError
from server.status import RunStatus
from strategies.error_codes import is_refusal, words_of

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_LOST_SECONDS = 30.0  # a SuperNode whose line was cut tries again after 20 s at most
_LOOK_SECONDS = 0.4  # between two looks at who is connected
_STEP_SECONDS = 5.0  # longest time given to one site's upload before the next site is looked at


@dataclass
class Deadline:
    """How long a round waits.

    Attributes:
        seconds: for all replies together.
        enough: replies after which the rest get only ``grace_seconds`` more; ``None``: never.
        grace_seconds: see ``enough``.
        unreachable_seconds: for a site that is not connected.
        delivery_seconds: for one that is connected, until it has fetched all of its request.
        fetching_seconds: the same for a process that was started anew meanwhile: the one before it may have been told
            of the request, and then it never is.
    """

    seconds: float
    enough: int | None = None
    grace_seconds: float | None = None
    unreachable_seconds: float = math.inf
    delivery_seconds: float = math.inf
    fetching_seconds: float = math.inf


@dataclass
class Replies:
    """Sends one request to each site and yields the replies in the order of the sites, whatever the order of arrival.

    Attributes:
        outbox: where requests go out.
        inbox: where replies arrive.
        status: told what each site is doing.
        missing: after iterating, why a site's reply is not among those handed out.
        site_of_request: site name by request id.
    """

    outbox: Outbox
    inbox: Inbox
    status: RunStatus
    missing: dict[str, str] = field(default_factory=dict)
    site_of_request: dict[str, str] = field(default_factory=dict)

    def collect(self, requests: Mapping[str, Message], deadline: Deadline) -> Iterator[tuple[str, Message]]:
        """Site name and its reply (which may be an error), for those that came in time."""
        self.missing.clear()
        connections = self.inbox.connections()
        identities = dict(zip(requests, self.outbox.push(list(requests.values())), strict=True))
        nodes = {site: message.metadata.dst_node_id for site, message in requests.items()}
        first = {site: (node, connections.get(node)) for site, node in nodes.items()}
        lives = _Lives(first, deadline)
        del requests  # a request holds the whole model
        self.site_of_request = {identity: site for site, identity in identities.items() if identity}
        for site, identity in identities.items():
            self.status.site(site, "invited")
            if not identity:
                self._give_up(site, "not reachable")
        pending = [site for site, identity in identities.items() if identity]
        arrived: dict[str, Message] = {}
        ends = _Ends(deadline)
        try:
            for site in list(pending):
                while site in pending and not ends.over():
                    self._look(site, pending, arrived, identities, lives, ends)
                    if site in pending:
                        time.sleep(_POLL_SECONDS)
                if site in arrived:
                    yield site, arrived.pop(site)
                    self.inbox.forget(identities[site])
            lives.look(self.inbox.connections())
            for site in pending:
                self._give_up(site, "late" if lives.online(site) else "unreachable")
        finally:
            for identity in identities.values():
                if identity:
                    self.inbox.forget(identity)

    def _look(
        self,
        next_site: str,
        pending: list[str],
        arrived: dict[str, Message],
        identities: Mapping[str, str],
        lives: "_Lives",
        ends: "_Ends",
    ) -> None:
        """Look once for each reply, in order, until that of ``next_site`` is there.

        Not further: in one process a reply is made only when it is asked for.
        """
        for site in list(pending):
            if lives.looked_seconds_ago() > _LOOK_SECONDS:
                lives.look(self.inbox.connections())
            try:
                reply = self._poll(identities[site], lives.online(site))
            except UploadStalledError:
                pending.remove(site)
                self._give_up(site, words_of(3))
                continue
            except UploadRejectedError as error:
                pending.remove(site)
                self._give_up(site, f"rejected: {error}")
                continue
            if reply is None:
                idle, delivered = self.inbox.idle(identities[site]), self.inbox.delivered(identities[site])
                if why := lives.lost(site, idle, delivered):
                    pending.remove(site)
                    self._give_up(site, why)
                elif not lives.online(site):
                    self.status.site(site, "unreachable")
                elif idle is None:
                    self.status.site(site, "training" if delivered else "invited")
                else:
                    self.status.site(site, "uploading")
                continue
            pending.remove(site)
            arrived[site] = reply
            if reply.has_error():
                self.status.site(site, failure_words(reply.error.code))
            else:
                self.status.site(site, "uploaded")
                ends.note_reply()
            if site == next_site:
                return

    def _poll(self, request: str, online: bool) -> Message | None:
        if not online and self.inbox.idle(request) is None:
            return None  # asked now, Flower would answer in the site's place, and the site's own reply be lost
        return self.inbox.poll(request, _STEP_SECONDS)

    def _give_up(self, site: str, why: str) -> None:
        self.missing[site] = why
        self.status.site(site, why)


def failure_words(code: int) -> str:
    """The state of a site whose reply is an error."""
    return words_of(code) if is_refusal(code) else f"failed: {words_of(code)} (code {code})"


class _Lives:
    """Whether the process that a request went to is still there: one that came in its place knows nothing of it.

    Args:
        first: node, and its process when the request was sent (``None``: the first one that is seen), by site.
        deadline: how long to wait for whom.
    """

    def __init__(self, first: Mapping[str, tuple[int, str | None]], deadline: Deadline) -> None:
        self._first, self._deadline = dict(first), deadline
        self._now: Mapping[int, str] = {}
        self._looked = -math.inf
        self._restarted: dict[str, float] = {}  # when that was noticed
        self._had_fetched: set[str] = set()  # its request, before any restart
        self._since: dict[str, tuple[bool, float]] = {}  # whether it is connected, and since when that is so

    def look(self, connections: Mapping[int, str]) -> None:
        """Note who is connected now."""
        self._now = connections
        self._looked = moment = time.monotonic()
        for site, (node, first) in list(self._first.items()):
            online = node in connections
            if online and first is None:
                self._first[site] = node, connections[node]
            elif online and connections[node] != first:
                self._restarted.setdefault(site, moment)
            if self._since.get(site, (not online,))[0] != online:
                self._since[site] = online, moment

    def looked_seconds_ago(self) -> float:
        """Since :meth:`look`."""
        return time.monotonic() - self._looked

    def online(self, site: str) -> bool:
        """Whether the site is connected."""
        return self._first[site][0] in self._now

    def lost(self, site: str, idle: float | None, delivered: bool) -> str:
        """Why no reply of the site is waited for any more; empty if one is.

        Args:
            site: its name.
            idle: seconds since anything of its reply arrived; ``None``: nothing has.
            delivered: it has fetched its request.
        """
        silent = math.inf if idle is None else idle
        moment, deadline = time.monotonic(), self._deadline
        restarted = moment - self._restarted.get(site, moment)
        if site not in self._restarted and delivered:
            self._had_fetched.add(site)
        elif site not in self._had_fetched and delivered:  # it was the present process that has fetched it
            self._adopt(site)
        elif site not in self._had_fetched and restarted > deadline.fetching_seconds:
            return "request not fetched"
        elif site in self._had_fetched and min(silent, restarted) > _LOST_SECONDS:
            return "connected anew, without a reply"
        online, since = self._since[site]
        if not online and moment - since > deadline.unreachable_seconds:
            return "unreachable"
        if online and not delivered and moment - since > deadline.delivery_seconds:
            return "request not fetched"
        return ""

    def _adopt(self, site: str) -> None:
        node, first = self._first[site]
        self._first[site] = node, self._now.get(node, first)
        self._had_fetched.add(site)
        self._restarted.pop(site, None)


class _Ends:
    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._end = time.monotonic() + deadline.seconds
        self._replies = 0

    def note_reply(self) -> None:
        self._replies += 1
        limits = self._deadline
        if limits.grace_seconds is not None and self._replies == limits.enough:
            self._end = min(self._end, time.monotonic() + limits.grace_seconds)

    def over(self) -> bool:
        return time.monotonic() > self._end
