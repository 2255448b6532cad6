"""One real Prefect server for the session's flow tests; tests that stop or kill one make their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.local_prefect import LocalPrefect
from tests.flows.toy import STAGES, Toy


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPrefect]:
    """A running server with the pools `cpu` and `gpu` (one training at a time), without workers or deployments."""
    with LocalPrefect(tmp_path_factory.mktemp("prefect")) as server:
        server.create_pool("cpu")
        server.create_pool("gpu", limit=1)
        yield server


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A checkout that `dvc repro` took through all stages; tests copy it."""
    toy = Toy(tmp_path_factory.mktemp("made") / "toy")
    assert toy.repro() == list(STAGES)
    toy.commit("Lock")
    toy.forget()
    return toy
