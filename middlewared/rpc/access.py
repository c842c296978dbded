"""Who may do what: the one rule, for methods and events alike (PROTOCOL 5.1)."""

import errno
from collections.abc import Sequence
from typing import Literal

from middlewared.auth.identity import Credential
from middlewared.errors import ENOTAUTHENTICATED, CallError

Auth = Literal["none", "login", "roles"]


def may(credential: Credential | None, auth: Auth, roles: Sequence[str]) -> bool:
    """`none`: anybody; `login`: whoever has logged in; `roles`: who holds one of them (none named: full admins)."""
    if auth == "none":
        return True
    return credential is not None and (auth == "login" or credential.may(roles))


def require(credential: Credential | None, auth: Auth, roles: Sequence[str]) -> None:
    """Raises CallError 207 without a login, EACCES without permission."""
    if may(credential, auth, roles):
        return
    if credential is None:
        raise CallError("Not authenticated", ENOTAUTHENTICATED)
    raise CallError("Not authorized", errno.EACCES)
