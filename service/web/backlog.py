"""The backlog: clients that the kernel has connected, and that no worker has accepted yet.

Closing the listening socket resets their connections, although they may have sent a request. So a
filter on the socket first makes the kernel drop the packets that ask for a connection (SYN). The
others pass, so connections that are being established become complete, and the workers accept them
all. A client whose packet was dropped sends it again after a
second, and is refused then.

https://www.kernel.org/doc/html/latest/networking/filter.html
"""

import ctypes
import os
import socket
import struct
import sys
from contextlib import suppress

# Of asm/socket.h; Python has no name for it.
_SO_ATTACH_FILTER = 26

# Each instruction has an operation, how many instructions to skip if it is true and if it is false,
# and an operand. The filter sees a packet from its TCP header on.
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load byte 13 of the header, the flags
        (0x45, 0, 1, 0x02),  # is SYN among them?
        (0x06, 0, 0, 0),  # yes: keep no byte of the packet
        (0x06, 0, 0, 0xFFFFFFFF),  # no: keep all
    )
)


def connect_no_more(file: int) -> None:
    """Let the kernel connect no further clients to a socket, for all processes that share it.

    Where there are no such filters, this does nothing, and the clients that are in the backlog when
    the socket is closed are reset.

    Args:
        file: the file descriptor of the listening socket.
    """
    if sys.platform != "linux":
        return
    instructions = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    program = struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(instructions))
    with (
        suppress(OSError),  # not every sandbox has filters
        socket.socket(fileno=os.dup(file)) as listening,
    ):
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
