"""A request that the site's own policy forbids."""

from medvlmoe.errors import UserError


class PolicyRefusalError(UserError):
    """The server learns the code; the text stays in the site's log.

    Attributes:
        code: one of the refusals in :mod:`strategies.error_codes`.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
