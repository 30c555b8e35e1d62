"""Secrets in texts: tokens, passwords in addresses, signatures in their queries."""

import json

import pytest

from lit_memories.storage.hub import fetch, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@host/data", "https://***@host/data"),
        ("s3://me:p@55@host:9000/data", "s3://***@host:9000/data"),
        ("https://me:p#5?5@host/data", "https://***@host/data"),
        ("see https://pa55@host/a and http://me:pa55@b/c", "see https://***@host/a and http://***@b/c"),
        ("https://host/data?token=pa55&split=train", "https://host/data?token=***&split=train"),
        ("https://host/data?split=a&access_token=pa55#top", "https://host/data?split=a&access_token=***#top"),
        ("https://host/f?X-Amz-Signature=pa55&X-Amz-Credential=pa55", None),
        ("https://host/f?sv=2&sig=pa55%3D", "https://host/f?sv=2&sig=***"),
        ("https://host/f?AWSAccessKeyId=a&Signature=pa55", "https://host/f?AWSAccessKeyId=a&Signature=***"),
        ("https://host/f?API_KEY=pa55", "https://host/f?API_KEY=***"),
        ("https://host/#access_token=pa55", "https://host/#access_token=***"),
        ("Authorization: Bearer pa55", "Authorization: Bearer ***"),
        ("hf_pa55pa55pa55pa55pa55", "***"),
    ],
)
def test_a_secret_is_left_out(text: str, shown: str | None) -> None:
    found = redact(text)
    assert "55" not in found
    assert found == (shown or found)
    assert redact(found) == found


@pytest.mark.parametrize(
    "text",
    [
        "https://host/user/model@v1",
        "hf://datasets/user/name@main/file",
        "user/model@v1?",
        "tokenizer=3, token=4",
        "mail me@host.org",
        "https://host/page?design=1&step=2",
        "hf_hub_download of the_hf_model",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_json_stays_json() -> None:
    """Even with letters that are written as numbers, and quotes within."""
    values = {"a": "https://mé:pässwörd@host/x", "b": 'say "https://host/?token=sécret" twice', "c": ["Bearer x\ny"]}
    found = json.loads(redact(json.dumps(values)))
    assert found == {"a": "https://***@host/x", "b": 'say "https://host/?token=***" twice', "c": ["Bearer ***\ny"]}


def test_an_address_that_is_no_model_is_not_repeated_with_its_password() -> None:
    with pytest.raises(FileNotFoundError, match=r"^https://\*\*\*@host/model: there is no such file or folder$"):
        fetch("https://me:pa55@host/model", lambda files: files)
