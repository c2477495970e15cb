"""An end to the wait for processes that never come.

While TensorFlow waits for its peers it holds Python's lock: no signal handler
and no thread of Python runs, and it has no time limit of its own. So a timer of
the operating system ends this process, and a small child, which looks for the
peers itself, says which of them are missing.

Not `signal.alarm`: the first process of a container, as on Kubernetes, is not
ended by a signal that it does not handle.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from medgan_tf import errors
from medgan_tf.training import cluster as clusters

# So long the child may look for peers before the process ends.
LOOK_S = 5
_CLOCK_MONOTONIC = 1
_SIGEV_THREAD = 2

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def limited(cluster: clusters.Cluster, timeout_s: int) -> Iterator[None]:
    """Ends the process with exit code 142 unless the body does in time.

    Ctrl-C ends it at once. SIGTERM does not, while it waits: TensorFlow has
    caught it by then.

    Args:
      cluster: who is waited for.
      timeout_s: seconds, at least 1; up to `LOOK_S` more to say who is
        missing.

    Raises:
      errors.ClusterError: the port of this process is taken.
    """
    _check_port(cluster)
    _log.info(
        "Worker %d of %s waits up to %d s for the others.",
        cluster.index,
        ", ".join(cluster.addresses),
        timeout_s,
    )
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    handler = signal.getsignal(signal.SIGTERM)
    teller = subprocess.Popen(
        [
            *(sys.executable, "-m", __spec__.name),
            *(str(timeout_s), str(cluster.index), *cluster.addresses),
        ],
        stdin=subprocess.PIPE,
        # The modules that this process runs, not others that are installed.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
    )
    try:
        with _ended_after(timeout_s + LOOK_S, errors.ClusterError.exit_code):
            yield
    finally:
        teller.stdin.close()
        teller.wait()
        signal.signal(signal.SIGINT, before)
        # Because TensorFlow has put its own in place, which does nothing.
        signal.signal(signal.SIGTERM, handler)


def missing(cluster: clusters.Cluster, timeout_s: float = 1) -> list[str]:
    """The other addresses where nobody listens, each with the reason."""
    found = []
    for index, address in enumerate(cluster.addresses):
        host, _, port = address.rpartition(":")
        if index == cluster.index:
            continue
        try:
            socket.create_connection(
                (host.strip("[]"), int(port)), timeout_s
            ).close()
        except OSError as error:
            found.append(f"{address} ({error.strerror or error})")
    return found


def _check_port(cluster: clusters.Cluster) -> None:
    # As TensorFlow does; it would share the port with another that shares it.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        socket.create_server(
            ("", cluster.port),
            family=family,
            dualstack_ipv6=family == socket.AF_INET6,
        ).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE and error.errno != errno.EACCES:
            raise
        raise errors.ClusterError(
            f"port {cluster.port} of worker {cluster.index} "
            f"({', '.join(cluster.addresses)}) cannot be opened "
            f"({error.strerror}); end the other program, or choose another "
            f"port in {clusters.VARIABLE}."
        ) from error


class _Event(ctypes.Structure):
    """`struct sigevent` of Linux, 64 bytes."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("rest", ctypes.c_char * 32),
    ]


class _Times(ctypes.Structure):
    """`struct itimerspec`: the interval, then the first time."""

    _fields_ = [(name, ctypes.c_long) for name in ("is", "ins", "s", "ns")]


@contextlib.contextmanager
def _ended_after(seconds: int, exit_code: int) -> Iterator[None]:
    """The system calls `_exit(exit_code)` in a thread of its own, not Python's.

    See timer_create(2), SIGEV_THREAD.
    """
    library = ctypes.CDLL(None, use_errno=True)
    event = _Event(
        value=exit_code,
        notify=_SIGEV_THREAD,
        function=ctypes.cast(library._exit, ctypes.c_void_p),
    )
    timer = ctypes.c_void_p()
    if library.timer_create(
        _CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)
    ):
        raise OSError(ctypes.get_errno(), "timer_create")
    library.timer_settime(timer, 0, ctypes.byref(_Times(s=seconds)), None)
    try:
        yield
    finally:
        library.timer_delete(timer)


def _tell(timeout_s: int, cluster: clusters.Cluster) -> None:
    """In the child: says who is missing, unless the parent ends before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if select.select([sys.stdin], [], [], timeout_s)[0]:
        return
    until = time.monotonic() + LOOK_S - 1
    share = max(0.1, (LOOK_S - 2) / len(cluster.addresses))
    absent = missing(cluster, share) if time.monotonic() < until else []
    print(
        f"The cluster did not form within {timeout_s} s: worker "
        f"{cluster.index} tried {', '.join(cluster.addresses)}; no answer from "
        f"{', '.join(absent) or 'TensorFlow, though all of them listen'}; "
        "start every worker, with the same addresses.",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    _tell(
        int(sys.argv[1]),
        clusters.Cluster(tuple(sys.argv[3:]), int(sys.argv[2])),
    )
