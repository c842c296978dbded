"""libiscsi through ctypes: the calls that `iscsi` makes, and nothing decided here.

Types and calls: iscsi/iscsi.h and iscsi/scsi-lowlevel.h of libiscsi 1.19 (libiscsi.so.7); its later releases (.8, .9)
kept the part of `struct scsi_task` that is declared here. Only for 64-bit machines.
"""

import ctypes
import enum
from typing import Any

from middlewared.ports import PortError

NAMES = ("libiscsi.so.7", "libiscsi.so.9", "libiscsi.so.8")
SESSION_NORMAL = 2  # enum iscsi_session_type
DIGEST_NONE = 0  # enum iscsi_header_digest: the network's own check sums have to do
NO_LUN = -1  # of iscsi_full_connect_async: log in, and test no unit


class Transfer(enum.IntEnum):
    """enum scsi_xfer_dir."""

    NONE = 0
    READ = 1
    WRITE = 2


class Ending(enum.IntEnum):
    """How a command ended that has no SCSI status, enum scsi_status."""

    CANCELLED = 0x0F00_0000
    ERROR = 0x0F00_0001
    TIMEOUT = 0x0F00_0002


class TaskFunction(enum.IntEnum):
    """Task management functions, RFC 7143 11.5.1."""

    ABORT_TASK = 1
    LOGICAL_UNIT_RESET = 5


NO_TASK = 0xFFFF_FFFF  # Referenced Task Tag of functions that concern no single task
FUNCTION_COMPLETE = 0  # RFC 7143 11.6.1
TASK_DOES_NOT_EXIST = 1

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class ScsiTask(ctypes.Structure):
    """The beginning of `struct scsi_task`."""

    _fields_ = (
        ("status", ctypes.c_int),
        ("cdb_bytes", ctypes.c_int),
        ("transfer", ctypes.c_int),
        ("expected_bytes", ctypes.c_int),
        ("cdb", ctypes.c_ubyte * 16),
        ("residual_kind", ctypes.c_int),
        ("residual", ctypes.c_size_t),
        ("sense", ctypes.c_ubyte * 16),  # taken apart by the library; we want it raw, and find it in the data
        ("data_bytes", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("memory", ctypes.c_void_p),
        ("private", ctypes.c_void_p),
        ("tag", ctypes.c_uint32),  # Initiator Task Tag
        ("sequence", ctypes.c_uint32),  # CmdSN
    )


class Library:
    """The loaded library. Every function returns what the C function does: 0, or less than 0 for a failure."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        self._loaded = loaded
        self.create_context = self._bind("iscsi_create_context", pointer, text)
        self.destroy_context = self._bind("iscsi_destroy_context", number, pointer)
        self.set_target_name = self._bind("iscsi_set_targetname", number, pointer, text)
        self.set_session_type = self._bind("iscsi_set_session_type", number, pointer, number)
        self.set_header_digest = self._bind("iscsi_set_header_digest", number, pointer, number)
        self.set_isid_random = self._bind("iscsi_set_isid_random", number, pointer, ctypes.c_uint32, ctypes.c_uint32)
        self.set_no_reconnect = self._bind("iscsi_set_noautoreconnect", None, pointer, number)
        self.full_connect = self._bind("iscsi_full_connect_async", number, pointer, text, number, CALLBACK, pointer)
        self.get_fd = self._bind("iscsi_get_fd", number, pointer)
        self.which_events = self._bind("iscsi_which_events", number, pointer)
        self.service = self._bind("iscsi_service", number, pointer, number)
        self.out_queue_length = self._bind("iscsi_out_queue_length", number, pointer)
        self.get_error = self._bind("iscsi_get_error", text, pointer)
        self.create_task = self._bind(
            "scsi_create_task", ctypes.POINTER(ScsiTask), number, ctypes.c_char_p, number, number
        )
        self.free_task = self._bind("scsi_free_scsi_task", None, ctypes.POINTER(ScsiTask))
        self.add_data_out = self._bind(
            "scsi_task_add_data_out_buffer", number, ctypes.POINTER(ScsiTask), number, ctypes.c_char_p
        )
        self.command = self._bind(
            "iscsi_scsi_command_async",
            number,
            pointer,
            number,
            ctypes.POINTER(ScsiTask),
            CALLBACK,
            pointer,
            pointer,
        )
        self.cancel_task = self._bind("iscsi_scsi_cancel_task", number, pointer, ctypes.POINTER(ScsiTask))
        # not iscsi_task_mgmt_lun_reset_async and its like: they cancel what is under way on every other unit too
        self.task_management = self._bind(
            "iscsi_task_mgmt_async",
            number,
            pointer,
            number,
            number,
            ctypes.c_uint32,
            ctypes.c_uint32,
            CALLBACK,
            pointer,
        )

    def _bind(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._loaded, name)
        function.restype, function.argtypes = result, arguments
        return function

    def error(self, context: int) -> str:
        """The library's words for what failed last."""
        text: bytes = self.get_error(context) or b""
        return text.decode(errors="replace").strip() or "no reason given"


def load(names: tuple[str, ...] = NAMES) -> Library:
    """The library of this host. Raises PortError with the remedy."""
    for name in names:
        try:
            loaded = ctypes.CDLL(name)
        except OSError:
            continue
        try:
            library = Library(loaded)
        except AttributeError as error:
            raise PortError(
                f"{name} is not the libiscsi that we know: {error}; install libiscsi 1.19 or later"
            ) from error
        _check_layout(library, name)
        return library
    raise PortError("libiscsi is not installed: apt-get install libiscsi7")


def _check_layout(library: Library, name: str) -> None:
    """A task whose fields are not where we look for them must not be touched."""
    cdb = bytes(range(10))
    task = library.create_task(len(cdb), cdb, Transfer.READ, 4711)
    fields = task.contents
    found = (fields.cdb_bytes, fields.transfer, fields.expected_bytes, bytes(fields.cdb)[:10], fields.data_bytes)
    library.free_task(task)
    if found != (10, Transfer.READ, 4711, cdb, 0):
        raise PortError(f"{name}: its commands are laid out differently; install libiscsi 1.19")
