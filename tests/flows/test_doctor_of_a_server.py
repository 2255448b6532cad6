"""What `graft doctor` says of a real Prefect server."""

from __future__ import annotations

from pathlib import Path

from prefect.settings import PREFECT_API_URL, temporary_settings

from commands.checks import prefect_api
from tests.flows.local_prefect import LocalPrefect


def test_a_server_as_prefect_ships_it_is_open_to_browsers_and_has_nobody_to_work(
    prefect_server: LocalPrefect, tmp_path: Path
) -> None:
    (tmp_path / "prefect.yaml").write_text(
        "deployments: [{name: a, work_pool: {name: gpu}}, {name: b, work_pool: {name: nowhere}}]"
    )
    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        answers, origins, tokens = prefect_api.protected(10)
        assert (answers.level, "whoever is on this machine" in answers.found) == ("ok", True)
        assert (origins.code, "CORS" in origins.found) == (2, True)
        assert (tokens.code, "CSRF" in tokens.found) == (2, True)
        nobody, missing = prefect_api.workers(tmp_path)
        assert (nobody.check, nobody.code, "none is online" in nobody.found) == ("workers gpu", 5, True)
        assert (missing.code, "no such work pool" in missing.found) == (5, True)
