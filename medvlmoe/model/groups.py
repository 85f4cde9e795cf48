"""Parameter groups: the one place that tells from a parameter's name what it belongs to.

Groups are ``vision``, ``text``, ``fusion``, ``router``, ``expert.0`` … ``expert.K-1``, ``shared_expert`` and ``head``.
Merging, learning rates, freezing and byte accounting all speak of groups. Every sample goes to the shared experts, so
they merge like the encoders: by examples.
"""

import re

ROW_GROUPS: dict[str, str] = {"router": "experts", "head": "labels"}
"""Groups whose tensors have one row per expert or per label (the first dimension)."""

ENCODER_GROUPS = ("vision", "text")
"""Groups that may start from pretrained weights."""

_EXPERT_GROUP = re.compile(r"expert\.(\d+)")
_PATTERNS = (
    (re.compile(r"(vision|text|fusion|head)\..+"), r"\1"),
    (re.compile(r"moe\.(router)\..+"), r"\1"),
    (re.compile(r"moe\.experts\.(\d+)\..+"), r"expert.\1"),
    (re.compile(r"moe\.shared\..+"), "shared_expert"),
)


def parameter_group(name: str) -> str:
    """The group of a parameter, from its name in ``model.named_parameters()``.

    Example: ``parameter_group("moe.experts.3.0.weight") == "expert.3"``.

    Raises:
        ValueError: the name belongs to no group.
    """
    for pattern, group in _PATTERNS:
        if match := pattern.fullmatch(name):
            return match.expand(group)
    raise ValueError(f"parameter {name!r} belongs to no group")


def group_names(expert_count: int) -> tuple[str, ...]:
    """All groups of a model with ``expert_count`` experts, in the order of the forward pass."""
    experts = (f"expert.{index}" for index in range(expert_count))
    return ("vision", "text", "fusion", "router", *experts, "head")


def expert_index(group: str) -> int | None:
    """k for ``expert.k``, ``None`` for every other group."""
    match = _EXPERT_GROUP.fullmatch(group)
    return int(match.group(1)) if match else None


def rows_of(group: str) -> str | None:
    """What the rows of the group's tensors stand for, ``experts`` or ``labels``; ``None`` if for nothing."""
    return ROW_GROUPS.get(group)
