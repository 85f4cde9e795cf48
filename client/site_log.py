"""The site's own log: a file beside its folder, which nobody else reads."""

import logging
from pathlib import Path

from client.config import SiteConfig

logger = logging.getLogger(__name__)


def log_at_site(site: SiteConfig, text: str) -> None:
    """Append lines to the site's log. What cannot be written there is let go: nobody else may be told."""
    logger.debug("%s", text)
    try:
        log = Path(site.folder).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        logger.error("the site's log in %s cannot be written", site.folder)
