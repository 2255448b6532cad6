"""`python -m flows.pipeline`: the flow's parameters as arguments, its end as an exit code."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from ruamel.yaml import YAML

from flows.redact import has_login, redact
from flows.run import STAGES, exit_code
from flows.tether import tether


def main(pipeline: Flow[..., State[Any]]) -> None:
    """Run the flow once; exit 0, or with the code of the stage that failed.

    Without PREFECT_API_URL, Prefect starts a temporary server for the run; with it, the run appears there.
    """
    asked = _parser().parse_args()
    tether()
    _answering()
    state: State[Any] = pipeline(
        targets=asked.targets or None,
        force=asked.force,
        overrides=dict(asked.set),
        ref=asked.ref,
        wait=asked.wait,
        gpu_pool=asked.gpu_pool,
        gpu_remote=asked.gpu_remote,
        promote=asked.promote,
        verify=asked.verify,
        return_state=True,
    )
    sys.exit(exit_code(state))


def _answering() -> None:
    """Exit 5 with one line where PREFECT_API_URL names a server that does not answer."""
    address = PREFECT_API_URL.value()
    if address is None:
        return
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        sys.stderr.write(
            f"Prefect's API at {redact(str(address))} does not answer ({problem}); start it (make up), or unset "
            "PREFECT_API_URL to run with a temporary server\n"
        )
        sys.exit(5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run the pipeline once, here.")
    parser.add_argument(
        "targets", nargs="*", choices=[*STAGES, []], metavar="stage", help=f"one of {', '.join(STAGES)}"
    )
    parser.add_argument("--force", action="store_true", help="run stages even where nothing changed")
    parser.add_argument(
        "-S", "--set", action="append", default=[], type=_override, metavar="KEY=VALUE",
        help="a params.yaml key for this run, as fine_tune.tail.epochs=12; may be repeated",
    )  # fmt: skip
    parser.add_argument("--ref", help="branch, tag or commit to run")
    parser.add_argument(
        "--wait", type=float, default=3600.0, help="seconds to wait while another run holds the checkout"
    )
    parser.add_argument("--gpu-pool", help="work pool for stages marked `resource: gpu`")
    parser.add_argument("--gpu-remote", help="DVC remote to GPU workers with their own clone")
    parser.add_argument(
        "--promote", choices=["off", "decide", "promote"], default="off", help="what `graft promote` does after export"
    )
    parser.add_argument("--verify", action="store_true", help="hash every recorded output first")
    return parser


def _override(text: str) -> tuple[str, object]:
    """`key=value`, the value read as YAML so that numbers, booleans and lists are what they look like."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"received {text!r}; must be KEY=VALUE, as in fine_tune.seed=2")
    if has_login(value):  # here, for Prefect stores what a flow is called with
        raise argparse.ArgumentTypeError(
            f"{key}: received {redact(str(value))!r}, an address with a login; put it into ~/.netrc"
        )
    return key, YAML(typ="safe").load(value)
