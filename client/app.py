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

from client.config import SiteConfig, read_site_config
from client.site import evaluate, introduce, train
from medvlmoe.configuration import compose
from medvlmoe.data.config import DatasetConfig
from medvlmoe.errors import CheckpointError, ConfigError, DataError, LeakError, LocalProcessError
from strategies import error_codes
from strategies.messages import (
    InvalidMessageError,
    build_evaluation_reply,
    build_introduction,
    build_reply,
    read_request,
)
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


def build_app(
    site_of: Callable[[Context], SiteConfig], on_error: Callable[[Exception], None] = lambda error: None
) -> ClientApp:
    """A ClientApp whose site is told by ``site_of``.

    Args:
        site_of: the site's own configuration.
        on_error: told every exception, here at the site: a simulation shows it to its user.
    """
    app = ClientApp()

    def guarded(message: Message, context: Context, reply: Callable[[SiteConfig], RecordDict]) -> Message:
        return _guarded(message, lambda: site_of(context), reply, on_error)

    @app.query()
    def answer_introduction(message: Message, context: Context) -> Message:
        return guarded(message, context, lambda site: build_introduction(introduce(site)))

    @app.train()
    def answer_train(message: Message, context: Context) -> Message:
        def reply(site: SiteConfig) -> RecordDict:
            request, tensors, codec = read_request(message.content)
            return build_reply(train(site, request, tensors), codec)

        return guarded(message, context, reply)

    @app.evaluate()
    def answer_evaluate(message: Message, context: Context) -> Message:
        def reply(site: SiteConfig) -> RecordDict:
            request, tensors, _ = read_request(message.content)
            return build_evaluation_reply(request.round, evaluate(site, request, tensors))

        return guarded(message, context, reply)

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
    )


def _guarded(
    message: Message,
    site_of: Callable[[], SiteConfig],
    reply: Callable[[SiteConfig], RecordDict],
    on_error: Callable[[Exception], None],
) -> Message:
    site: SiteConfig | None = None
    try:
        site = site_of()
        return Message(reply(site), reply_to=message)
    except Exception as error:
        code = next((code for kind, code in ERROR_CODES.items() if isinstance(error, kind)), error_codes.UNEXPECTED)
        _log_at_site(site, message.metadata.message_type)
        on_error(error)
        return Message(Error(code=code, reason=error_codes.words_of(code)), reply_to=message)


def _log_at_site(site: SiteConfig | None, what: str) -> None:
    text = f"{what} failed\n{traceback.format_exc()}"
    logger.debug("%s", text)
    if site is None:
        return
    try:
        log = Path(site.folder).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        logger.error("the site's log in %s cannot be written", site.folder)


app = build_app(site_from_context)
