"""Who works together: what the environment variable TF_CONFIG says.

Read field by field before TensorFlow starts, because TensorFlow takes much of
what is wrong there for a peer that is late, and waits.
"""

from __future__ import annotations

import dataclasses
import json
import re

from medgan_tf import errors, json_files

VARIABLE = "TF_CONFIG"
# What can train with collectives: a parameter server or evaluator cannot.
TASK_TYPES = ("chief", "worker")
EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
# A name, an IPv4 address or an IPv6 one in brackets, and a port.
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a training, and which of them this one is.

    Attributes:
      addresses: "host:port" of each; the first one is the chief's.
      index: of this process among them.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def port(self) -> int:
        """Of this process."""
        return int(self.addresses[self.index].rpartition(":")[2])


def parse(text: str | None) -> Cluster:
    """What TF_CONFIG describes.

    Args:
      text: its value; None: it is not set.

    Raises:
      errors.UsageError: it is not set or no JSON, or a field, which is named,
        is missing or wrong.
    """
    if not text:
        raise errors.UsageError(
            f"--distribute=multiworker needs {VARIABLE}, which is not set; "
            f"expected {EXAMPLE}."
        )
    try:
        content = json_files.loads(text)
    except ValueError as error:
        raise errors.UsageError(
            f"{VARIABLE} is no JSON ({error}); expected {EXAMPLE}."
        ) from error
    if not isinstance(content, dict):
        raise _refusal("", text, "an object")
    jobs = _jobs(content.get("cluster"))
    kind, index = _task(content.get("task"), jobs)
    addresses = [a for name in TASK_TYPES for a in jobs.get(name, ())]
    # The chief of a cluster that has one is its only one.
    before = len(jobs.get("chief", ())) if kind == "worker" else 0
    return Cluster(tuple(addresses), before + index)


def _jobs(found: object) -> dict[str, list[str]]:
    if not isinstance(found, dict) or not found:
        raise _refusal("cluster", found, "task types with their addresses")
    seen = {}
    for name, addresses in found.items():
        if name not in TASK_TYPES:
            raise _refusal(
                "cluster", name, f"task types {' and '.join(TASK_TYPES)} alone"
            )
        where = f"cluster.{name}"
        if not isinstance(addresses, list) or not addresses:
            raise _refusal(where, addresses, 'a list of "host:port"')
        if name == "chief" and len(addresses) > 1:
            raise _refusal(where, addresses, "one address")
        for i, address in enumerate(addresses):
            here = f"{where}[{i}]"
            match = isinstance(address, str) and _ADDRESS.fullmatch(address)
            if not match or not 0 < int(match.group(2)) < 65536:
                raise _refusal(here, address, '"host:port", port 1 to 65535')
            if address.lower() in seen:
                raise _refusal(
                    here, address, f"another than {seen[address.lower()]}"
                )
            seen[address.lower()] = here
    return found


def _task(found: object, jobs: dict[str, list[str]]) -> tuple[str, int]:
    if not isinstance(found, dict):
        raise _refusal("task", found, 'an object with "type" and "index"')
    kind, index = found.get("type"), found.get("index")
    if not isinstance(kind, str) or kind not in jobs:
        raise _refusal("task.type", kind, f"one of cluster: {', '.join(jobs)}")
    count = len(jobs[kind])
    # TensorFlow takes a string too, such as launchers write.
    if isinstance(index, str) and re.fullmatch("[0-9]+", index):
        index = int(index)
    if type(index) is not int or not 0 <= index < count:
        raise _refusal(
            "task.index",
            found.get("index"),
            f"0 to {count - 1}, as cluster.{kind} has {count} "
            f"address{'' if count == 1 else 'es'}",
        )
    return kind, index


def _refusal(field: str, found: object, expected: str) -> errors.UsageError:
    shown = found if field == "" else json.dumps(found)
    return errors.UsageError(
        f"{VARIABLE}{f': field {field}' if field else ''} is {shown}, "
        f"expected {expected}; such as {EXAMPLE}."
    )
