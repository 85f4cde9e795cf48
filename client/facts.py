"""What a site tells about its data beside its metrics: the leak audit's numbers, and its stamps."""

from collections.abc import Mapping
from pathlib import Path

from client.config import SiteConfig
from client.resident import resident_audit
from client.state import run_folder
from medvlmoe import stamps
from medvlmoe.configuration import to_mapping
from medvlmoe.data.audit.reported import numbers_leak
from medvlmoe.data.site_stamps import site_stamps
from medvlmoe.files import read_json, write_json


def audit_numbers(site: SiteConfig, run: str) -> dict[str, float]:
    """The numbers of the leak audit, made once a run: a ClientApp process lives for one message only.

    Raises:
        LeakError: the text leaks the labels, and the site has not accepted that.
    """
    file = run_folder(Path(site.folder), run) / "leak-audit.json"
    described = [to_mapping(site.dataset), site.data_root, to_mapping(site.leak_audit)]
    known = read_json(file) if file.exists() else {}
    if known.get("site") == described:
        return known["numbers"]
    found = resident_audit(site)
    numbers = {} if found is None else found.to_numbers()
    write_json(file, {"site": described, "numbers": numbers}, key=None)
    return numbers


def data_facts(site: SiteConfig, numbers: dict[str, float], left_out: Mapping[str, int]) -> dict[str, float]:
    """Metrics for a reply: the audit's numbers and the stamps of the site's data, by name."""
    own = site_stamps(site.dataset, left_out, text_leaks=numbers_leak(numbers), data_root=site.data_root)
    return {**numbers, **stamps.to_numbers(own)}
