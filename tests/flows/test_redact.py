"""What is shown has no password in it."""

from __future__ import annotations

import pytest

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
