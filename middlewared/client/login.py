"""Logins as dialogues without I/O: each yields a call, is sent its result, and returns the user's record.

dialogue = with_password("admin", "…")
method, params = next(dialogue)      # then dialogue.send(result) until StopIteration, whose value is the user
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from middlewared.client.endpoint import Endpoint
from middlewared.client.errors import ClientError, LoginError

if TYPE_CHECKING:
    from middlewared.client.scram import ScramClient

Dialogue = Generator[tuple[str, list[Any]], Any, dict[str, Any] | None]


def with_password(username: str, password: str, otp_token: str | None = None) -> Dialogue:
    """PASSWORD_PLAIN, and the second factor when the account has one."""
    request = {"mechanism": "PASSWORD_PLAIN", "username": username, "password": password}
    answer = yield "auth.login_ex", [request]
    if answer["response_type"] == "OTP_REQUIRED" and otp_token is not None:
        answer = yield "auth.login_ex_continue", [{"mechanism": "OTP_TOKEN", "otp_token": otp_token}]
    return _user(answer, "wrong user name or password")


def with_token(token: str) -> Dialogue:
    answer = yield "auth.login_ex", [{"mechanism": "TOKEN_PLAIN", "token": token}]
    return _user(answer, "the token is wrong or has expired")


def with_api_key(api_key: str, username: str | None, endpoint: Endpoint, binding: bytes | None = None) -> Dialogue:
    """SCRAM where the server offers it and the user is known; else the key itself, but only where nobody listens."""
    refused = "the API key was not accepted: it is wrong, expired, revoked, or another user's"
    if not api_key.partition("-")[0].isdecimal() or not api_key.partition("-")[2]:
        raise ClientError("that is not an API key: one reads NUMBER-LETTERS")
    if username is None:
        _demand_privacy(endpoint, "without the user's name an API key has to be sent as it is")
        if not (yield "auth.login_with_api_key", [api_key]):
            raise LoginError(refused, "AUTH_ERR")
        return None
    if "SCRAM" in (yield "auth.mechanism_choices", []):
        from middlewared.client.scram import ScramClient

        return (yield from _with_scram(ScramClient(username, api_key, binding), refused))
    _demand_privacy(endpoint, "the server does not offer SCRAM, so an API key has to be sent as it is")
    request = {"mechanism": "API_KEY_PLAIN", "username": username, "api_key": api_key}
    return _user((yield "auth.login_ex", [request]), refused)


def _with_scram(scram: "ScramClient", refused: str) -> Dialogue:
    request = {"mechanism": "SCRAM", "scram_type": "CLIENT_FIRST_MESSAGE", "rfc_str": scram.first}
    answer = yield "auth.login_ex", [request]
    if answer["response_type"] != "SCRAM_RESPONSE":
        _user(answer, refused)
    request = {"mechanism": "SCRAM", "scram_type": "CLIENT_FINAL_MESSAGE", "rfc_str": scram.final(answer["rfc_str"])}
    answer = yield "auth.login_ex", [request]
    if answer["response_type"] != "SCRAM_RESPONSE":
        return _user(answer, refused)
    scram.verify(answer["rfc_str"])
    user: dict[str, Any] | None = answer.get("user_info")
    return user


def _demand_privacy(endpoint: Endpoint, why: str) -> None:
    if not endpoint.private:
        raise ClientError(
            f"{why}, and {endpoint.url} is not encrypted: name the user, or use wss:// or the unix socket"
        )


def _user(answer: dict[str, Any], refused: str) -> dict[str, Any] | None:
    """The user of a successful login; LoginError for every other answer."""
    kind = str(answer["response_type"])
    if kind == "SUCCESS":
        user: dict[str, Any] | None = answer.get("user_info")
        return user
    texts = {
        "OTP_REQUIRED": "this account needs a one-time code too, and none (or a wrong one) was given: --otp CODE",
        "EXPIRED": "this password, key or token has expired",
        "DENIED": "this account may not use the API",
        "REDIRECT": f"this controller is the standby; log in at {' or '.join(answer.get('urls') or ['the other one'])}",
    }
    raise LoginError(texts.get(kind, refused), kind)
