"""The round loop against sites that misbehave: quorum, retry, late and hostile replies, resume."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import Array, Context, Error, Message
from flwr.clientapp import ClientApp

from medvlmoe.configuration import compose
from medvlmoe.data import LabelSpace
from medvlmoe.errors import QuorumError
from medvlmoe.files import load_tensors, read_json, read_json_lines
from medvlmoe.model import build_model
from server.app import run_federation
from server.replies import Deadline, Replies
from server.status import RunStatus
from simulation import InProcessGrid
from strategies.messages import (
    SiteIntroduction,
    SiteUpdate,
    build_evaluation_reply,
    build_introduction,
    build_reply,
    read_request,
)
from strategies.run_config import RunConfig

NAMES = ("south", "north", "west")  # not in the order of the node ids
SPACE = LabelSpace.known("diabetic_retinopathy")
Fault = Callable[[str, int, Message], Message | None]


def hospital(fault: Fault = lambda site, server_round, message: None) -> ClientApp:
    """Sites that add a number of their own to every parameter, unless ``fault`` answers instead."""
    app = ClientApp()

    def name_of(context: Context) -> str:
        return NAMES[int(context.node_config["partition-id"])]

    @app.query()
    def query(message: Message, context: Context) -> Message:
        introduction = SiteIntroduction(name=name_of(context), label_space=SPACE, version="1")
        return Message(build_introduction(introduction), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        received = read_request(message.content)
        request, tensors, codec = received.config, received.tensors, received.reply_codec
        spoiled = fault(name_of(context), request.round, message)
        if spoiled is not None:
            return spoiled
        step = 0.01 * (1 + NAMES.index(name_of(context)))
        update = SiteUpdate(
            round=request.round,
            tensors={name: tensor + step for name, tensor in tensors.items()},
            examples=10.0,
            routed_samples_K=torch.tensor([20.0, 0.0, 0.0, 0.0]),
            observed_labels_Y=torch.full((5,), 10.0),
            metrics={"train_loss": 1.0, "validation_auc": 0.5 + 0.01 * request.round},
        )
        return Message(build_reply(update, codec), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        request = read_request(message.content).config
        metrics = {f"{split}/{key}": value for split in request.splits for key, value in (("auc", 0.6), ("n", 9))}
        return Message(build_evaluation_reply(request.round, metrics), reply_to=message)

    return app


def federate(output: Path, fault: Fault = lambda *_: None, *overrides: str) -> dict:
    config = compose(RunConfig, ["model=tiny", f"output.root={output}", "output.name=run", *overrides])
    return run_federation(InProcessGrid(hospital(fault), node_count=3), config)


def rounds(output: Path) -> list[dict]:
    return list(read_json_lines(output / "run" / "rounds.jsonl"))


def final(output: Path) -> dict[str, torch.Tensor]:
    return load_tensors(output / "run" / "checkpoints" / "final.safetensors")[0]


def error(message: Message) -> Message:
    return Message(Error(code=102, reason="data"), reply_to=message)


def test_sites_are_merged_in_the_order_of_their_names(tmp_path: Path) -> None:
    federate(tmp_path, lambda *_: None, "federation.rounds=1")
    assert list(rounds(tmp_path)[0]["sites"]) == ["north", "south", "west"]


def test_unused_experts_keep_their_bytes_over_rounds(tmp_path: Path) -> None:
    federate(tmp_path, lambda *_: None, "federation.rounds=2", "federation.select=last")
    config = compose(RunConfig, ["model=tiny"])
    start, end = build_model(config.model, 5, 0).state_dict(), final(tmp_path)
    unused = [name for name in start if name.startswith(("moe.experts.1", "moe.experts.2", "moe.experts.3"))]
    assert unused
    assert all(torch.equal(start[name], end[name]) for name in unused)
    assert torch.equal(start["moe.router.weight"][1:], end["moe.router.weight"][1:])
    moved = [name for name in start if name.startswith(("vision", "text", "fusion", "moe.experts.0"))]
    for name in moved:  # every round adds the mean of 0.01, 0.02 and 0.03
        torch.testing.assert_close(end[name], start[name] + 0.04, rtol=1e-5, atol=1e-5)
    ledger = list(read_json_lines(tmp_path / "run" / "ledger.jsonl"))
    assert {line["expert"]: line["moved_in"] for line in ledger if line["round"] == 2} == {0: 2, 1: 0, 2: 0, 3: 0}


def test_a_failing_site_does_not_stop_a_federation_with_quorum(tmp_path: Path) -> None:
    federate(
        tmp_path,
        lambda site, server_round, message: error(message) if site == "north" else None,
        "federation.rounds=2",
        "federation.quorum=2",
    )
    for line in rounds(tmp_path):
        assert line["sites"]["north"] == {"outcome": "failed", "reason": "error code 102"}
        assert line["sites"]["south"]["outcome"] == "merged"


def test_a_round_below_quorum_is_retried_and_changes_nothing_meanwhile(tmp_path: Path) -> None:
    failures = []

    def once(site: str, server_round: int, message: Message) -> Message | None:
        if site == "west" and server_round == 2 and not failures:
            failures.append(site)
            return error(message)
        return None

    federate(tmp_path / "once", once, "federation.rounds=2")
    federate(tmp_path / "never", lambda *_: None, "federation.rounds=2")
    assert failures == ["west"]
    a, b = final(tmp_path / "once"), final(tmp_path / "never")
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert [line["round"] for line in rounds(tmp_path / "once")] == [1, 2]


def test_without_quorum_the_run_ends_and_says_who_was_missing(tmp_path: Path) -> None:
    def fault(site: str, server_round: int, message: Message) -> Message | None:
        return error(message) if site == "west" and server_round == 2 else None

    with pytest.raises(QuorumError, match=r"round 2 .* 3 sites \(west: error code 102\)") as caught:
        federate(tmp_path, fault, "federation.rounds=3", "federation.retries=1")
    assert caught.value.exit_code == 3
    state = json.loads((tmp_path / "run" / "checkpoints" / "state.json").read_text())
    assert state["round"] == 1, "the model of the last whole round is there to go on from"
    federate(tmp_path, lambda *_: None, "federation.rounds=3", "resume=true", "federation.retries=1")
    federate(tmp_path / "whole", lambda *_: None, "federation.rounds=3")
    a, b = final(tmp_path), final(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in b)


def hostile(kind: str) -> Fault:
    def fault(site: str, server_round: int, message: Message) -> Message | None:
        if site != "west":
            return None
        received = read_request(message.content)
        tensors, codec = received.tensors, received.reply_codec
        update = SiteUpdate(
            round=server_round - 1 if kind == "late" else server_round,
            tensors=dict(tensors),
            examples=-1e9 if kind == "negative" else 10.0,
            routed_samples_K=torch.zeros(4),
            observed_labels_Y=torch.zeros(5),
            metrics={f"m{number}": 0.0 for number in range(5000 if kind == "many metrics" else 1)},
        )
        content = build_reply(update, "float16" if kind == "other codec" else codec)
        if kind == "nan":
            content["arrays"]["head.bias"] = Array(torch.full((5,), float("nan")).numpy())
        if kind == "empty":
            content.clear()
        if kind == "large":
            content["arrays"]["head.bias"] = Array(torch.zeros(10_000).numpy())
        if kind == "missing":
            del content["arrays"]["head.bias"]
        if kind == "extra":
            content["arrays"]["x" * 100_000] = Array(torch.zeros(1).numpy())
        return Message(content, reply_to=message)

    return fault


@pytest.mark.parametrize(
    "kind", ["late", "negative", "nan", "empty", "large", "missing", "extra", "many metrics", "other codec"]
)
def test_a_hostile_reply_is_rejected_by_name_and_without_effect(tmp_path: Path, kind: str) -> None:
    federate(tmp_path / "hostile", hostile(kind), "federation.rounds=1", "federation.quorum=2")
    federate(
        tmp_path / "absent",
        lambda site, _, message: error(message) if site == "west" else None,
        "federation.rounds=1",
        "federation.quorum=2",
    )
    west = rounds(tmp_path / "hostile")[0]["sites"]["west"]
    assert west["outcome"] == "rejected" and 0 < len(west["reason"]) < 300
    a, b = final(tmp_path / "hostile"), final(tmp_path / "absent")
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_sites_numbers_never_take_the_place_of_the_servers(tmp_path: Path) -> None:
    def fault(site: str, server_round: int, message: Message) -> Message | None:
        if site != "west":
            return None
        received = read_request(message.content)
        update = SiteUpdate(
            round=server_round,
            tensors=dict(received.tensors),
            examples=10.0,
            routed_samples_K=torch.ones(4),
            observed_labels_Y=torch.ones(5),
            metrics={"outcome": 7.0, "examples": 1e9, "update_norms": 0.0},
        )
        return Message(build_reply(update, received.reply_codec), reply_to=message)

    federate(tmp_path, fault, "federation.rounds=1")
    west = rounds(tmp_path)[0]["sites"]["west"]
    assert west["outcome"] == "merged" and west["examples"] == 10.0 and isinstance(west["update_norms"], dict)


def test_two_sites_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "NAMES", ("a", "a", "b"))
    with pytest.raises(QuorumError, match="two sites call themselves 'a'"):
        federate(tmp_path)
    assert not (tmp_path / "run").exists()


def test_too_few_sites_is_said_after_the_wait(tmp_path: Path) -> None:
    with pytest.raises(QuorumError, match="3 of 4 sites connected"):
        federate(tmp_path, lambda *_: None, "federation.sites=4", "federation.connect_seconds=0.1")


def test_how_long_a_round_waits_is_what_the_run_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[Deadline] = []
    collect = Replies.collect

    def note(self, requests, deadline):
        deadlines.append(deadline)
        return collect(self, requests, deadline)

    monkeypatch.setattr(Replies, "collect", note)
    federate(tmp_path / "default", lambda *_: None, "federation.rounds=1")
    assert (deadlines[0].unreachable_seconds, deadlines[0].delivery_seconds) == (600.0, math.inf)
    assert 60 < deadlines[0].fetching_seconds < 120, "a minute, and 1.8 MB at 1 Mbit/s"
    deadlines.clear()
    own = ["federation.unreachable_seconds=7", "federation.delivery_seconds=8", "federation.round_seconds=9"]
    federate(tmp_path / "own", lambda *_: None, "federation.rounds=1", *own)
    assert (deadlines[0].unreachable_seconds, deadlines[0].delivery_seconds, deadlines[0].seconds) == (7, 8, 9)


def test_a_request_lives_longer_than_its_round(tmp_path: Path) -> None:
    """Flower's own lifetime is twelve hours: a hospital that trains for a day would be told that nobody waits."""
    lifetimes: list[float] = []

    def note(site: str, server_round: int, message: Message) -> None:
        lifetimes.append(message.metadata.ttl)

    federate(tmp_path, note, "federation.rounds=1", "federation.round_seconds=100000")
    assert len(lifetimes) == 3 and min(lifetimes) > 100_000


