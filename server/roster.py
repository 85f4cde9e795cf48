"""Which hospital is behind which Flower node. A hospital that reconnects may come back as another node.

A key that ``medvlmoe register`` registered bears the name of its hospital: a node with that key is that hospital and no
other, whatever it says, and nobody else has the name. Where a key has no name (plain Flower registrations,
simulations), the name is what the node says, and another node may take it over while the one that had it is not
connected.
"""

import logging
import time
from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import ConfigError, QuorumError
from server.inbox import is_networked
from strategies.config import FederationConfig
from strategies.error_codes import words_of
from strategies.messages import (
    InvalidMessageError,
    SiteIntroduction,
    build_introduction_request,
    read_introduction,
)

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_ASK_AGAIN_SECONDS = 30.0  # while a run waits to start: what failed may be a process that died, or mended by now


class _NotTakenError(Exception):
    """A node that answered is not taken; the text says why."""


class Roster:
    """The hospitals of a run, by name.

    Attributes:
        introductions: what each hospital told about itself, in the order of the names.
        refused: why a node that answered is not taken, by node.
    """

    def __init__(self, grid: Grid, federation: FederationConfig) -> None:
        self._grid = grid
        self._federation = federation
        self._node_of: dict[str, int] = {}
        self._asked: set[int] = set()
        self._registered: dict[int, str] = {}  # name that a node's key is registered with; also of those that left
        self.introductions: dict[str, SiteIntroduction] = {}
        self.refused: dict[int, str] = {}
        self._refused_at: dict[int, float] = {}

    @property
    def nodes(self) -> dict[str, int]:
        """Node by hospital, in the order of the names: the order of the merge."""
        return dict(sorted(self._node_of.items()))

    def gather(self) -> LabelSpace:
        """Wait for the hospitals before the first round; the union of their labels.

        Raises:
            QuorumError: too few came in time, one could not introduce itself, or two bear one name.
        """
        federation = self._federation
        wanted = federation.expected_sites
        deadline = time.monotonic() + federation.connect_seconds
        while True:
            self._ask(self._new_nodes(), max(_POLL_SECONDS, deadline - time.monotonic()))
            if self._node_of and len(self._node_of) >= (wanted or 0):
                break
            if self.refused and wanted is None:
                break
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
            long_ago = time.monotonic() - _ASK_AGAIN_SECONDS
            self._asked -= {node for node, moment in self._refused_at.items() if moment < long_ago}
        needed = federation.quorum or wanted or len(self._node_of) + len(self.refused) or 1
        if len(self._node_of) < needed:
            raise QuorumError(f"{self._too_few(needed)}; start the others, or see the log of a site that failed")
        if wanted is not None and len(self._node_of) < wanted:
            logger.warning("%s: going on with the quorum", self._too_few(wanted))
        return LabelSpace.union([self.introductions[name].label_space for name in self.nodes])

    def refresh(self, label_space: LabelSpace) -> None:
        """Before a round: find hospitals that came back as another node, or came late with labels the model has."""
        self._asked -= self.refused.keys()  # what was wrong there may have been mended since
        self.refused.clear()
        for name in self._ask(self._new_nodes(), self._federation.connect_seconds):
            try:
                label_space.positions_of(self.introductions[name].label_space)
            except ConfigError as error:
                logger.warning("site %s came too late: %s", name, error)
                del self._node_of[name]

    def online(self) -> dict[str, int]:
        """Node of each hospital that is connected now, in the order of the names."""
        there = self._connected()
        return {name: node for name, node in self.nodes.items() if node in there}

    def await_quorum(self, quorum: int, label_space: LabelSpace) -> None:
        """Wait until so many hospitals are connected, for at most ``connect_seconds``.

        Raises:
            QuorumError: too few; names those that are missing.
        """
        deadline = time.monotonic() + self._federation.connect_seconds
        while len(online := self.online()) < quorum:
            if time.monotonic() > deadline:
                missing = sorted({*self.nodes, *self._federation.hospitals} - online.keys())
                raise QuorumError(
                    f"{len(online)} of the {quorum} hospitals that a round needs are connected; "
                    f"missing: {', '.join(missing)}"
                )
            time.sleep(_POLL_SECONDS)
            self.refresh(label_space)

    def absent(self) -> list[str]:
        """Expected hospitals that never came."""
        return [name for name in self._federation.hospitals if name not in self._node_of]

    def _connected(self) -> set[int]:
        if not is_networked(self._grid):
            return set(self._grid.get_node_ids())
        nodes = list(self._grid.get_nodes())
        self._registered |= {node.node_id: node.name for node in nodes if node.name}
        return {node.node_id for node in nodes}

    def _new_nodes(self) -> list[int]:
        return sorted(self._connected() - self._asked)

    def _ask(self, nodes: Sequence[int], seconds: float) -> list[str]:
        """Ask nodes who they are; the names that are new or have moved to another node."""
        found: list[str] = []
        requests = [Message(build_introduction_request(), dst_node_id=node, message_type="query") for node in nodes]
        waiting = dict(zip(self._grid.push_messages(requests), nodes, strict=True)) if requests else {}
        deadline = time.monotonic() + seconds
        while waiting and time.monotonic() < deadline:
            for identity, node in list(waiting.items()):
                reply = next(iter(self._grid.pull_messages([identity])), None)
                if reply is not None:
                    del waiting[identity]
                    self._asked.add(node)
                    found.extend(self._note(node, reply))
            if waiting:
                time.sleep(_POLL_SECONDS)
        return found

    def _note(self, node: int, reply: Message) -> list[str]:
        try:
            introduction = self._accept(node, reply)
        except _NotTakenError as error:
            if self.refused.get(node) != str(error):
                logger.warning("%s", error)
            self.refused[node] = str(error)
            self._refused_at[node] = time.monotonic()
            return []
        self.refused.pop(node, None)
        self._refused_at.pop(node, None)
        evicted = self._node_of.get(introduction.name, node)
        if evicted != node:
            self._asked.discard(evicted)  # when it is back it is asked again: taken by the same rules, or refused
        self._node_of[introduction.name] = node
        self.introductions[introduction.name] = introduction
        return [introduction.name]

    def _accept(self, node: int, reply: Message) -> SiteIntroduction:
        if reply.has_error():
            words = f"{words_of(reply.error.code)} (code {reply.error.code}); see that site's own log"
            raise _NotTakenError(f"node {node} did not introduce itself: {words}")
        try:
            introduction = read_introduction(reply.content)
        except InvalidMessageError as fault:
            raise _NotTakenError(f"node {node}: {fault}") from fault
        name = introduction.name
        connected = self._connected()
        own = self._registered.get(node)
        if own is not None and name != own:
            raise _NotTakenError(
                f"node {node}, whose key is registered as '{own}', calls itself '{name}'; "
                f"its site.yaml must say 'name: {own}'"
            )
        if own is None and name in self._registered.values():
            raise _NotTakenError(f"node {node} calls itself '{name}', a name that is registered with another key")
        if self._federation.hospitals and name not in self._federation.hospitals:
            raise _NotTakenError(f"'{name}' is not one of federation.hospitals")
        holder = self._node_of.get(name, node)
        # A holder that merely says so gives way to the one whose key has the name.
        if holder != node and holder in connected and self._registered.get(holder) == own:
            why = "a node that died counts as connected for a minute"
            raise _NotTakenError(f"two sites call themselves '{name}'; give each its own name ({why})")
        return introduction

    def _too_few(self, needed: int) -> str:
        reasons = [*self.refused.values(), *([f"missing: {', '.join(self.absent())}"] if self.absent() else [])]
        why = f" ({'; '.join(reasons)})" if reasons else ""
        return f"{len(self._node_of)} of {needed} sites connected within {self._federation.connect_seconds:g} s{why}"
