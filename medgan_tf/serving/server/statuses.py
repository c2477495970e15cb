"""What a server refuses, in the words of gRPC and the numbers of HTTP.

The words are gRPC's canonical codes, which TensorFlow's errors carry too; the
HTTP status of each is TensorFlow Serving's, so that a client need not know
which server it asks.
"""

from __future__ import annotations

from medgan_tf import errors

# In the order of their numbers, from 1 on (gRPC, "Status codes").
_WORDS = (
    ("CANCELLED", 499),
    ("UNKNOWN", 500),
    ("INVALID_ARGUMENT", 400),
    ("DEADLINE_EXCEEDED", 504),
    ("NOT_FOUND", 404),
    ("ALREADY_EXISTS", 409),
    ("PERMISSION_DENIED", 403),
    ("RESOURCE_EXHAUSTED", 429),
    ("FAILED_PRECONDITION", 400),
    ("ABORTED", 409),
    ("OUT_OF_RANGE", 400),
    ("UNIMPLEMENTED", 501),
    ("INTERNAL", 500),
    ("UNAVAILABLE", 503),
    ("DATA_LOSS", 500),
    ("UNAUTHENTICATED", 401),
)
HTTP = dict(_WORDS)


class RefusedError(errors.MedganError):
    """A request that gets no answer, and why in one line.

    Attributes:
      status: a key of HTTP.
    """

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status

    @property
    def http(self) -> int:
        """The HTTP status."""
        return HTTP[self.status]


def invalid(where: str, found: str, expected: str) -> RefusedError:
    """The caller's error: what was found, and what was expected."""
    return RefusedError(
        "INVALID_ARGUMENT", f"{where}: found {found}, expected {expected}."
    )


def of_number(number: int) -> str:
    """The word for a number of gRPC; UNKNOWN where there is none."""
    if 1 <= number <= len(_WORDS):
        return _WORDS[number - 1][0]
    return "UNKNOWN"