class Leaving(InProcessGrid):
    """Hospitals whose line is cut from the moment that they are named in ``gone``."""

    def __init__(self, fault: Fault = lambda *_: None) -> None:
        super().__init__(hospital(fault), node_count=3)
        self.gone: set[str] = set()

    def get_node_ids(self) -> list[int]:
        return [node for node, name in zip(super().get_node_ids(), NAMES, strict=True) if name not in self.gone]


def leaving(output: Path, fault: Callable[[Leaving], Fault], *overrides: str) -> None:
    grid: Leaving = Leaving(lambda site, server_round, message: fault(grid)(site, server_round, message))
    run_federation(grid, compose(RunConfig, ["model=tiny", f"output.root={output}", "output.name=run", *overrides]))


def test_without_quorum_those_that_were_not_there_are_named_too(tmp_path: Path) -> None:
    def fault(grid: Leaving) -> Fault:
        def spoil(site: str, server_round: int, message: Message) -> Message | None:
            if site == "west" and server_round == 1:
                grid.gone = {"north"}  # before the second round
            return error(message) if site == "west" and server_round == 2 else None

        return spoil

    expected = r"round 2 .* 2 sites \(east: missing; north: unreachable; west: error code 102\)"
    with pytest.raises(QuorumError, match=expected):
        leaving(tmp_path, fault, "federation.hospitals=[east,north,south,west]", "federation.rounds=2",
                "federation.quorum=2", "federation.retries=0", "federation.connect_seconds=1")  # fmt: skip
    sites = json.loads((tmp_path / "run" / "status.json").read_text())["sites"]
    assert sites["north"]["state"] == "unreachable" and sites["east"]["state"] == "missing"


