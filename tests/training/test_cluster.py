"""Several processes train as one, start as one and end as one.

Each process of a cluster is a real one, on this machine, over loopback. None
outlives its test.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.training import cluster, forming

TWO = ["a:1", "b:2"]
WORKER_0 = {"type": "worker", "index": 0}


def described(addresses=TWO, task=WORKER_0):
    return {"cluster": {"worker": addresses}, "task": task}


@pytest.mark.parametrize(
    ("content", "addresses", "index"),
    [
        (described(), ("a:1", "b:2"), 0),
        (described(task={"type": "worker", "index": 1}), ("a:1", "b:2"), 1),
        # As launchers write it.
        (described(task={"type": "worker", "index": "1"}), ("a:1", "b:2"), 1),
        (
            {
                "cluster": {
                    "worker": ["10.0.0.2:2", "[::1]:65535"],
                    "chief": ["x-y.z_0:1"],
                },
                "task": {"type": "worker", "index": 1},
                "environment": "cloud",
            },
            ("x-y.z_0:1", "10.0.0.2:2", "[::1]:65535"),
            2,
        ),
    ],
)
def test_a_sound_tf_config_is_read(content, addresses, index):
    found = cluster.parse(json.dumps(content))
    assert (found.addresses, found.index) == (addresses, index)
    assert found.port == int(addresses[index].rpartition(":")[2])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "TF_CONFIG, which is not set"),
        ("", "TF_CONFIG, which is not set"),
        ("{", "is no JSON"),
        ("[]", "TF_CONFIG is [], expected an object"),
        ({}, "field cluster is null"),
        ({"cluster": {}}, "field cluster is {}"),
        ({"cluster": TWO}, "field cluster is ["),
        ({"cluster": {"ps": ["a:1"]}}, 'field cluster is "ps"'),
        ({"cluster": {"worker": "a:1"}}, 'field cluster.worker is "a:1"'),
        (described([]), "field cluster.worker is []"),
        (described(["a:1", 2]), "field cluster.worker[1] is 2"),
        (described(["a", "b:1"]), 'field cluster.worker[0] is "a"'),
        (described(["a:1", "b:0"]), 'field cluster.worker[1] is "b:0"'),
        (described(["a:1", "b:65536"]), 'cluster.worker[1] is "b:65536"'),
        (described(["http://a:1"]), 'cluster.worker[0] is "http://a:1"'),
        (described(["a:1", "b:2", "A:1"]), "another than cluster.worker[0]"),
        (
            {"cluster": {"chief": TWO}, "task": WORKER_0},
            'field cluster.chief is ["a:1", "b:2"], expected one address',
        ),
        ({"cluster": {"worker": TWO}}, "field task is null"),
        (described(task="worker"), 'field task is "worker"'),
        (described(task={"index": 0}), "field task.type is null"),
        (
            described(task={"type": "evaluator", "index": 0}),
            'field task.type is "evaluator", expected one of cluster: worker',
        ),
        (described(task={"type": "worker"}), "field task.index is null"),
        *(
            (
                described(task={"type": "worker", "index": index}),
                f"field task.index is {json.dumps(index)}, expected 0 to 1",
            )
            for index in (2, -1, 1.0, True, "x", "2", [0])
        ),
    ],
)
def test_what_is_wrong_in_tf_config_is_named(content, words):
    text = content
    if isinstance(content, dict):
        text = json.dumps(content)
    with pytest.raises(errors.UsageError) as caught:
        cluster.parse(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def free_ports(count):
    """Ports that are free now."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_a_port_that_is_taken_is_told_at_once():
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        here = cluster.Cluster((f"localhost:{port}", "other:1"), 0)
        with pytest.raises(errors.ClusterError, match=f"port {port}") as caught:
            with forming.limited(here, 1):
                raise AssertionError("it began to wait")
    assert "other:1" in str(caught.value)
    assert caught.value.exit_code == 142


