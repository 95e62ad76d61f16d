"""Which paths and URLs are understood, and what of them is shown."""

from __future__ import annotations

import pytest

from tart_ray.config import RerankConfig, StorageConfig
from tart_ray.errors import LocationError
from tart_ray.locations import check_location, open_filesystem, printable, without_secrets


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("a/b.jsonl", "a/b.jsonl"),
        ("~/a", "~/a"),
        ("2024:01/a::b", "2024:01/a::b"),
        ("/data/http://x", "/data/http://x"),
        ("file:///x y/z", "/x y/z"),
        ("FILE:///x", "/x"),
        ("file:/x", "/x"),
        ("file://localhost/x", "/x"),
        ("s3://b/in/*.jsonl?", "s3://b/in/*.jsonl?"),
        ("S3://Bucket/Key", "s3://Bucket/Key"),
        ("s3a://b", "s3a://b"),
        ("s3://b/a@b:c", "s3://b/a@b:c"),
        ("s3://arn:aws:s3:us-west-2:123456789012:accesspoint/ap/k", None),
        ("GS://b/x", "gs://b/x"),
        ("gcs://b/x", "gcs://b/x"),
        ("az://c/x", "az://c/x"),
        ("abfss://c/x", "abfss://c/x"),
        ("hf://datasets/owner/name@main/x.jsonl", None),
    ],
)
def test_what_is_supported(given: str, understood: str | None) -> None:
    assert check_location(given) == (understood or given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "got an empty path, expected a local path"),
        ("http://h/x", "http://h/x: http: is not supported; expected a local path"),
        ("hdfs://n:8020/x", "hdfs://n:8020/x: hdfs: is not supported"),
        ("hdfs:/x", "hdfs: is not supported"),
        ("memory://x", "memory: is not supported"),
        ("nonsense://x", "nonsense: is not supported"),
        ("simplecache::s3://b/x", "simplecache: is not supported"),
        (" s3://b/x", "got ' s3://b/x', expected"),
        ("s3:/bucket/x", "did you mean s3://bucket/x?"),
        ("S3:bucket", "did you mean s3://bucket?"),
        ("gs:/bucket", "did you mean gs://bucket?"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("file:x", "expected file:///path"),
        ("file://server/x", "expected file:///path"),
        ("abfss://c@account.dfs.core.windows.net/x", "storage.az: {account_name"),
    ],
)
def test_everything_else_is_refused_in_one_sentence(given: str, said: str) -> None:
    with pytest.raises(LocationError) as caught:
        check_location(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "s3://AKIA:hunter2@bucket/x",
        "s3://AKIA:hun/ter2@bucket/x",
        "s3://hunter2@bucket/x",
        "s3:/AKIA:hunter2@bucket/x",
        "https://user:hunter2@host/x",
        "https://user:hun/ter2@host/x",
        "gs://b/x?token=hunter2",
        "s3://b/x?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2",
        "az://c/x?sv=1&sig=hunter2",
        "abfss://c:hunter2@account.dfs.core.windows.net/x",
        "hf://user:hunter2@datasets/x",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(given: str) -> None:
    with pytest.raises(LocationError) as caught:
        check_location(given)
    for told in (str(caught.value), printable(f"cannot read '{given}': {given}")):
        assert "hunter2" not in told
        assert "ter2" not in told
        assert "***" in told


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:8333/bucket/key", "s3://b/c?.x and https://[::1]:80/x", "at 12:30, see a@b", "s3://b/k@v/x:y"],
)
def test_what_holds_no_secret_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_secrets_among_options_are_taken_out_of_a_text() -> None:
    options = {"account_name": "acme", "token": {"private_key": "hunter2", "type": "authorized_user"}, "key": "a"}
    text = "acme: hunter2 of authorized_user is a bad key"
    assert without_secrets(text, options) == "acme: *** of *** is a bad key"


def test_a_missing_package_is_named() -> None:
    for scheme, package in {"gs": "gcsfs", "abfs": "adlfs"}.items():
        with pytest.raises(LocationError, match=rf"not installed \(.*\): pip install {package}, on every node"):
            open_filesystem(f"{scheme}://bucket/x", {})


def test_what_is_only_read_is_no_output() -> None:
    assert check_location("hf://datasets/a/b") == "hf://datasets/a/b"
    with pytest.raises(LocationError, match="hf:// can only be read"):
        check_location("hf://datasets/a/b", written=True)


def test_every_store_has_options_of_its_own() -> None:
    config = StorageConfig(key="s3-key", gs={"token": "gs-token"}, az={"account_name": "acme"}, hf={"token": "hf"})
    found = {scheme: config.fsspec_options(f"{scheme}://b/x") for scheme in ("s3a", "GS", "gcs", "abfss", "hf")}
    assert found["s3a"]["key"] == "s3-key"
    assert found["GS"] == found["gcs"] == {"use_listings_cache": False, "token": "gs-token"}
    assert found["abfss"] == {"use_listings_cache": False, "account_name": "acme"}
    assert found["hf"] == {"token": "hf"}
    assert config.fsspec_options("/local") == config.fsspec_options("file:///local") == {}
    assert not [text for text in (repr(config), config.model_dump_json()) if "gs-token" in text or "s3-key" in text]
    assert StorageConfig.model_validate(config.model_dump()) == config


def test_a_configuration_checks_its_places() -> None:
    def config(**input_: str) -> RerankConfig:
        return RerankConfig.model_validate({"input": input_, "output": {"path": "FILE:///out"}})

    assert config(candidates="S3://b/x").input.candidates == "s3://b/x"
    assert config(candidates="x").output.path == "/out"
    with pytest.raises(ValueError, match=r"input.corpus\n.*hdfs: is not supported"):
        config(candidates="x", corpus="hdfs://x")
