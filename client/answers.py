"""What a site answers to each kind of message. The policy is asked before the data is touched."""

from dataclasses import dataclass, field
from datetime import datetime

from flwr.app import RecordDict

from client.config import SiteConfig
from client.departure import Departure
from client.outgoing import training_reply
from client.policy.request import check_hours, check_request, check_rounds, check_upload, check_version
from client.receipts import ReceiptChain
from client.site import evaluate, introduce, train
from strategies.messages import (
    build_evaluation_reply,
    build_introduction,
    read_introduction_request,
    read_request,
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A reply and what its receipt says beside what the content tells.

    Attributes:
        kind: ``introduction``, ``training`` or ``evaluation``.
        content: the reply.
        run: the server's name of the run.
        round: the round.
        codec: number format of the arrays.
        norms: L2 norm of the change, by group.
        privacy: what was charged for it under record-level privacy.
    """

    kind: str
    content: RecordDict
    run: str = ""
    round: int = 0
    codec: str = ""
    norms: dict[str, float] = field(default_factory=dict)
    privacy: str = ""


def answer_introduction(site: SiteConfig, content: RecordDict) -> Answer:
    """Name, labels and version of the site."""
    check_version(read_introduction_request(content))
    check_hours(site.policy, _now())
    return Answer(kind="introduction", content=build_introduction(introduce(site)))


def answer_training(site: SiteConfig, content: RecordDict) -> Answer:
    """One round of training."""
    request, now = read_request(content), _now()
    check_request(site.policy, request, now, site.own_model_files)
    check_upload(site.policy, request)
    check_rounds(site.policy, request, ReceiptChain(site.receipts_file).receipts(), now)
    config = request.config
    with Departure() as departure:
        update = train(site, config, request.tensors, departure)
        outgoing = training_reply(site, request, update, departure)
        departure.leave()
    return Answer(
        kind="training",
        content=outgoing.content,
        run=config.run,
        round=config.round,
        codec=request.reply_codec,
        norms=outgoing.norms,
        privacy=departure.charged,
    )


def answer_evaluation(site: SiteConfig, content: RecordDict) -> Answer:
    """Metrics of the received model."""
    request = read_request(content)
    check_request(site.policy, request, _now(), site.own_model_files)
    config = request.config
    reply = build_evaluation_reply(config.round, evaluate(site, config, request.tensors))
    return Answer(kind="evaluation", content=reply, run=config.run, round=config.round)


def _now() -> datetime:
    return datetime.now().astimezone()