# Waits as TensorFlow does: with Python's lock.
WAIT = """
import ctypes, signal, sys
from medgan_tf.training import cluster, forming
with forming.limited(cluster.Cluster(tuple(sys.argv[2:]), 0), int(sys.argv[1])):
    print("waits", flush=True)
    if sys.argv[1] == "1":
        ctypes.PyDLL(None).sleep(60)
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.slow
def test_the_wait_for_a_peer_that_never_starts_ends_and_names_it():
    here, absent = (f"localhost:{port}" for port in free_ports(2))
    with socket.create_server(("localhost", 0)) as listening:
        there = f"localhost:{listening.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", WAIT, "1", here, there, absent],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 142
    (line,) = done.stderr.splitlines()
    assert f"tried {here}, {there}, {absent}" in line
    assert f"no answer from {absent} (Connection refused);" in line


@pytest.mark.slow
def test_once_the_others_are_there_nothing_of_the_wait_is_left():
    here, absent = (f"localhost:{port}" for port in free_ports(2))
    done = subprocess.run(
        [sys.executable, "-c", WAIT, "2", here, absent],
        capture_output=True,
        text=True,
        timeout=30,
    )
    # By the signal that it then sent itself, and without a word.
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


# A large epsilon keeps Adam from dividing noise by noise: with 1e-3 a batch in
# two parts, in one process, ends 2e-3 from the same batch at once.
TINY = (
    "--task=mr_ct",
    "--method=pix2pix",
    *("--set=ngf=4", "--set=ndf=4", "--set=epsilon=1"),
    *("--set=generator_updates=1", "--set=l1=0", "--set=l2=100"),
    *("--batch_size=2", "--precision=float32", "--summary_every=1"),
    *("--image_every=1000000", "--validate_every=1000000"),
)
# For one that is stuck; none takes half of it.
HARD_LIMIT_S = 250


@pytest.fixture(scope="module")
def data(write_records, tmp_path_factory):
    """Records of two small patients to train on."""
    folder = tmp_path_factory.mktemp("cluster") / "data"
    write_records(folder, ("train", "train"))
    return folder


class Workers:
    """Processes that train together; killed when the test is over."""

    def __init__(self, data: pathlib.Path, folder: pathlib.Path):
        self.workdir = folder / "run"
        self._data, self._folder = data, folder
        self._processes = []

    def start(self, *arguments, count=2, each=((), ())):
        """Starts all of them; `each` has what only one of them is told."""
        self.stop()
        addresses = [f"localhost:{port}" for port in free_ports(count)]
        for index in range(count):
            config = described(addresses, {"type": "worker", "index": index})
            temporary = self._folder / f"tmp{index}"
            temporary.mkdir(exist_ok=True)
            environment = {**os.environ, "TMPDIR": str(temporary)}
            environment.pop("TF_CONFIG", None)
            if count > 1:
                environment["TF_CONFIG"] = json.dumps(config)
            with self._said(index).open("w") as said:
                self._processes.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "medgan_tf.tools.train"),
                            *(*TINY, f"--data_dir={self._data}"),
                            *(f"--workdir={self.workdir}", *arguments),
                            *each[index],
                        ],
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=said,
                        # With what it started itself.
                        start_new_session=True,
                    )
                )

    def stop(self):
        for process in self._processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        self._processes = []

    def signal(self, index, number):
        self._processes[index].send_signal(number)

    def codes(self, *indices, limit_s=HARD_LIMIT_S):
        """Exit codes of these, or of all."""
        end = time.monotonic() + limit_s
        return [
            self._processes[index].wait(max(0.1, end - time.monotonic()))
            for index in indices or range(len(self._processes))
        ]

    def are_gone(self, index):
        """Whether a process that has ended left none that it started."""
        try:
            os.killpg(self._processes[index].pid, 0)
        except ProcessLookupError:
            return True
        return False

    def said(self, index):
        return self._said(index).read_text()

    def _said(self, index):
        return self._folder / f"said{index}"

    def steps(self):
        """Of every step that was logged, in the order of the file."""
        path = self.workdir / "metrics.jsonl"
        if not path.exists():
            return []
        # The last line may be half-written.
        whole = path.read_text().rpartition("\n")[0]
        rows = map(json.loads, whole.splitlines())
        return [row["step"] for row in rows if "loss/generator_total" in row]

    def wait_for_step(self, step):
        end = time.monotonic() + HARD_LIMIT_S
        while max(self.steps(), default=0) < step:
            codes = [process.poll() for process in self._processes]
            assert codes == [None] * len(codes), self.said(0) + self.said(1)
            assert time.monotonic() < end
            time.sleep(0.05)

    def state(self):
        """Name -> array of the last checkpoint, each of which is read."""
        import tensorflow as tf

        checkpoints = (self.workdir / "checkpoints").glob("ckpt-*.index")
        last = max(int(path.stem.rpartition("-")[2]) for path in checkpoints)
        reader = tf.train.load_checkpoint(
            str(self.workdir / "checkpoints" / f"ckpt-{last}")
        )
        return {
            name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            if not name.startswith(("_CHECKPOINTABLE", "save_counter"))
        }


@pytest.fixture
def workers(data, tmp_path):
    found = Workers(data, tmp_path)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The state after twenty steps of one process."""
    found = Workers(data, tmp_path_factory.mktemp("alone"))
    found.start("--max_steps=20", count=1)
    try:
        assert found.codes() == [0], found.said(0)
    finally:
        found.stop()
    return found.state()


