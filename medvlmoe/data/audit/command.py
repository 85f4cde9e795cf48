"""The command ``medvlmoe data audit``: what it prints is for the hospital's own eyes."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from medvlmoe.configuration import compose, to_yaml
from medvlmoe.data.audit.leak_audit import LeakAudit, audit_index, strongest_words, threshold_of
from medvlmoe.data.audit.reported import LEAKS
from medvlmoe.data.config import DataConfig
from medvlmoe.data.loaders.registry import load_index, site_terms
from medvlmoe.errors import ConfigError, LeakError

_USAGE = """medvlmoe data audit [key=value ...]
How well the text alone tells the labels of each site, and by which words.
    medvlmoe data audit data=real data.root=/data
Exit code 0: no text leaks its labels; 2: one does. The words come from the site's texts: do not send them on.
Keys and defaults:"""
_WORDS_SHOWN = 6


@dataclass(kw_only=True)
class AuditCommandConfig:
    """What ``medvlmoe data audit`` looks at.

    Attributes:
        data: the sites and the audit's thresholds, as in a run.
    """

    data: DataConfig = field(default_factory=DataConfig)


def audit(arguments: list[str]) -> int:
    """Audit every site of ``data``, whatever ``data.leak_audit.action`` says, and print what was found.

    Raises:
        LeakError: after the table, if the text of any site leaks its labels, accepted or not.
        ConfigError: an unknown key, or no site.
        DataError: a site's data is missing or malformed.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{_USAGE}\n\n{to_yaml(AuditCommandConfig())}", end="")
        return 0
    data = compose(AuditCommandConfig, arguments, config_name="data_audit").data
    if not data.sites:
        raise ConfigError("no sites: add data=real data.root=FOLDER, or data=hospitals.yaml (docs/manifest.md)")
    leaking = []
    for name, site in data.sites.items():
        index, terms = load_index(site, data.root), site_terms(site, data.root)
        found = audit_index(index, terms, threshold_of(site, data.leak_audit), data.leak_audit.threshold_label)
        _print(f"{name} (text={site.text})", found, strongest_words(index, terms))
        if found.verdict == LEAKS:
            leaking.append(name)
    if leaking:
        raise LeakError(
            f"the text leaks the labels at {', '.join(leaking)}: choose text=demographics or none, or mend the columns "
            "that `context` of the manifest names (docs/text.md)"
        )
    return 0


def _print(title: str, found: LeakAudit, words: dict[str, list[str]]) -> None:
    terminal = Console()
    console = Console(width=None if terminal.is_terminal else 160, highlight=False)
    table = Table("label", "text-only AUC", "words that speak most for it", title=title, title_justify="left")
    for label, area in found.per_label.items():
        table.add_row(label, "-" if area is None else f"{area:.3f}", ", ".join(words.get(label, [])[:_WORDS_SHOWN]))
    console.print(table, markup=False)
    on_test = "undefined" if found.test_auc is None else f"{found.test_auc:.3f}"
    if found.test_auc_ci is not None:
        on_test += f" [{found.test_auc_ci[0]:.3f}, {found.test_auc_ci[1]:.3f}] (labels: {found.test_labels_averaged})"
    console.print(f"{found.verdict.upper()}: {found.words()}", markup=False, soft_wrap=True)
    console.print(f"On the test split, fitted on the train split: {on_test}\n", markup=False)
