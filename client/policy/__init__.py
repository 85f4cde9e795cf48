"""What a site lets in and out. Written by the hospital, enforced by the code that is installed there."""

from client.policy.config import SitePolicy
from client.policy.refusal import PolicyRefusalError

__all__ = ["PolicyRefusalError", "SitePolicy"]