def assert_near(found, expected):
    """The weights; each step of Adam moves them by up to 2e-4."""
    names = [
        name
        for name in expected
        if name.startswith(("generator/", "discriminator/", "projection/"))
    ]
    assert len(names) > 20
    for name in names:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(workers, alone):
    workers.start("--max_steps=20")
    assert workers.codes() == [0, 0], workers.said(0) + workers.said(1)
    assert_near(workers.state(), alone)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "victim"), [(signal.SIGTERM, 1), (signal.SIGINT, 0)]
)
def test_a_signal_to_one_stops_all_after_the_same_step_and_none_is_lost(
    workers, alone, number, victim
):
    workers.start("--max_steps=20")
    workers.wait_for_step(int(np.random.default_rng().integers(1, 15)))
    workers.signal(victim, number)
    assert workers.codes() == [128 + number] * 2, workers.said(1)
    step = int(workers.state()["step/.ATTRIBUTES/VARIABLE_VALUE"])
    for index in (0, 1):
        assert f"by {number.name} at step {step} of 20" in workers.said(index)
    workers.start("--max_steps=20")
    assert workers.codes() == [0, 0], workers.said(0) + workers.said(1)
    assert workers.steps() == list(range(1, 21))
    assert_near(workers.state(), alone)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "victim", "limit_s"),
    [(signal.SIGKILL, 1, 30), (signal.SIGKILL, 0, 30), (signal.SIGSTOP, 0, 60)],
)
def test_a_peer_that_is_gone_is_noticed_by_the_other(
    workers, number, victim, limit_s
):
    workers.start("--save_every=2")
    # A step is logged before it is saved.
    workers.wait_for_step(5)
    workers.signal(victim, number)
    other = 1 - victim
    start = time.monotonic()
    assert workers.codes(other, limit_s=limit_s) == [75], workers.said(other)
    print(f"noticed after {time.monotonic() - start:.1f} s")
    assert "another worker has ended" in workers.said(other).splitlines()[-1]
    assert workers.are_gone(other)
    assert workers.state()["step/.ATTRIBUTES/VARIABLE_VALUE"] >= 4


@pytest.mark.slow
def test_workers_with_other_flags_are_refused_in_all_of_them(workers):
    workers.start(each=((), ["--seed=1", "--set=l2=3"]))
    assert workers.codes() == [5, 5], workers.said(0) + workers.said(1)
    for index in (0, 1):
        last = workers.said(index).splitlines()[-1]
        assert "worker 1 has seed=1 (worker 0: 0)" in last
    assert not workers.workdir.exists()


@pytest.mark.slow
@pytest.mark.faults
def test_an_error_of_the_chief_ends_all_with_its_code(workers):
    workers.start("--set=learning_rate=1e30", "--max_steps=40")
    assert workers.codes() == [4, 4], workers.said(0) + workers.said(1)
    assert "by worker 0, which says why" in workers.said(1)


@pytest.mark.slow
def test_a_training_whose_peer_never_starts_ends(workers):
    workers.start("--cluster_timeout_s=1")
    workers.signal(1, signal.SIGKILL)
    assert workers.codes(0) == [142]
    assert "no answer from localhost" in workers.said(0).splitlines()[-1]
