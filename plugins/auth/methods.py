"""The `auth.*` methods (PROTOCOL 5). What is remembered between two steps of a login is in `session.auth_state`."""

import errno
from typing import Any

from middlewared.auth.authenticator import MECHANISMS, Outcome, PendingOtp, PendingScram, Response
from middlewared.auth.identity import Credential
from middlewared.errors import CallError, ValidationErrors
from middlewared.plugin import Call, Plugin, method
from middlewared.rpc.session import Session

AUTHENTICATOR_LEVEL = "LEVEL_1"

# What `auth.login_ex` needs besides the mechanism.
_NEEDED = {
    "PASSWORD_PLAIN": ("username", "password"),
    "API_KEY_PLAIN": ("username", "api_key"),
    "TOKEN_PLAIN": ("token",),
    "OTP_TOKEN": ("otp_token",),
    "SCRAM": ("scram_type", "rfc_str"),
}
_ENDED = (Response.SUCCESS, Response.AUTH_ERR, Response.EXPIRED, Response.DENIED)


class Auth(Plugin):
    @method("auth.mechanism_choices")
    async def mechanism_choices(self, call: Call) -> list[str]:
        return list(MECHANISMS)

    @method("auth.login")
    async def login(self, call: Call, username: str, password: str, otp_token: str | None) -> bool:
        outcome = await self.context.authenticator.password(username, password, call.origin, otp_token)
        return self._logged_in(call, "auth.login", outcome)

    @method("auth.login_with_api_key")
    async def login_with_api_key(self, call: Call, api_key: str) -> bool:
        outcome = await self.context.authenticator.api_key(api_key, call.origin)
        return self._logged_in(call, "auth.login_with_api_key", outcome)

    @method("auth.login_with_token")
    async def login_with_token(self, call: Call, token: str) -> bool:
        outcome = self.context.authenticator.token(token, call.origin)
        return self._logged_in(call, "auth.login_with_token", outcome)

    @method("auth.login_ex")
    async def login_ex(self, call: Call, login_data: dict[str, Any]) -> dict[str, Any]:
        mechanism = login_data["mechanism"]
        missing = [name for name in _NEEDED[mechanism] if login_data.get(name) is None]
        if missing:
            raise ValidationErrors((f"login_data.{name}", "attribute required", errno.EINVAL) for name in missing)
        session = _session(call)
        pending, session.auth_state = session.auth_state, None  # a step that does not fit the last one ends it
        outcome = await self._step(call, login_data, pending)
        return self._answer(call, outcome, login_data)

    @method("auth.login_ex_continue")
    async def login_ex_continue(self, call: Call, login_data: dict[str, Any]) -> dict[str, Any]:
        return await self.login_ex(call, login_data)

    @method("auth.logout")
    async def logout(self, call: Call) -> bool:
        session = _session(call)
        session.auth_state = None
        session.credential = None
        return True

    @method("auth.me")
    async def me(self, call: Call) -> dict[str, Any]:
        credential = self.context.authenticator.refresh(call.credential)
        if credential is None or credential.user is None:
            raise CallError("This caller has no user account", errno.ENOENT)
        return credential.user

    @method("auth.generate_token")
    async def generate_token(
        self, call: Call, ttl: int | None, attrs: dict[str, Any], match_origin: bool, single_use: bool
    ) -> str:
        return self.context.authenticator.generate_token(
            call.credential, call.origin, ttl_s=ttl, attrs=attrs, match_origin=match_origin, single_use=single_use
        )

    # -------------------------------------------------------------------------------------- helpers

    async def _step(self, call: Call, data: dict[str, Any], pending: Any) -> Outcome:
        authenticator, origin = self.context.authenticator, call.origin
        match data["mechanism"]:
            case "PASSWORD_PLAIN":
                return await authenticator.password(data["username"], data["password"], origin)
            case "API_KEY_PLAIN":
                return await authenticator.api_key(data["api_key"], origin, data["username"])
            case "TOKEN_PLAIN":
                return authenticator.token(data["token"], origin)
            case "OTP_TOKEN":
                if not isinstance(pending, PendingOtp):
                    raise CallError("No login is waiting for a one-time password", errno.EINVAL)
                return authenticator.second_factor(pending, data["otp_token"], origin)
            case _:
                if data["scram_type"] == "CLIENT_FIRST_MESSAGE":
                    return authenticator.scram_first(data["rfc_str"], origin)
                if not isinstance(pending, PendingScram):
                    raise CallError("No SCRAM login has begun that this could finish", errno.EINVAL)
                return authenticator.scram_final(pending, data["rfc_str"], origin)

    def _logged_in(self, call: Call, name: str, outcome: Outcome) -> bool:
        """The simple logins: yes or no."""
        session = _session(call)
        session.auth_state = None
        self._audit(call, name, outcome)
        if outcome.credential is None:
            return False
        session.credential = outcome.credential
        return True

    def _answer(self, call: Call, outcome: Outcome, data: dict[str, Any]) -> dict[str, Any]:
        """The result object of `auth.login_ex` (PROTOCOL 5.4); logs the session in where that is due."""
        self._audit(call, "auth.login_ex", outcome, data["mechanism"])
        session = _session(call)
        outcome = self.context.authenticator.redirected(outcome)
        match outcome.response:
            case Response.SUCCESS if outcome.credential is not None:
                session.credential = outcome.credential
                return self._success(call, outcome.credential, outcome.rfc_str, data["login_options"])
            case Response.SCRAM_RESPONSE:
                session.auth_state = outcome.pending
                return _scram_answer("SERVER_FIRST_RESPONSE", outcome.rfc_str, None)
            case Response.OTP_REQUIRED:
                session.auth_state = outcome.pending
                return {"response_type": "OTP_REQUIRED", "username": outcome.username}
            case Response.REDIRECT:
                return {"response_type": "REDIRECT", "urls": outcome.urls}
            case _:
                return {"response_type": outcome.response.value}

    def _success(
        self, call: Call, credential: Credential, rfc_str: str | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        if rfc_str is not None:
            return _scram_answer("SERVER_FINAL_RESPONSE", rfc_str, credential.user)
        reconnect_token = None
        if options["reconnect_token"]:
            reconnect_token = self.context.authenticator.generate_token(credential, call.origin)
        return {
            "response_type": "SUCCESS",
            "user_info": credential.user if options["user_info"] else None,
            "authenticator": AUTHENTICATOR_LEVEL,
            "reconnect_token": reconnect_token,
        }

    def _audit(self, call: Call, name: str, outcome: Outcome, mechanism: str | None = None) -> None:
        """One row for each login that ended, well or not; never the secret."""
        if outcome.response not in _ENDED:
            return
        success = outcome.response is Response.SUCCESS
        self.context.audit.record(
            username=outcome.username,
            address=call.origin.address,
            method=name,
            arguments=[{"mechanism": mechanism}] if mechanism else [],
            success=success,
            error=None if success else outcome.response.value,
        )


def _session(call: Call) -> Session:
    if call.session is None:
        raise CallError("Only a client that stays connected can log in or out", errno.EOPNOTSUPP)
    return call.session


def _scram_answer(scram_type: str, rfc_str: str | None, user_info: dict[str, Any] | None) -> dict[str, Any]:
    return {"response_type": "SCRAM_RESPONSE", "scram_type": scram_type, "rfc_str": rfc_str, "user_info": user_info}
