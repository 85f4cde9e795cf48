"""Replies arrive in any order, late or never; the merge sees them in one order."""

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from medvlmoe.files import read_json
from server.outbox import GridOutbox
from server.replies import Deadline, Replies
from server.status import RunStatus

SITES = ("east", "north", "south", "west")


class TimedGrid:
    """A grid whose replies become available some seconds after the request: ``None`` never."""

    def __init__(self, after: dict[str, float | None], offline: Iterable[str] = (), code: dict[str, int] | None = None):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.after, self.code = after, code or {}
        self.nodes = {number: site for number, site in enumerate(SITES) if site not in offline}
        self.sent: dict[str, Message] = {}
        self.connected: dict[str, str] = {}
        self.connects_anew: dict[str, str] = {}  # a second after the requests were sent
        self.cut: dict[str, tuple[float, float]] = {}  # from when to when a site is out of reach
        self.asked_while_cut: set[str] = set()
        self.not_fetched: set[str] = set()

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: list[Message]) -> list[str | None]:
        self.started = time.monotonic()
        for message in messages:
            site = SITES[message.metadata.dst_node_id]
            message.metadata.__dict__["_message_id"] = site
            self.sent[site] = message
        return [SITES[message.metadata.dst_node_id] for message in messages]

    def is_cut(self, site: str) -> bool:
        begins, ends = self.cut.get(site, (0.0, 0.0))
        return begins <= time.monotonic() - getattr(self, "started", time.monotonic()) < ends

    def poll(self, request: str, seconds: float) -> Message | None:
        if self.is_cut(request):
            self.asked_while_cut.add(request)
        delay = self.after[request]
        if delay is None or request not in self.sent or time.monotonic() - self.started < delay:
            return None
        message = self.sent.pop(request)
        if request in self.code:
            return Message(Error(code=self.code[request], reason=""), reply_to=message)
        return Message(RecordDict(), reply_to=message)

    def idle(self, request: str) -> float | None:
        return None

    def delivered(self, request: str) -> bool:
        return request not in self.not_fetched

    def connections(self) -> dict[int, str]:
        if hasattr(self, "started") and time.monotonic() - self.started > 1.0:
            self.connected |= self.connects_anew
        return {node: self.connected.get(site, "") for node, site in self.nodes.items() if not self.is_cut(site)}

    def forget(self, request: str) -> None:
        self.sent.pop(request, None)


def collect(tmp_path: Path, grid: TimedGrid, deadline: Deadline) -> tuple[list[str], dict[str, str]]:
    replies = Replies(GridOutbox(grid), grid, RunStatus(tmp_path / "status.json", 1))  # type: ignore[arg-type]
    requests = {site: Message(RecordDict(), dst_node_id=node, message_type="train") for node, site in enumerate(SITES)}
    return [site for site, _ in replies.collect(requests, deadline)], replies.missing


def test_the_order_is_that_of_the_sites_whoever_is_fastest(tmp_path: Path) -> None:
    grid = TimedGrid({"east": 1.2, "north": 0.0, "south": 0.6, "west": 0.0})
    assert collect(tmp_path, grid, Deadline(10.0)) == (list(SITES), {})


def test_who_is_late_and_who_is_gone_are_told_apart(tmp_path: Path) -> None:
    grid = TimedGrid({"east": None, "north": 0.0, "south": None, "west": 0.0}, offline=["south"])
    merged, missing = collect(tmp_path, grid, Deadline(1.5))
    assert merged == ["north", "west"]
    assert missing == {"east": "late", "south": "unreachable"}
    states = {name: site["state"] for name, site in read_json(tmp_path / "status.json")["sites"].items()}
    assert states == {"east": "late", "north": "uploaded", "south": "unreachable", "west": "uploaded"}


def test_after_enough_replies_the_rest_get_the_grace_period_only(tmp_path: Path) -> None:
    grid = TimedGrid({"east": None, "north": 0.0, "south": 0.0, "west": 1.0})
    started = time.monotonic()
    merged, missing = collect(tmp_path, grid, Deadline(60.0, enough=2, grace_seconds=3.0))
    assert merged == ["north", "south", "west"]
    assert missing == {"east": "late"}
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (113, "refused by policy: outside the site's hours"),
        (102, "failed: data (code 102)"),
        (5, "failed: unreachable (code 5)"),
        (8, "failed: the app's process died (code 8)"),
    ],
)
def test_a_failure_is_shown_in_words(tmp_path: Path, code: int, state: str) -> None:
    grid = TimedGrid(dict.fromkeys(SITES, 0.0), code={"north": code})
    merged, _ = collect(tmp_path, grid, Deadline(5.0))
    assert merged == list(SITES), "an error is a reply too; the strategy records it"
    assert read_json(tmp_path / "status.json")["sites"]["north"]["state"] == state


