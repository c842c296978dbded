"""What jobs offer for download, until it is fetched or its time has passed (PROTOCOL 1.3)."""

import asyncio
import enum
import errno
from dataclasses import dataclass

from middlewared.errors import CallError
from middlewared.rpc.limits import DOWNLOAD_BEGIN_BUFFERED_TIMEOUT_S, DOWNLOAD_BEGIN_TIMEOUT_S
from middlewared.rpc.pipes import Output

OFFERS_MAX = 1000


class OfferState(enum.Enum):
    OPEN = enum.auto()
    TAKEN = enum.auto()
    EXPIRED = enum.auto()


@dataclass(slots=True)
class Offer:
    output: Output
    filename: str
    state: OfferState = OfferState.OPEN


class Downloads:
    """What may be fetched now, by job id; a bounded memory of what was."""

    def __init__(self) -> None:
        self._offers: dict[int, Offer] = {}

    def offer(self, job_id: int, output: Output, filename: str, *, buffered: bool) -> None:
        """Keep `output` for one download, until its time to begin has passed. Raises EBUSY when too many wait."""
        if len(self._offers) >= OFFERS_MAX:
            self._forget_one()
        self._offers[job_id] = Offer(output, filename)
        timeout_s = DOWNLOAD_BEGIN_BUFFERED_TIMEOUT_S if buffered else DOWNLOAD_BEGIN_TIMEOUT_S
        asyncio.get_running_loop().call_later(timeout_s, self._expire, job_id)

    def get(self, job_id: int) -> Offer | None:
        return self._offers.get(job_id)

    def _expire(self, job_id: int) -> None:
        offer = self._offers.get(job_id)
        if offer is not None and offer.state is OfferState.OPEN:
            offer.state = OfferState.EXPIRED
            offer.output.abandon()

    def _forget_one(self) -> None:
        over = next((job_id for job_id, offer in self._offers.items() if offer.state is not OfferState.OPEN), None)
        if over is None:
            raise CallError("Too many downloads wait to be fetched; fetch some first", errno.EBUSY)
        del self._offers[over]
