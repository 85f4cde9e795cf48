"""FedAvg and per-expert FedAvg as Flower strategies: weights, rejection by name, order, quorum."""

from collections.abc import Iterator

import pytest
import torch
from flwr.app import Array, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from medvlmoe.model.groups import parameter_group
from medvlmoe.privacy.config import ClientLevelConfig
from simulation import InProcessGrid
from strategies import FedAvg, PerExpertFedAvg
from strategies.client_level import ClientLevelPrivacy
from strategies.messages import SiteUpdate, build_reply, encode_arrays

EXPERTS, LABELS = 3, 4


def parameters(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "vision.conv": (4, 3), "text.embed": (2, 2), "fusion.gate": (5,), "moe.router.weight": (EXPERTS, 6),
        **{f"moe.experts.{k}.first.weight": (2, 2) for k in range(EXPERTS)}, "head.weight": (LABELS, 6),
        "head.bias": (LABELS,),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def site_update(seed: int, examples: float, routed: list[float], observed: list[float]) -> SiteUpdate:
    return SiteUpdate(
        round=1,
        tensors=parameters(seed),
        examples=examples,
        routed_samples_K=torch.tensor(routed),
        observed_labels_Y=torch.tensor(observed),
        metrics={"train_loss": float(seed)},
    )


UPDATES = {
    1000: site_update(1, 10, [20, 0, 0], [10, 10, 0, 0]),
    1001: site_update(2, 30, [30, 0, 30], [0, 0, 30, 0]),
    1002: site_update(3, 60, [10, 0, 110], [0, 60, 60, 0]),
}


def replies(updates: dict[int, SiteUpdate], spoil: dict[int, str] | None = None) -> Iterator[Message]:
    """Replies as the nodes of a grid make them; ``spoil`` breaks some of them."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context) -> Message:  # type: ignore[no-untyped-def]
        fault = (spoil or {}).get(context.node_id)
        if fault == "error":
            return Message(Error(code=102, reason="data"), reply_to=message)
        content = build_reply(updates[context.node_id], "float32")
        if fault == "nan":
            content["arrays"]["vision.conv"] = Array(torch.full((4, 3), float("nan")).numpy())
        if fault == "missing":
            content["arrays"].pop("head.bias")
        return Message(content, reply_to=message)

    grid = InProcessGrid(app, node_count=3)
    requests = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in updates]
    for identity in grid.push_messages(requests):
        yield from grid.pull_messages([identity])


def merged(strategy: FedAvg, *arguments) -> dict[str, torch.Tensor] | None:  # type: ignore[no-untyped-def]
    strategy.site_names = {1000: "north", 1001: "south", 1002: "west"}
    strategy.start_round(parameters(0))
    return strategy.merge_replies(1, replies(*arguments))


def mean(name: str, weights: list[float]) -> torch.Tensor:
    total = sum(weights)
    return sum(w / total * u.tensors[name] for w, u in zip(weights, UPDATES.values(), strict=True))  # type: ignore[return-value]


def test_fedavg_weighs_everything_by_examples() -> None:
    result = merged(FedAvg(expert_count=EXPERTS, label_count=LABELS), UPDATES)
    assert result is not None
    for name in parameters(0):
        torch.testing.assert_close(result[name], mean(name, [10, 30, 60]))


def test_per_expert_weighs_experts_by_routed_samples_and_head_rows_by_labels() -> None:
    result = merged(PerExpertFedAvg(expert_count=EXPERTS, label_count=LABELS), UPDATES)
    assert result is not None
    base = parameters(0)
    for name in ("vision.conv", "text.embed", "fusion.gate"):
        torch.testing.assert_close(result[name], mean(name, [10, 30, 60]))
    torch.testing.assert_close(result["moe.experts.0.first.weight"], mean("moe.experts.0.first.weight", [20, 30, 10]))
    torch.testing.assert_close(result["moe.experts.2.first.weight"], mean("moe.experts.2.first.weight", [0, 30, 110]))
    assert torch.equal(result["moe.experts.1.first.weight"], base["moe.experts.1.first.weight"])
    router = result["moe.router.weight"]
    torch.testing.assert_close(router[0], mean("moe.router.weight", [20, 30, 10])[0])
    assert torch.equal(router[1], base["moe.router.weight"][1])
    torch.testing.assert_close(router[2], mean("moe.router.weight", [0, 30, 110])[2])
    for row, weights in enumerate(([10, 0, 0], [10, 0, 60], [0, 30, 60])):
        for name in ("head.weight", "head.bias"):
            torch.testing.assert_close(result[name][row], mean(name, weights)[row])
    assert torch.equal(result["head.bias"][0], UPDATES[1000].tensors["head.bias"][0]), "one holder passes through"
    assert torch.equal(result["head.weight"][3], base["head.weight"][3])


def test_with_equal_use_per_expert_is_fedavg() -> None:
    updates = {node: site_update(node, 10, [5, 5, 5], [10] * LABELS) for node in (1000, 1001, 1002)}
    plain = merged(FedAvg(expert_count=EXPERTS, label_count=LABELS), updates)
    ours = merged(PerExpertFedAvg(expert_count=EXPERTS, label_count=LABELS), updates)
    assert plain is not None and ours is not None
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name])


@pytest.mark.parametrize(("fault", "kind"), [("nan", "rejected"), ("missing", "rejected"), ("error", "failed")])
def test_a_bad_reply_is_named_and_the_others_merge(fault: str, kind: str) -> None:
    strategy = PerExpertFedAvg(expert_count=EXPERTS, label_count=LABELS)
    result = merged(strategy, UPDATES, {1001: fault})
    good = {node: update for node, update in UPDATES.items() if node != 1001}
    expected = merged(PerExpertFedAvg(expert_count=EXPERTS, label_count=LABELS), good)
    assert result is not None and expected is not None
    assert all(torch.equal(result[name], expected[name]) for name in result)
    assert list(getattr(strategy.record, kind)) == ["south"]
    assert sorted(strategy.record.merged) == ["north", "west"]


def test_below_quorum_nothing_is_returned() -> None:
    strategy = FedAvg(expert_count=EXPERTS, label_count=LABELS, quorum=3)
    assert merged(strategy, UPDATES, {1000: "error"}) is None
    assert strategy.aggregate_train(1, []) == (None, None)


def test_a_list_a_generator_and_flowers_own_call_agree() -> None:
    strategy = FedAvg(expert_count=EXPERTS, label_count=LABELS)
    strategy.start_round(parameters(0))
    from_list, metrics = strategy.aggregate_train(1, list(replies(UPDATES)))
    from_generator, _ = strategy.aggregate_train(1, replies(UPDATES))
    assert from_list is not None and from_generator is not None and metrics is not None
    assert all((from_list[n].numpy() == from_generator[n].numpy()).all() for n in from_list)
    assert metrics["train_loss"] == pytest.approx((10 * 1 + 30 * 2 + 60 * 3) / 100)


def test_requests_go_out_in_the_order_of_site_names() -> None:
    strategy = FedAvg(expert_count=EXPERTS, label_count=LABELS)
    strategy.site_names = {1000: "west", 1001: "north", 1002: "south"}
    grid = InProcessGrid(ClientApp(), node_count=3)
    requests = list(strategy.configure_train(1, encode_arrays(parameters(0), "float32"), ConfigRecord(), grid))
    assert [message.metadata.dst_node_id for message in requests] == [1001, 1002, 1000]


def test_update_norms_are_of_the_change() -> None:
    strategy = FedAvg(expert_count=EXPERTS, label_count=LABELS)
    merged(strategy, UPDATES)
    base, update = parameters(0), UPDATES[1000].tensors
    expected = (update["vision.conv"] - base["vision.conv"]).norm().item()
    assert strategy.record.merged["north"].update_norms["vision"] == pytest.approx(expected, rel=1e-5)


def private(strategy: type[FedAvg], **arguments) -> FedAvg:  # type: ignore[no-untyped-def]
    """A strategy with client-level privacy whose noise is too small to see."""
    privacy = ClientLevelPrivacy(
        ClientLevelConfig(noise_multiplier=1e-9, max_update_norm=0.5),
        groups=[parameter_group(name) for name in parameters(0)], site_count=4, rounds=1,
    )  # fmt: skip
    return strategy(expert_count=EXPERTS, label_count=LABELS, privacy=privacy, **arguments)


def test_with_client_level_privacy_changes_are_bounded_and_divided_by_a_public_number() -> None:
    result, base = merged(private(PerExpertFedAvg), UPDATES), parameters(0)
    assert result is not None
    expected = {name: tensor.double() for name, tensor in base.items()}
    for update in UPDATES.values():
        changes = {name: update.tensors[name].double() - base[name].double() for name in base}
        factor = 0.5 / sum(float(change.square().sum()) for change in changes.values()) ** 0.5
        for name, change in changes.items():
            used = torch.as_tensor(PerExpertFedAvg.weigh(private(PerExpertFedAvg), update).of(name)) > 0
            expected[name] += (
                factor / 4 * change * used.double().reshape(-1, *[1] * (change.ndim - 1) if used.ndim else [])
            )
    for name in base:
        torch.testing.assert_close(result[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_with_client_level_privacy_no_metric_of_the_sites_is_handed_on() -> None:
    strategy = private(FedAvg)
    strategy.start_round(parameters(0))
    arrays, metrics = strategy.aggregate_train(1, replies(UPDATES))
    assert arrays is not None and dict(metrics or {}) == {"sites": 3}


def test_with_client_level_privacy_nothing_is_released_below_quorum() -> None:
    assert merged(private(FedAvg, quorum=3), UPDATES, {1000: "error"}) is None
