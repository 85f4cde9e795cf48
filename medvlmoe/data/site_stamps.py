"""Which stamps a site's data give to all that is trained or tested on them."""

from collections.abc import Mapping
from pathlib import Path

from medvlmoe.data.config import TEXT_OF_REPORTS, DatasetConfig
from medvlmoe.data.index import NOT_ON_DISK
from medvlmoe.data.phantom.mark import is_phantom
from medvlmoe.stamps import LEAKY, PHANTOM, SUBSET, in_order


def site_stamps(
    config: DatasetConfig, left_out: Mapping[str, int], *, text_leaks: bool, data_root: str | Path | None = None
) -> list[str]:
    """The stamps of a site's data.

    Args:
        config: the site's data.
        left_out: reason -> number of its records that were left out.
        text_leaks: what the leak audit found.
        data_root: folder that the site's relative root is taken from.
    """
    found = {
        LEAKY: config.text in TEXT_OF_REPORTS or text_leaks,
        SUBSET: left_out.get(NOT_ON_DISK, 0) > 0,
        PHANTOM: is_phantom(config.folder(data_root)),
    }
    return in_order(stamp for stamp, holds in found.items() if holds)
