"""Serves an exported model over HTTP and gRPC.

The protocols are those of TensorFlow Serving (REST: /v1/models/NAME:predict)
and of KServe and Triton (Open Inference Protocol, REST /v2/models/NAME/infer
and gRPC). Health is at /v2/health/live and /v2/health/ready, counts for
Prometheus at /metrics. NAME is the name of the model's folder. There is no
password and no encryption: by default only programs on this machine can ask.

Needs pip install 'medgan_tf[serve]'. Clients are in docs/serving.md.

Examples:
  serve.py --model=models/mr_ct
  serve.py --model=models/mr_ct --page
"""

from __future__ import annotations

import ipaddress
import pathlib
import sys

from absl import flags

from medgan_tf import errors
from medgan_tf.tools import _run

_MODEL = flags.DEFINE_string(
    "model", None, "Folder that export.py wrote.", required=True
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen at; 0.0.0.0: all the network's."
)
_PORT = flags.DEFINE_integer(
    "port", 8501, "For HTTP; 0: any that is free.", 0, 65535
)
_GRPC_PORT = flags.DEFINE_integer(
    "grpc_port", 8500, "For gRPC; 0: any that is free.", 0, 65535
)
_PAGE = flags.DEFINE_bool(
    "page", False, "Also a page for the browser, at /page/, to try volumes on."
)
_MAX_BODY_MB = flags.DEFINE_float(
    "max_body_mb",
    32.0,
    "Largest request, in MB; the page has a limit of its own.",
    0.001,
    2000.0,
)


def main(_: list[str]) -> None:
    _run.import_tensorflow()
    arguments = sys.argv
    try:
        # Because KServe reads the command line when it is imported.
        sys.argv = arguments[:1]
        from medgan_tf.serving.server import app, served
        from medgan_tf.serving.server import desk as desks
    except ImportError as error:
        raise errors.UsageError(
            f"serve.py needs KServe ({error}); pip install 'medgan_tf[serve]'."
        ) from error
    finally:
        sys.argv = arguments
    from medgan_tf.serving import predict

    model = predict.load(_MODEL.value)
    name, version = app.name_and_version(pathlib.Path(_MODEL.value))
    routers = []
    if _PAGE.value:
        from medgan_tf.serving import page

        routers.append(page.router(model))
    answering = served.Served(model)
    answering.warm_up()

    def started(port: int, grpc_port: int) -> None:
        host = f"[{_HOST.value}]" if ":" in _HOST.value else _HOST.value
        if not _is_local(_HOST.value):
            print(
                f"Whoever reaches {host} can ask: there is no password and no "
                "encryption."
            )
        print(model.info["intended_use"])
        print(f"Model {name}, version {version}: {model.info['title']}")
        if _PAGE.value:
            print(f"Page: http://{host}:{port}{page.PREFIX}/")
        print(
            f"Serving at http://{host}:{port}, gRPC at {host}:{grpc_port}",
            flush=True,
        )

    app.serve(
        desks.Desk(answering, name, version),
        host=_HOST.value,
        port=_PORT.value,
        grpc_port=_GRPC_PORT.value,
        max_body_mb=_MAX_BODY_MB.value,
        routers=routers,
        started=started,
    )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
