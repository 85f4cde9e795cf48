"""How large an update may be."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

from client.policy.config import WHOLE_UPDATE, SitePolicy
from client.policy.refusal import PolicyRefusalError
from strategies import error_codes


def allowed_shares(policy: SitePolicy, norms: Mapping[str, float]) -> dict[str, float]:
    """The factor by which each group's change is multiplied before it leaves; 1 where nothing is too large.

    With ``on_large_update=clip`` each group is first brought down to its own bound, then all of them together.

    Args:
        policy: the site's policy.
        norms: L2 norm of the change by group.

    Raises:
        PolicyRefusalError: too large, and the policy says to refuse; or bounded and not a finite number.
    """
    shares = {}
    for group, norm in norms.items():
        bounds = [bound for pattern, bound in policy.max_update_norm.items() if fnmatchcase(group, pattern)]
        shares[group] = _share(policy, group, norm, min(bounds, default=math.inf))
    whole = math.hypot(*(share * norms[group] for group, share in shares.items()))
    share = _share(policy, "the whole update", whole, policy.max_update_norm.get(WHOLE_UPDATE, math.inf))
    return {group: share * own for group, own in shares.items()}


def _share(policy: SitePolicy, what: str, norm: float, bound: float) -> float:
    if bound == math.inf or norm <= bound:
        return 1.0
    if policy.on_large_update == "clip" and math.isfinite(norm):
        return bound / norm
    raise PolicyRefusalError(
        error_codes.UPDATE_TOO_LARGE, f"the change of {what} has norm {norm:.4g}, policy.max_update_norm is {bound:g}"
    )
