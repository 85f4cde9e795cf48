"""The ClientApp: an ordinary Flower app around one hospital site.

An exception never travels: the server gets a code, the site's own log gets the text.
"""

import dataclasses
import logging
import shlex
import traceback
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.answers import Answer, answer_evaluation, answer_introduction, answer_training
from client.config import SiteConfig, read_site_config
from client.policy import PolicyRefusalError, SitePolicy
from client.policy.code import check_code
from client.receipts import ReceiptChain
from client.receipts.receipt import describe
from client.site_log import log_at_site
from medvlmoe.configuration import compose
from medvlmoe.data.config import DatasetConfig
from medvlmoe.errors import CheckpointError, ConfigError, DataError, LeakError, LocalProcessError
from strategies import error_codes
from strategies.messages import InvalidMessageError
from strategies.run_config import RunConfig

logger = logging.getLogger(__name__)

ERROR_CODES: dict[type[Exception], int] = {
    ConfigError: error_codes.CONFIGURATION,
    LeakError: error_codes.TEXT_LEAKS,  # before DataError, of which it is one
    DataError: error_codes.DATA,
    CheckpointError: error_codes.FILES,
    InvalidMessageError: error_codes.MALFORMED_REQUEST,
    MemoryError: error_codes.OUT_OF_MEMORY,
    LocalProcessError: error_codes.OUT_OF_MEMORY,  # nothing else kills a process as often
}


class SiteApp(ClientApp):
    """A ClientApp from which no exception comes out, whoever raised it: Flower would send its text to the server."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        super().__init__()
        self._on_error = on_error

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message, with an error code if nothing else."""
        try:
            return super().__call__(message, context)
        except Exception as error:
            logger.error("%s failed\n%s", message.metadata.message_type, traceback.format_exc())
            self._on_error(error)
            return _error_reply(message, error)


def build_app(
    site_of: Callable[[Context], SiteConfig],
    on_error: Callable[[Exception], None] = lambda error: None,
    fab_hash: str | None = None,
) -> SiteApp:
    """A ClientApp whose site is told by ``site_of``.

    Args:
        site_of: the site's own configuration.
        on_error: told every exception, here at the site: a simulation shows it to its user.
        fab_hash: SHA-256 of the run's bundle, if the site's own launcher starts this process.
    """
    app = SiteApp(on_error)

    def respond(message: Message, context: Context, answer: Callable[[SiteConfig, RecordDict], Answer]) -> Message:
        site = site_of(context)
        try:
            if not site.simulated:
                check_code(site.policy, fab_hash)
            given = answer(site, message.content)
            if not site.simulated:
                _write_receipt(site, context, given)
            return Message(given.content, reply_to=message)
        except Exception as error:
            log_at_site(site, f"{message.metadata.message_type} failed\n{traceback.format_exc()}")
            on_error(error)
            reply = _error_reply(message, error)
            if not site.simulated:
                _try_to_write_error_receipt(site, context, reply.error.code)
            return reply

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return respond(message, context, answer_introduction)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return respond(message, context, answer_training)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return respond(message, context, answer_evaluation)

    return app


def site_from_context(context: Context) -> SiteConfig:
    """The site that this process is.

    A hospital starts its SuperNode with ``--node-config 'site-config="site.yaml"'``. In simulation Flower numbers the
    nodes, and node i is the i-th site of the run's own ``data.sites``.

    Raises:
        ConfigError: neither is given, or the site's file is malformed.
    """
    if "site-config" in context.node_config:
        return read_site_config(Path(str(context.node_config["site-config"])))
    if "partition-id" not in context.node_config:
        raise ConfigError("start the SuperNode with --node-config 'site-config=\"site.yaml\"'")
    run = compose(RunConfig, shlex.split(str(context.run_config.get("overrides", ""))))
    names = sorted(run.data.sites)
    number = int(context.node_config["partition-id"])
    if number >= len(names):
        raise ConfigError(f"node {number}, but data.sites has {len(names)} sites; start as many nodes as sites")
    return simulated_site(run, names[number])


def simulated_site(run: RunConfig, name: str) -> SiteConfig:
    """A site of a simulation, described by the run's own configuration."""
    dataset: DatasetConfig = run.data.sites[name]
    if not run.data.augment:
        dataset = dataclasses.replace(dataset, augmentation="none")
    mode_folder = run.output.name or f"federated-seed{run.seed}"
    return SiteConfig(
        name=name,
        dataset=dataset,
        leak_audit=run.data.leak_audit,
        data_root=run.data.root,
        folder=str(Path(run.output.root) / mode_folder / "sites" / name),
        cache=run.data.cache or str(Path(run.output.root) / "cache"),
        decode_workers=run.data.workers,
        device=run.device,
        devices=run.devices,
        # Whoever runs a simulation is server and site in one: the model's files are the run's own.
        policy=SitePolicy(model_files=["/"]),
        predictions=str(Path(run.output.root) / mode_folder / "predictions"),
        simulated=True,
    )


def _error_reply(message: Message, error: Exception) -> Message:
    code = error.code if isinstance(error, PolicyRefusalError) else _code_of(error)
    return Message(Error(code=code, reason=error_codes.words_of(code)), reply_to=message)


def _code_of(error: Exception) -> int:
    return next((code for kind, code in ERROR_CODES.items() if isinstance(error, kind)), error_codes.UNEXPECTED)


def _write_receipt(site: SiteConfig, context: Context, answer: Answer) -> None:
    """The receipt is on the disk before the reply leaves."""
    entry = describe(
        answer.kind,
        answer.content,
        str(context.run_id),
        norms=answer.norms,
        run=answer.run,
        server_round=answer.round,
        codec=answer.codec,
        privacy=answer.privacy,
    )
    ReceiptChain(site.receipts_file).append(entry)


def _try_to_write_error_receipt(site: SiteConfig, context: Context, code: int) -> None:
    """An error code tells nothing about a patient, so it leaves even where no receipt can be written."""
    empty = RecordDict()
    entry = describe("error", empty, str(context.run_id), norms={}, run="", server_round=0, codec="") | {"code": code}
    try:
        ReceiptChain(site.receipts_file).append(entry)
    except CheckpointError as error:
        log_at_site(site, f"no receipt of error code {code}: {error}\n")


app = build_app(site_from_context)
