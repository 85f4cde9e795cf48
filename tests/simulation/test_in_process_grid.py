import weakref

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from simulation import InProcessGrid


def counting_app(alive: "weakref.WeakSet[Message] | None" = None) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        if number == 99:
            raise RuntimeError("patient 4711 cannot be read")
        value = message.content["arrays"]["x"].numpy() + number
        content = RecordDict(
            {"arrays": ArrayRecord({"x": Array(value)}), "metrics": MetricRecord({"num-examples": 1.0})}
        )
        reply = Message(content, reply_to=message)
        if alive is not None:
            alive.add(reply)
        return reply

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.5})}), reply_to=message)

    return app


def test_flowers_own_strategy_runs_on_it() -> None:
    grid = InProcessGrid(counting_app(), node_count=3)
    result = FedAvg(min_available_nodes=3).start(
        grid=grid, initial_arrays=ArrayRecord({"x": Array(np.zeros(2))}), num_rounds=2
    )
    np.testing.assert_allclose(result.arrays["x"].numpy(), [2.0, 2.0])  # each round adds the mean of 0, 1, 2


def requests(grid: InProcessGrid) -> list[Message]:
    content = RecordDict({"arrays": ArrayRecord({"x": Array(np.zeros(2))}), "config": ConfigRecord()})
    return [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]


def test_replies_are_made_when_pulled_and_once() -> None:
    alive: weakref.WeakSet[Message] = weakref.WeakSet()
    grid = InProcessGrid(counting_app(alive), node_count=4)
    identities = list(grid.push_messages(requests(grid)))
    assert len(alive) == 0
    for number, identity in enumerate(identities):
        (reply,) = grid.pull_messages([identity])
        assert reply.metadata.reply_to_message_id == identity
        assert reply.content["arrays"]["x"].numpy()[0] == number
        assert list(grid.pull_messages([identity])) == []
        del reply
        assert len(alive) == 0, "a reply that was handed out is not kept"


def test_an_exception_becomes_an_error_without_its_text() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise RuntimeError("patient 4711 cannot be read")

    grid = InProcessGrid(app, node_count=1)
    (reply,) = grid.send_and_receive(requests(grid))
    assert reply.has_error()
    assert "4711" not in str(reply.error.reason)


def test_state_and_configuration_of_a_node_stay_its_own() -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        seen = context.state.get("count", ConfigRecord({"n": 0}))["n"] + 1
        context.state["count"] = ConfigRecord({"n": seen})
        answer = {"n": seen, "run": context.run_config["overrides"], "id": context.node_config["partition-id"]}
        return Message(RecordDict({"answer": ConfigRecord(answer)}), reply_to=message)

    grid = InProcessGrid(app, node_count=2, run_config={"overrides": "seed=1"})
    first, second = grid.get_node_ids()
    for node, expected in ((first, 1), (first, 2), (second, 1)):
        (reply,) = grid.send_and_receive([Message(RecordDict(), dst_node_id=node, message_type="query")])
        assert reply.content["answer"]["n"] == expected
        assert reply.content["answer"]["run"] == "seed=1"


@pytest.mark.parametrize("count", [1, 5])
def test_nodes_are_numbered_as_in_flowers_simulation(count: int) -> None:
    assert len(list(InProcessGrid(counting_app(), node_count=count).get_node_ids())) == count
