"""What leaves: every bit of it in float32, nothing lost over the rounds in int8, no more than the policy allows."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.config import SiteConfig
from client.departure import Departure
from client.outgoing import OutgoingUpdate, training_reply
from client.policy import PolicyRefusalError
from medvlmoe.model.groups import parameter_group
from strategies import error_codes
from strategies.config import UPLOAD_CODECS
from strategies.messages import Request, SiteUpdate, read_reply

Tensors = dict[str, torch.Tensor]


def reply_of(site: SiteConfig, request: Request, update: SiteUpdate) -> OutgoingUpdate:
    """A reply that leaves."""
    with Departure() as departure:
        outgoing = training_reply(site, request, update, departure)
        departure.leave()
    return outgoing


def received(content, base: Tensors, codec: str, server_round: int = 1) -> Tensors:
    update = read_reply(content, base=base, codec=codec, server_round=server_round, expert_count=2, label_count=5)
    return dict(update.tensors)


def changes(parameters: Tensors, seed: int = 0, size: float = 1e-3) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: size * torch.randn(tensor.shape, generator=generator) for name, tensor in parameters.items()}


def test_float32_leaves_bit_for_bit(site_of, request_of, trained_by, parameters: Tensors) -> None:
    update = trained_by(changes(parameters))
    outgoing = reply_of(site_of(), request_of(), update)
    found = received(outgoing.content, parameters, "float32")
    assert all(torch.equal(found[name], update.tensors[name]) for name in parameters)


@pytest.mark.parametrize("codec", UPLOAD_CODECS)
def test_norms_are_those_of_the_change_by_group(site_of, request_of, trained_by, parameters, codec: str) -> None:
    change = {"vision.a": torch.full((3, 2), 2.0), **{n: 0 * t for n, t in parameters.items() if n != "vision.a"}}
    norms = reply_of(site_of(), request_of(codec), trained_by(change)).norms
    assert norms.pop("vision") == pytest.approx(math.sqrt(6) * 2)
    assert norms == {"router": 0.0, "expert.0": 0.0, "expert.1": 0.0, "head": 0.0}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), rounds=st.integers(1, 12))
def test_error_feedback_loses_nothing_over_the_rounds(
    site_of, request_of, trained_by, parameters: Tensors, seed: int, rounds: int
) -> None:
    """The sum of what was received is the sum of what was trained, up to one rounding however many rounds."""
    site, run = site_of(), f"run-{seed}-{rounds}"
    trained, arrived = (dict.fromkeys(parameters, 0.0) for _ in range(2))
    largest = dict.fromkeys(parameters, 0.0)
    for server_round in range(1, rounds + 1):
        change = changes(parameters, seed + server_round)
        request = request_of("int8", server_round, run=run)
        outgoing = reply_of(site, request, trained_by(change, server_round))
        found = received(outgoing.content, parameters, "int8", server_round)
        for name in parameters:
            trained[name] = trained[name] + change[name].double()
            arrived[name] = arrived[name] + (found[name] - parameters[name]).double()
            largest[name] = max(largest[name], float((found[name] - parameters[name]).abs().max()))
    for name in parameters:
        lost = float((trained[name] - arrived[name]).abs().max())
        rounding = rounds * 4e-6  # float32 of parameters near 10, in both directions
        assert lost <= largest[name] / 127 / 2 * 1.01 + rounding, name


def test_without_feedback_it_would_be_lost(site_of, request_of, trained_by, parameters: Tensors) -> None:
    """A value below half a step is rounded to nothing each time, and leaves all the same."""
    change = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    change["vision.a"] = torch.tensor([[1.0, 0.003], [0.0, 0.0], [0.0, 0.0]])
    site, sent = site_of(), []
    for server_round in range(1, 11):
        outgoing = reply_of(site, request_of("int8", server_round), trained_by(change, server_round))
        found = received(outgoing.content, parameters, "int8", server_round)
        sent.append(float(found["vision.a"][0, 1] - parameters["vision.a"][0, 1]))
    assert sent[0] == 0.0 and sum(sent) / 10 == pytest.approx(0.003, abs=1 / 127 / 10)


def test_a_resumed_round_sends_the_same_bits(site_of, request_of, trained_by, parameters: Tensors) -> None:
    site, sent = site_of(), {}
    for server_round in (1, 2, 3, 3):
        update = trained_by(changes(parameters, server_round), server_round)
        outgoing = reply_of(site, request_of("int8", server_round), update)
        found = received(outgoing.content, parameters, "int8", server_round)
        if server_round in sent:
            assert all(torch.equal(found[name], sent[server_round][name]) for name in found)
        sent[server_round] = found


def test_what_did_not_leave_shapes_no_later_round(site_of, request_of, trained_by, parameters: Tensors) -> None:
    """A residual of a round that was given up would carry its training into the next one."""
    site, given_up = site_of(), site_of()
    given_up.folder += "-given-up"
    with Departure() as departure:
        training_reply(given_up, request_of("int8", 1), trained_by(changes(parameters, 9)), departure)
        assert list(Path(given_up.folder).rglob("staged-residual*"))
    assert not list(Path(given_up.folder).rglob("*residual*"))
    sent = [
        received(reply_of(at, request_of("int8", 2), trained_by(changes(parameters, 2), 2)).content, parameters,
                 "int8", 2)
        for at in (site, given_up)
    ]  # fmt: skip
    assert all(torch.equal(sent[0][name], sent[1][name]) for name in parameters)


def test_only_int8_keeps_a_residual(site_of, request_of, trained_by, parameters: Tensors) -> None:
    site = site_of()
    for codec in ("float32", "float16", "bfloat16"):
        reply_of(site, request_of(codec), trained_by(changes(parameters)))
    assert not list(Path(site.folder).rglob("residual*"))
    reply_of(site, request_of("int8"), trained_by(changes(parameters)))
    assert list(Path(site.folder).rglob("residual*"))


def test_too_large_an_update_is_refused(site_of, request_of, trained_by, parameters: Tensors) -> None:
    update = trained_by(changes(parameters, size=1.0))
    for bounds in ({"all": 0.5}, {"expert.*": 0.5}, {"vision": 100.0, "head": 0.5}):
        with pytest.raises(PolicyRefusalError) as refusal:
            reply_of(site_of(max_update_norm=bounds), request_of(), update)
        assert refusal.value.code == error_codes.UPDATE_TOO_LARGE
    assert reply_of(site_of(max_update_norm={"all": 100.0}), request_of(), update)


@pytest.mark.parametrize("codec", UPLOAD_CODECS)
@pytest.mark.parametrize("bounds", [{"all": 0.5}, {"expert.*": 0.1, "head": 0.2}, {"head": 0.2, "all": 0.5}])
def test_clipping_keeps_direction_and_bound(
    site_of, request_of, trained_by, parameters: Tensors, codec: str, bounds: dict[str, float]
) -> None:
    change = changes(parameters, size=1.0)
    site = site_of(max_update_norm=bounds, on_large_update="clip")
    outgoing = reply_of(site, request_of(codec), trained_by(change))
    found = received(outgoing.content, parameters, codec)
    whole = 0.0
    for name in parameters:
        sent, group = (found[name] - parameters[name]).double(), parameter_group(name)
        own = [bound for pattern, bound in bounds.items() if pattern[:6] == group[:6]]
        norm = float(sent.norm())
        whole += norm**2
        assert norm <= min(own, default=math.inf) * 1.01
        assert outgoing.norms[group] == pytest.approx(norm, rel=0.02)
        cosine = float((sent * change[name]).sum() / (sent.norm() * change[name].double().norm()))
        assert cosine > 0.999
    assert math.sqrt(whole) <= bounds.get("all", math.inf) * 1.01


def test_what_is_not_finite_is_too_large(site_of, request_of, trained_by, parameters: Tensors) -> None:
    change = changes(parameters)
    change["head.weight"][0, 0] = math.nan
    site = site_of(max_update_norm={"all": 1.0}, on_large_update="clip")
    with pytest.raises(PolicyRefusalError):
        reply_of(site, request_of(), trained_by(change))


@pytest.mark.parametrize("codec", UPLOAD_CODECS)
def test_rows_whose_count_is_withheld_do_not_move(site_of, request_of, trained_by, parameters, codec: str) -> None:
    counts = {"routed_samples_K": torch.tensor([8.0, 0.0]), "observed_labels_Y": torch.tensor([9.0, 0, 9, 9, 0])}
    update: SiteUpdate = trained_by(changes(parameters, size=1.0), **counts)
    found = received(reply_of(site_of(min_cell=5), request_of(codec), update).content, parameters, codec)
    still = {name: (found[name] == parameters[name]).flatten(1).all(dim=1).tolist() for name in parameters}
    assert still["head.weight"] == [False, True, False, False, True]
    assert still["moe.router.weight"] == [False, True]
    assert all(still["moe.experts.1.0.weight"]) and not any(still["moe.experts.0.0.weight"])
    assert not any(still["vision.a"])
