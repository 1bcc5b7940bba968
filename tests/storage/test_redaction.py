import pytest

from pipeline.storage.redaction import public_uri, redact

CASES = {
    "s3://bucket/a b/c+d%20é.wav": "s3://bucket/a b/c+d%20é.wav",
    "/data/a?token=1.wav": "/data/a?token=1.wav",  # not a URI: a file may have this name
    "https://user:secret@host/a.wav": "https://host/a.wav",
    "https://ghp_abcdef@host/a.wav": "https://host/a.wav",
    "sftp://user:secret@host/a.wav": "sftp://host/a.wav",
    "abfs://container@account.dfs.core.windows.net/a": (
        "abfs://container@account.dfs.core.windows.net/a"
    ),
    "https://h/a?X-Amz-Algorithm=x&X-Amz-Credential=k%2F1&X-Amz-Signature=s": "https://h/a",
    "https://h/a?AWSAccessKeyId=K&Signature=s%3D&Expires=1": "https://h/a",
    "https://h/a?X-Goog-Signature=1&generation=2": "https://h/a?generation=2",
    "https://h/a?OSSAccessKeyId=1&Expires=2&Signature=3": "https://h/a",
    "https://h.blob.core.windows.net/a?sv=1&se=2&sr=b&sp=r&sig=abc%3D": (
        "https://h.blob.core.windows.net/a"
    ),
    "https://h/a?id=5&token=abc": "https://h/a?id=5",
    "https://h/a?access_token=abc&page=2": "https://h/a?page=2",
    "https://h/a?keyword=one&monkey=2": "https://h/a?keyword=one&monkey=2",
}


@pytest.mark.parametrize("uri", CASES)
def test_a_public_uri_has_no_credentials(uri: str) -> None:
    assert public_uri(uri) == CASES[uri]


@pytest.mark.parametrize("uri", CASES)
def test_a_public_uri_is_not_changed_again(uri: str) -> None:
    assert public_uri(public_uri(uri)) == public_uri(uri)


def test_a_message_loses_only_its_credentials() -> None:
    message = (
        "ClientError: GET 'https://me:pw@host/a.wav?id=5&X-Amz-Signature=abc123' gave 403; "
        "see sftp://you:word@other/ and https://h/?token=t0k3n please"
    )
    assert redact(message) == (
        "ClientError: GET 'https://***@host/a.wav?id=5&X-Amz-Signature=***' gave 403; "
        "see sftp://***@other/ and https://h/?token=*** please"
    )


def test_a_message_without_credentials_is_unchanged() -> None:
    for message in ("s3://bucket/a@b.wav: not found", "rate=5; token count 3", "a@b.c: d"):
        assert redact(message) == message
