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


def data(arguments: list[str]) -> int:
    """Run ``medvlmoe data check``; returns the exit code.

    Raises:
        ConfigError: another word than ``check``, an unknown key, or no site.
    """
    if not arguments or arguments[0] != "check":
        raise ConfigError("say what to do: medvlmoe data check data=benchmarks data.root=/data")
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{_USAGE}\n\n{to_yaml(CheckConfig())}", end="")
        return 0
    config = compose(CheckConfig, arguments[1:], config_name="data_check")
    if not config.data.sites:
        raise ConfigError("no sites: add data=benchmarks data.root=FOLDER, or 'data.sites={NAME:{kind:…,root:…}}'")
    terminal = Console()
    console = Console(width=None if terminal.is_terminal else 200, highlight=False, soft_wrap=True)
    checks: list[SiteCheck] = []
    for name, site in config.data.sites.items():
        check = check_site(name, site, config.data.root)
        if config.images:
            decode_all(check)
        print_check(check, console)
        checks.append(check)
    if config.report is not None:
        write_text(Path(config.report).expanduser(), "".join(f"{line}\n" for line in report_lines(checks)))
    return EXIT_DIFFERENT if any(differences(check) or check.problems.count for check in checks) else 0


def report_lines(checks: Sequence[SiteCheck]) -> list[str]:
    """Everything that was found, nothing left out."""
    lines: list[str] = []
    for check in checks:
        lines += [f"{check.name}: differs: {line}" for line in differences(check)]
        lines += [f"{check.name}: malformed: {line}" for problem in check.problems.found for line in problem.each()]
        lines += [f"{check.name}: not on disk: {name}" for name in check.missing]
    return lines
