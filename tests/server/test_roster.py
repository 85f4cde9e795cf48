"""Hospitals come, stay away, and come back as another node."""

from collections.abc import Callable

import pytest
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.superlink.grid.http_grid import HttpGrid

from medvlmoe.data.labels import LabelSpace
from medvlmoe.errors import QuorumError
from server.roster import Roster
from simulation import InProcessGrid
from strategies.config import FederationConfig
from strategies.messages import SiteIntroduction, build_introduction

FUNDUS, CHEST = LabelSpace.known("diabetic_retinopathy"), LabelSpace.known("chexpert")


class VisibleNodes(InProcessGrid):
    """Nodes that introduce themselves under these names (``None`` fails); only ``visible`` ones are connected."""

    def __init__(self, names: list[str | None], space_of: Callable[[str], LabelSpace] = lambda name: FUNDUS) -> None:
        app = ClientApp()
        self.names, self.asked = names, []

        @app.query()
        def query(message: Message, context: Context) -> Message:
            name = self.names[int(context.node_config["partition-id"])]
            self.asked.append(name)
            if name is None:
                return Message(Error(code=102, reason="data"), reply_to=message)
            introduction = SiteIntroduction(name=name, label_space=space_of(name), version="1")
            return Message(build_introduction(introduction), reply_to=message)

        super().__init__(app, len(names))
        self.visible = set(range(len(names)))

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if node - 1000 in self.visible]


class RegisteredNodes(VisibleNodes, HttpGrid):
    """As a SuperLink tells of them: each node with the name that its key was registered with (``None``: none)."""

    def __init__(self, names: list[str | None], registered: list[str | None]) -> None:
        super().__init__(names)
        self.registered = registered

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, name=self.registered[node - 1000]) for node in self.get_node_ids()]


class AsksUntil(list[str | None]):
    """The names that were asked; after ``failures`` the node without a name is called west."""

    def __init__(self, grid: VisibleNodes, failures: int) -> None:
        self.grid, self.failures = grid, failures

    def append(self, name: str | None) -> None:
        super().append(name)
        if self.count(None) == self.failures:
            self.grid.names[1] = "west"


def federation(**changes: object) -> FederationConfig:
    return FederationConfig(**{"connect_seconds": 0.3, **changes})  # type: ignore[arg-type]


def test_the_order_is_that_of_the_names() -> None:
    roster = Roster(VisibleNodes(["west", "east", "north"]), federation())
    roster.gather()
    assert list(roster.nodes) == ["east", "north", "west"]
    assert roster.nodes["west"] == 1000


def test_a_run_starts_with_its_quorum_and_knows_who_never_came() -> None:
    hospitals = ["east", "north", "west"]
    roster = Roster(VisibleNodes(["west", "east"]), federation(hospitals=hospitals, quorum=2))
    roster.gather()
    assert list(roster.nodes) == ["east", "west"]
    assert roster.absent() == ["north"]


def test_a_missing_hospital_is_named() -> None:
    with pytest.raises(QuorumError, match=r"2 of 3 sites .*missing: north"):
        Roster(VisibleNodes(["west", "east"]), federation(hospitals=["east", "north", "west"])).gather()


def test_a_stranger_is_not_taken() -> None:
    roster = Roster(VisibleNodes(["east", "stranger", "west"]), federation(hospitals=["east", "west"]))
    roster.gather()
    assert list(roster.nodes) == ["east", "west"]
    assert list(roster.refused.values()) == ["'stranger' is not one of federation.hospitals"]


def test_a_site_that_cannot_introduce_itself_is_said_and_asked_again_later() -> None:
    grid = VisibleNodes(["east", None])
    with pytest.raises(QuorumError, match=r"1 of 2 .*did not introduce itself: data"):
        Roster(grid, federation(sites=2)).gather()
    roster = Roster(grid, federation(sites=2, quorum=1))
    space = roster.gather()
    grid.names[1] = "west"
    roster.refresh(space)
    assert list(roster.nodes) == ["east", "west"]


def test_a_site_whose_process_died_is_asked_again_before_the_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.roster._ASK_AGAIN_SECONDS", 0.1)
    grid = VisibleNodes(["east", None])
    monkeypatch.setattr(grid, "asked", AsksUntil(grid, 2))
    roster = Roster(grid, federation(sites=2, connect_seconds=60.0))
    roster.gather()
    assert list(roster.nodes) == ["east", "west"]
    assert roster.refused == {}


def test_a_hospital_that_comes_back_as_another_node_is_the_same_hospital() -> None:
    grid = VisibleNodes(["east", "west", "east"])
    grid.visible = {0, 1}
    roster = Roster(grid, federation())
    space = roster.gather()
    grid.visible = {1, 2}
    roster.refresh(space)
    assert roster.nodes == {"east": 1002, "west": 1001}
    assert roster.online() == roster.nodes


