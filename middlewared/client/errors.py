"""What can go wrong between a client and the daemon. What a call itself refuses is a CallError or ValidationErrors."""


class ClientError(Exception):
    """The daemon cannot be reached, does not answer, or is gone. The text is a sentence for a human, with the remedy.

    After a lost connection or an unanswered call it is unknown what the daemon did.
    """


class LoginError(ClientError):
    """The daemon refused the login; `response_type` says why in its own word (PROTOCOL 5.4)."""

    def __init__(self, message: str, response_type: str) -> None:
        super().__init__(message)
        self.response_type = response_type
