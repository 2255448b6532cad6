"""What is shown has no password in it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from flows import checkout, command_line, plan
from flows.faults import WrongRequest
from flows.redact import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fetch https://me:pw@host/a.zip failed", "fetch https://***@host/a.zip failed"),
        ("postgresql+asyncpg://u:p@db/prefect", "postgresql+asyncpg://***@db/prefect"),
        ("aws_secret_access_key = abc, next", "aws_secret_access_key = ***, next"),
        ("{'token': 'zz', 'seed': 3}", "{'token': '***', 'seed': 3}"),
        ("account_key = abc", "account_key = ***"),
        ("connection_string = Endpoint=a;AccountKey=b", "connection_string = ***"),
        ("PREFECT_API_AUTH_STRING=user:pw", "PREFECT_API_AUTH_STRING=***"),
        ("fine_tune: 30 % head epoch 9 of 20, val accuracy 0.9642", None),
        ("s3://bucket/key@version, tokens per second: 3", None),
    ],
)
def test_redact(text: str, shown: str | None) -> None:
    assert redact(text) == (shown or text)


def test_a_plan_shows_no_password_of_a_parameter() -> None:
    shown = plan._change(*map(plan._value, ["https://me:pw@host/a.zip?token=zz", "https://me:other@host/b.zip"]))
    assert not any(secret in shown for secret in ("pw", "other", "zz", "me:"))
    assert "host/a.zip" in shown
    assert "host/b.zip" in shown


def test_an_override_with_a_login_is_refused_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("download: {source: digits}\n")
    address = "https://me:pw@host.example/a.zip"
    with pytest.raises(WrongRequest, match=r"~/\.netrc") as refused:
        checkout.override(path, {"download.source": address})
    with pytest.raises(argparse.ArgumentTypeError, match=r"~/\.netrc") as unparsed:
        command_line._override(f"download.source={address}")
    assert not any("pw" in str(caught.value) for caught in (refused, unparsed))
    assert path.read_text() == "download: {source: digits}\n"
    checkout.override(path, {"download.source": "https://host.example/pkg@1.0/a.zip"})
    assert "pkg@1.0" in path.read_text()