def test_the_line_of_a_round_names_those_that_were_not_there(tmp_path: Path) -> None:
    def fault(grid: Leaving) -> Fault:
        def spoil(site: str, server_round: int, message: Message) -> Message | None:
            grid.gone = {"north"} if site == "west" and server_round == 1 else grid.gone
            return None

        return spoil

    leaving(tmp_path, fault, "federation.hospitals=[east,north,south,west]", "federation.rounds=2",
            "federation.quorum=2", "federation.connect_seconds=1")  # fmt: skip
    first, second = rounds(tmp_path)
    assert first["sites"]["north"]["outcome"] == "merged"
    assert second["sites"]["north"] == {"outcome": "no reply", "reason": "unreachable"}
    assert [line["sites"]["east"] for line in (first, second)] == [{"outcome": "no reply", "reason": "missing"}] * 2
    assert second["sites"]["south"]["outcome"] == "merged"


@pytest.mark.parametrize("kind", ["late", "nan", "large", "negative"])
def test_a_rejected_reply_shows_in_the_status(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[str, str] = {}

    def merged(status: RunStatus, site: str, server_round: int) -> None:
        states.update({name: told["state"] for name, told in read_json(tmp_path / "run/status.json")["sites"].items()})

    monkeypatch.setattr(RunStatus, "merged", merged)
    federate(tmp_path, hostile(kind), "federation.rounds=1", "federation.quorum=2")
    reason = rounds(tmp_path)[0]["sites"]["west"]["reason"]
    assert states == {"north": "uploaded", "south": "uploaded", "west": f"rejected: {reason}"}


def test_an_evaluation_that_is_no_answer_shows_in_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = build_evaluation_reply
    monkeypatch.setitem(globals(), "build_evaluation_reply", lambda number, metrics: build(number + 1, metrics))
    with pytest.raises(QuorumError, match="no site could evaluate"):
        federate(tmp_path, lambda *_: None, "federation.rounds=1", "federation.select=last")
    sites = json.loads((tmp_path / "run" / "status.json").read_text())["sites"]
    assert {told["state"] for told in sites.values()} == {"rejected: answers another round than 1"}
