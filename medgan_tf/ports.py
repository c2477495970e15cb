"""Takes a port to listen at, or says why it cannot be had."""

from __future__ import annotations

import socket

from medgan_tf import errors


def listen(flag: str, host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
      flag: by which a user chose the port.
      host: an address, or a name of this machine.
      port: its number; 0: any that is free.

    Raises:
      ResourceError: the port is in use, or not for this user or machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise errors.ResourceError(
            f"--{flag}: cannot listen at {host}:{port} "
            f"({error.strerror or error}); choose another."
        ) from error
