"""The command ``medvlmoe data check``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from medvlmoe.configuration import compose, to_yaml
from medvlmoe.data.check.decode import decode_all
from medvlmoe.data.check.differences import differences
from medvlmoe.data.check.site import SiteCheck, check_site
from medvlmoe.data.check.tables import print_check
from medvlmoe.data.config import DataConfig
from medvlmoe.errors import EXIT_DIFFERENT, ConfigError
from medvlmoe.files import write_text

_USAGE = """medvlmoe data check [key=value ...]
Compare the folders of sites with what was published about them, and name every malformed row.
    medvlmoe data check data=benchmarks data.root=/data
    medvlmoe data check 'data.sites={chexpert:{kind:chexpert,root:/data/CheXpert-v1.0-small}}'
Exit code 0: as published; 4: differences or malformed rows. Keys and defaults:"""


@dataclass(kw_only=True)
class CheckConfig:
    """What ``medvlmoe data check`` looks at.

    Attributes:
        data: the sites, as in a run.
        images: decode every image too.
        report: file for all problems, missing images and differences, one a line; the terminal shows the first ones.
    """

    data: DataConfig = field(default_factory=DataConfig)
    images: bool = False
    report: str | None = None


def check(arguments: list[str]) -> int:
    """Run ``medvlmoe data check``; returns the exit code.

    Raises:
        ConfigError: an unknown key, or no site.
        CheckpointError: ``report`` cannot be written.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{_USAGE}\n\n{to_yaml(CheckConfig())}", end="")
        return 0
    config = compose(CheckConfig, arguments, config_name="data_check")
    if not config.data.sites:
        raise ConfigError("no sites: add data=benchmarks data.root=FOLDER, or 'data.sites={NAME:{kind:…,root:…}}'")
    terminal = Console()
    console = Console(width=None if terminal.is_terminal else 200, highlight=False, soft_wrap=True)
    checks: list[SiteCheck] = []
    for name, site in config.data.sites.items():
        found = check_site(name, site, config.data.root)
        if config.images:
            decode_all(found)
        print_check(found, console)
        checks.append(found)
    if config.report is not None:
        write_text(
            Path(config.report).expanduser(), "".join(f"{line}\n" for line in report_lines(checks)), key="report"
        )
    return EXIT_DIFFERENT if any(differences(found) or found.problems.count for found in checks) else 0


def report_lines(checks: Sequence[SiteCheck]) -> list[str]:
    """Everything that was found, nothing left out."""
    lines: list[str] = []
    for found in checks:
        lines += [f"{found.name}: differs: {line}" for line in differences(found)]
        lines += [f"{found.name}: malformed: {line}" for problem in found.problems.found for line in problem.each()]
        lines += [f"{found.name}: not on disk: {name}" for name in found.missing]
    return lines
