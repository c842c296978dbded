"""libnftables through ctypes: what nft(8) itself is made of, without a new process for every change.

Calls: nftables/libnftables.h of nftables 0.9 and later (libnftables.so.1).
"""

import ctypes
from dataclasses import dataclass
from typing import Any

from middlewared.ports import PortError

NAME = "libnftables.so.1"
_DEFAULT = 0  # NFT_CTX_DEFAULT
_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON


@dataclass(frozen=True, slots=True)
class Answer:
    """What nft would have printed; `complaint` is empty when it did what it was told."""

    output: str
    complaint: str = ""


class Nftables:
    """One connection to the packet filter, of the network namespace in which it is made. Every call may block."""

    def __init__(self, name: str = NAME) -> None:
        """Raises PortError with the remedy."""
        try:
            self._loaded = ctypes.CDLL(name)
        except OSError:
            raise PortError("libnftables is not installed: apt-get install libnftables1") from None
        context, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint
        self._context = self._bind("nft_ctx_new", context, ctypes.c_uint32)(_DEFAULT)
        if not self._context:
            raise PortError("libnftables has no connection to the kernel")
        self._bind("nft_ctx_buffer_output", ctypes.c_int, context)(self._context)
        self._bind("nft_ctx_buffer_error", ctypes.c_int, context)(self._context)
        self._set_output = self._bind("nft_ctx_output_set_flags", None, context, number)
        self._run = self._bind("nft_run_cmd_from_buffer", ctypes.c_int, context, text)
        self._output = self._bind("nft_ctx_get_output_buffer", text, context)
        self._errors = self._bind("nft_ctx_get_error_buffer", text, context)

    def load(self, rules: str) -> Answer:
        """What `nft -f -` does: all of it in one transaction, or nothing."""
        self._set_output(self._context, 0)
        return self._do(rules)

    def show(self, what: str) -> Answer:
        """What `nft -j list WHAT` does."""
        self._set_output(self._context, _OUTPUT_JSON)
        return self._do(f"list {what}")

    def _do(self, commands: str) -> Answer:
        failed = self._run(self._context, commands.encode()) != 0
        output, errors = (_text(read(self._context)) for read in (self._output, self._errors))
        return Answer(output, (errors.splitlines() or ["no reason given"])[0] if failed else "")

    def _bind(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._loaded, name)
        function.restype, function.argtypes = result, arguments
        return function


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace").strip()
