"""Every name of a query parameter that counts as a credential, one by one."""

import re

import pytest

from pipeline.storage.redaction import public_uri, redact

# https://docs.aws.amazon.com (SigV4, SigV2, CloudFront), cloud.google.com/storage/docs
# (signed URLs), alibabacloud.com (OSS) and learn.microsoft.com (SAS, user delegation SAS)
SIGNED = [
    *("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature"),
    *("X-Amz-Security-Token", "X-Amz-SignedHeaders", "X-Goog-Signature", "X-Goog-Credential"),
    *("x-oss-signature", "x-oss-credential", "AWSAccessKeyId", "GoogleAccessId"),
    *("OSSAccessKeyId", "Signature", "Expires", "Policy", "Key-Pair-Id"),
]
AZURE = [
    *("sig", "se", "sp", "sv", "sr", "ss", "srt", "st", "spr", "sip"),
    *("skoid", "sktid", "skt", "ske", "sks", "skv"),
]
BY_HAND = [
    *("token", "secret", "key", "apikey", "password", "passwd", "pwd", "auth", "credential"),
    *("credentials", "access_token", "api-key", "client_secret", "db_password", "x-auth", "my_pwd"),
]
HARMLESS = [
    *("id", "page", "part", "version", "versionId", "generation", "revision", "lang", "channel"),
    *("start", "end", "format"),
]


@pytest.mark.parametrize("name", [*SIGNED, *AZURE, *BY_HAND])
def test_a_credential_is_never_written_down(name: str) -> None:
    """Whatever stands beside it, and however its name is spelled."""
    for spelling in (name, name.lower(), name.upper()):
        for query in (f"{spelling}=s3cr%2Ft", f"id=5&{spelling}=s3cr%2Ft&page=2"):
            uri = f"https://host/a.wav?{query}"
            assert "s3cr" not in public_uri(uri)
            assert "s3cr" not in redact(f"GET '{uri}' failed: 403")
            assert public_uri(uri).startswith("https://host/a.wav")
    shown = redact(f"GET https://host/a.wav?id=5&{name}=s3cr&page=2 failed")
    assert shown == f"GET https://host/a.wav?id=5&{name}=***&page=2 failed"
    assert {"id=5", "page=2"} < set(re.split("[?&]", public_uri(shown.split()[1])))


@pytest.mark.parametrize("name", HARMLESS)
def test_a_name_that_chooses_an_object_keeps_its_value(name: str) -> None:
    uri = f"https://host/a.wav?{name}=1"
    assert public_uri(uri) == redact(uri) == uri


def test_a_user_without_a_password_is_a_credential_on_the_web_only() -> None:
    assert redact("https://ghp_token@host/a") == "https://***@host/a"
    assert public_uri("https://ghp_token@host/a") == "https://host/a"
    assert redact("abfs://container@account/a") == "abfs://container@account/a"
    assert public_uri("abfs://container@account/a") == "abfs://container@account/a"


@pytest.mark.parametrize("user", ["user:", "user:pw", "us%40er:p%3Aw!", ":pw"])
def test_a_user_with_a_password_is_removed_from_every_address(user: str) -> None:
    for scheme in ("https", "ftp", "sftp", "abfs"):
        assert public_uri(f"{scheme}://{user}@host/a") == f"{scheme}://host/a"
        assert redact(f"see {scheme}://{user}@host/a") == f"see {scheme}://***@host/a"
