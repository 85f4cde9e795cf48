"""The command ``medvlmoe reproduce``."""

from medvlmoe.configuration import compose, to_yaml
from medvlmoe.errors import ConfigError
from simulation.reproduction.config import ReproductionConfig

ARTEFACTS = ("table1", "table2", "figure2", "figure3")

_USAGE = """medvlmoe reproduce table1|table2|figure2|figure3|all [key=value ...]
The paper's tables and figures, from a grid of runs (docs/reproduction.md).
    medvlmoe reproduce table2 preset=tiny data=phantom seeds=1 output.root=runs
    medvlmoe reproduce all preset=paper data=benchmarks data.root=/data
Finished runs are found again and not repeated: give the same command after a crash, and it goes on.
Keys and defaults (preset=tiny|small|paper chooses many at once):"""


def reproduce(arguments: list[str]) -> int:
    """Run the cells that a table or figure needs, then write it.

    Raises:
        ConfigError: no such table or figure, an unknown key, or a model or data set that is not there.
    """
    if not arguments or any(argument in ("-h", "--help", "help") for argument in arguments):
        print(f"{_USAGE}\n\n{to_yaml(compose(ReproductionConfig, config_name='reproduce'))}")
        return 0
    wanted = [argument for argument in arguments if "=" not in argument]
    unknown = [name for name in wanted if name not in (*ARTEFACTS, "all")]
    if unknown or not wanted:
        raise ConfigError(f"say what: medvlmoe reproduce {'|'.join((*ARTEFACTS, 'all'))} [key=value ...]")
    compose(ReproductionConfig, [a for a in arguments if "=" in a], config_name="reproduce")
    raise ConfigError("not there yet")