def test_a_site_whose_process_was_replaced_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.replies._LOST_SECONDS", 1.0)
    grid = TimedGrid({"east": None, "north": 0.0, "south": 0.0, "west": 0.0})
    grid.connects_anew = {"east": "later"}
    started = time.monotonic()
    merged, missing = collect(tmp_path, grid, Deadline(120.0))
    assert merged == ["north", "south", "west"]
    assert missing == {"east": "connected anew, without a reply"}
    assert time.monotonic() - started < 60


def test_a_reply_that_is_there_counts_though_its_site_has_connected_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.replies._LOST_SECONDS", 60.0)
    grid = TimedGrid({"east": 1.0, "north": 0.0, "south": 0.0, "west": 0.0})
    grid.connects_anew = {"east": "later"}
    assert collect(tmp_path, grid, Deadline(120.0)) == (list(SITES), {})


def test_a_site_is_waited_for_while_its_line_is_cut(tmp_path: Path) -> None:
    grid = TimedGrid({"east": 0.5, "north": 0.0, "south": 0.0, "west": 0.0})
    grid.cut = {"east": (0.0, 2.0)}
    assert collect(tmp_path, grid, Deadline(120.0, unreachable_seconds=60.0)) == (list(SITES), {})
    assert not grid.asked_while_cut, "Flower would have answered in its place"


def test_but_not_for_ever(tmp_path: Path) -> None:
    grid = TimedGrid(dict.fromkeys(SITES, 0.0))
    grid.cut = {"east": (0.0, 600.0)}
    merged, missing = collect(tmp_path, grid, Deadline(600.0, unreachable_seconds=1.0))
    assert (merged, missing) == (["north", "south", "west"], {"east": "unreachable"})


def test_a_process_that_fetches_what_the_one_before_it_had_not_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it was told of the round; the new one is told, and trains for long."""
    monkeypatch.setattr("server.replies._LOST_SECONDS", 1.0)
    grid = TimedGrid({"east": 5.0, "north": 0.0, "south": 0.0, "west": 0.0})
    grid.connects_anew, grid.not_fetched = {"east": "later"}, {"east"}
    delivered = grid.delivered
    grid.delivered = lambda request: delivered(request) or time.monotonic() - grid.started > 2.0  # type: ignore[method-assign]
    assert collect(tmp_path, grid, Deadline(120.0)) == (list(SITES), {})


def test_one_that_is_never_told_of_it_is_not(tmp_path: Path) -> None:
    """The one before it was told, and killed before it had all of the model."""
    grid = TimedGrid({"east": None, "north": 0.0, "south": 0.0, "west": 0.0})
    grid.connects_anew, grid.not_fetched = {"east": "later"}, {"east"}
    merged, missing = collect(tmp_path, grid, Deadline(600.0, fetching_seconds=1.0))
    assert (merged, missing) == (["north", "south", "west"], {"east": "request not fetched"})


def test_a_request_that_nobody_fetches_is_given_up(tmp_path: Path) -> None:
    grid = TimedGrid({"east": None, "north": 0.0, "south": 2.5, "west": 0.0})
    grid.not_fetched = {"east"}
    merged, missing = collect(tmp_path, grid, Deadline(600.0, delivery_seconds=1.0))
    assert (merged, missing) == (["north", "south", "west"], {"east": "request not fetched"})


def test_a_site_is_invited_until_it_has_fetched_its_request(tmp_path: Path) -> None:
    grid = TimedGrid({"east": None, "north": None, "south": 0.0, "west": 0.0})
    grid.not_fetched = {"east"}
    states: list[dict[str, str]] = []
    poll = grid.poll

    def note(request: str, seconds: float) -> Message | None:
        sites = read_json(tmp_path / "status.json")["sites"]
        states.append({name: sites[name]["state"] for name in ("east", "north")})
        return poll(request, seconds)

    grid.poll = note  # type: ignore[method-assign]
    collect(tmp_path, grid, Deadline(1.5))
    assert states[-1] == {"east": "invited", "north": "training"}


def test_the_first_process_that_is_seen_counts_where_none_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that is back a moment after it was asked, and then dies."""
    monkeypatch.setattr("server.replies._LOST_SECONDS", 1.0)
    grid = TimedGrid({"east": None, "north": 0.0, "south": 3.0, "west": 0.0})
    grid.cut = {"east": (-1.0, 0.5)}
    processes = iter(["first"] * 2 + ["second"] * 1000)
    connections = grid.connections

    def with_processes() -> dict[int, str]:
        return {node: next(processes) if node == 0 else process for node, process in connections().items()}

    grid.connections = with_processes  # type: ignore[method-assign]
    merged, missing = collect(tmp_path, grid, Deadline(120.0))
    assert (merged, missing) == (["north", "south", "west"], {"east": "connected anew, without a reply"})
