"""Which parameter groups of an update are clipped together, and to what bound."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from medvlmoe.errors import ConfigError

REST = "rest"


@dataclass(frozen=True)
class UpdateBlocks:
    """A partition of the parameter groups into blocks, each clipped to an own L2 bound.

    Attributes:
        block_of: block by parameter group.
        bounds: bound by block, in a fixed order.
    """

    block_of: Mapping[str, str]
    bounds: Mapping[str, float]

    @classmethod
    def of(cls, groups: Iterable[str], max_update_norm: float, max_group_norms: Mapping[str, float]) -> "UpdateBlocks":
        """A block for each group that a pattern of ``max_group_norms`` fits (the first that does), one for the rest.

        Args:
            groups: the groups that travel.
            max_update_norm: bound of the rest together.
            max_group_norms: bound of each group by its name or a pattern such as ``expert*``.

        Raises:
            ConfigError: a pattern that fits no group.
        """
        groups = list(dict.fromkeys(groups))
        block_of: dict[str, str] = {}
        bounds: dict[str, float] = {}
        for pattern, bound in max_group_norms.items():
            if not any(fnmatchcase(group, pattern) for group in groups):
                raise ConfigError(
                    f"privacy.client.max_group_norms.{pattern}: no parameter group of that name travels; there are "
                    f"{', '.join(groups)}"
                )
            for group in groups:
                if group not in block_of and fnmatchcase(group, pattern):
                    block_of[group] = group
                    bounds[group] = float(bound)
        for group in groups:
            if group not in block_of:
                block_of[group] = REST
                bounds[REST] = float(max_update_norm)
        return cls(block_of, bounds)
