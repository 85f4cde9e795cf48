"""What a site answers to each kind of message. The policy is asked before the data is touched."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flwr.app import RecordDict

from client.config import SiteConfig
from client.departure import Departure
from client.kept_reply import KeptReplies, KeptReply, request_key
from client.outgoing import OutgoingUpdate, training_reply
from client.policy.request import check_hours, check_request, check_rounds, check_upload, check_version
from client.receipts import ReceiptChain
from client.receipts.receipt import REPETITION, Receipt, content_digest
from client.site import data_digest, evaluate, introduce, train
from strategies.messages import (
    Request,
    build_evaluation_reply,
    build_introduction,
    read_introduction_request,
    read_request,
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A reply and what its receipt says beside what the content tells.

    Attributes:
        kind: ``introduction``, ``training``, ``evaluation`` or ``REPETITION``.
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
    """One round of training; the reply that is kept, if the request is the one it answered."""
    request, now = read_request(content), _now()
    check_request(site.policy, request, now, site.own_model_files)
    check_upload(site.policy, request)
    config = request.config
    replies = KeptReplies(site, config.run) if site.keep_reply and not site.simulated else None

    def key() -> str:
        return request_key(site, content, data_digest(site, config))

    kept = None if replies is None else replies.find(config.round, key)
    receipts = ReceiptChain(site.receipts_file).receipts()
    if kept is not None and _has_left(kept, request, receipts):
        return _training_answer(REPETITION, request, kept.update, privacy="")  # its first receipt says what was charged
    check_rounds(site.policy, request, receipts, now)
    if kept is not None:  # ready, and its process ended or its receipt failed before it could leave
        return _training_answer("training", request, kept.update, kept.privacy)
    with Departure() as departure:
        update = train(site, config, request.tensors, departure)
        outgoing = training_reply(site, request, update, departure)
        if replies is not None:
            departure.stage(replies.stage(config.round, key(), KeptReply(outgoing, departure.charged)))
        departure.leave()
    return _training_answer("training", request, outgoing, departure.charged)


def answer_evaluation(site: SiteConfig, content: RecordDict) -> Answer:
    """Metrics of the received model."""
    request = read_request(content)
    check_request(site.policy, request, _now(), site.own_model_files)
    config = request.config
    reply = build_evaluation_reply(config.round, evaluate(site, config, request.tensors))
    return Answer(kind="evaluation", content=reply, run=config.run, round=config.round)


def _has_left(kept: KeptReply, request: Request, receipts: Sequence[Receipt]) -> bool:
    digest, run, number = content_digest(kept.update.content), request.config.run, request.config.round
    return any(
        receipt.kind == "training" and (receipt.run, receipt.round, receipt.sha256) == (run, number, digest)
        for receipt in receipts
    )


def _training_answer(kind: str, request: Request, outgoing: OutgoingUpdate, privacy: str) -> Answer:
    return Answer(
        kind=kind,
        content=outgoing.content,
        run=request.config.run,
        round=request.config.round,
        codec=request.reply_codec,
        norms=outgoing.norms,
        privacy=privacy,
    )


def _now() -> datetime:
    return datetime.now().astimezone()