def test_a_second_node_cannot_take_the_name_of_a_connected_hospital() -> None:
    grid = VisibleNodes(["east", "west", "east"])
    grid.visible = {0, 1}
    roster = Roster(grid, federation())
    space = roster.gather()
    grid.visible = {0, 1, 2}
    roster.refresh(space)
    assert roster.nodes == {"east": 1000, "west": 1001}
    assert any("two sites call themselves 'east'" in reason for reason in roster.refused.values())


def test_a_hospital_that_another_node_took_the_place_of_is_asked_again_when_it_is_back() -> None:
    grid = VisibleNodes(["east", "west", None])
    roster = Roster(grid, federation(hospitals=["east", "west"], quorum=2))
    space = roster.gather()
    grid.visible, grid.names[2] = {1, 2}, "east"
    roster.refresh(space)
    assert roster.nodes == {"east": 1002, "west": 1001}
    grid.visible = {0, 1, 2}
    roster.refresh(space)
    assert "two sites call themselves 'east'" in roster.refused[1000]
    grid.visible = {0, 1}
    roster.refresh(space)
    assert roster.nodes == {"east": 1000, "west": 1001}


def test_a_registered_hospital_cannot_take_the_place_of_another_that_is_cut_off() -> None:
    grid = RegisteredNodes(["east", "west", None], ["east", "west", "north"])
    roster = Roster(grid, federation(hospitals=["east", "north", "west"], quorum=2))
    space = roster.gather()
    grid.visible, grid.names[2] = {1, 2}, "east"
    roster.refresh(space)
    assert roster.nodes == {"east": 1000, "west": 1001}
    assert roster.online() == {"west": 1001}
    assert list(roster.refused) == [1002]
    assert "registered as 'north', calls itself 'east'" in roster.refused[1002]
    assert "name: north" in roster.refused[1002]
    grid.visible = {0, 1, 2}
    roster.refresh(space)
    assert roster.online() == {"east": 1000, "west": 1001}
    grid.names[2] = "north"  # mended, it is taken
    roster.refresh(space)
    assert roster.nodes == {"east": 1000, "north": 1002, "west": 1001}


def test_a_key_without_a_name_cannot_take_one_that_is_registered() -> None:
    grid = RegisteredNodes(["east", "west", "east"], ["east", "west", None])
    grid.visible = {0, 1}
    roster = Roster(grid, federation())
    space = roster.gather()
    grid.visible = {1, 2}
    roster.refresh(space)
    assert roster.nodes == {"east": 1000, "west": 1001}
    assert "'east', a name that is registered with another key" in roster.refused[1002]


def test_whose_key_has_the_name_gets_it_from_a_node_that_merely_says_so() -> None:
    grid = RegisteredNodes(["east", "west", "east"], [None, "west", "east"])
    grid.visible = {0, 1}
    roster = Roster(grid, federation())
    space = roster.gather()
    assert roster.nodes["east"] == 1000
    grid.visible = {0, 1, 2}
    roster.refresh(space)
    assert roster.nodes == {"east": 1002, "west": 1001}
    roster.refresh(space)
    assert roster.nodes == {"east": 1002, "west": 1001} and list(roster.refused) == [1000]


def test_keys_registered_without_names_are_taken_at_their_word() -> None:
    grid = RegisteredNodes(["west", "east"], [None, None])
    roster = Roster(grid, federation())
    roster.gather()
    assert roster.nodes == {"east": 1001, "west": 1000}


def test_a_new_key_of_a_hospital_takes_its_place_once_the_old_one_has_left() -> None:
    grid = RegisteredNodes(["east", "west", "east"], ["east", "west", "east"])
    roster = Roster(grid, federation(sites=2))
    space = roster.gather()
    assert roster.nodes == {"east": 1000, "west": 1001} and list(roster.refused) == [1002]
    grid.visible = {1, 2}
    roster.refresh(space)
    assert roster.nodes == {"east": 1002, "west": 1001}


@pytest.mark.parametrize(("space", "taken"), [(FUNDUS, True), (CHEST, False)])
def test_a_latecomer_joins_if_the_model_has_its_labels(space: LabelSpace, taken: bool) -> None:
    grid = VisibleNodes(["east", "late"], lambda name: space if name == "late" else FUNDUS)
    grid.visible = {0}
    roster = Roster(grid, federation())
    labels = roster.gather()
    grid.visible = {0, 1}
    roster.refresh(labels)
    assert ("late" in roster.nodes) is taken


def test_a_round_waits_for_its_quorum_and_then_names_the_missing() -> None:
    grid = VisibleNodes(["east", "west"])
    roster = Roster(grid, federation())
    space = roster.gather()
    grid.visible = {0}
    with pytest.raises(QuorumError, match=r"1 of the 2 hospitals .*missing: west"):
        roster.await_quorum(2, space)
    roster.await_quorum(1, space)
