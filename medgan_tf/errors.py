"""What can go wrong for a user, and the exit code a script then ends with.

Every message is one line that says what was found, what was expected and
what to do. A script prints it and exits with the code of its class; in a
library call these are ordinary exceptions.
"""


class MedganError(ValueError):
    """Base of all errors that a user can mend; `exit_code` is the script's."""

    exit_code = 1


class UsageError(MedganError):
    """A flag or argument is wrong."""

    exit_code = 1


class DataError(MedganError):
    """An image, a manifest or a set of records is not usable."""

    exit_code = 3


def refusal(where: object, found: str, expected: str, remedy: str) -> DataError:
    """The error for a file or folder `where` that is not usable."""
    return DataError(f"{where}: found {found}, expected {expected}; {remedy}.")


class DivergedError(MedganError):
    """Training produced numbers that are not finite."""

    exit_code = 4


class ArtefactError(MedganError):
    """A run folder, checkpoint or exported model does not fit the request."""

    exit_code = 5


class ResourceError(MedganError):
    """Disk, memory, network or permission is missing."""

    exit_code = 6


class PeerLostError(MedganError):
    """Another process of the cluster is gone: worth another try."""

    exit_code = 75


class ClusterError(MedganError):
    """The processes of a cluster did not find each other in time."""

    exit_code = 142


class Stopped(MedganError):
    """A signal ended the run after its state was saved."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code
