"""The same store over the S3 protocol, against a server in this process that speaks just enough of it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from mailgate.blobs import BlobMissingError, BlobStore, BlobStoreError, Erased

KEY = bytes(range(32))
MAIL = b"Subject: hello\r\n\r\n" + b"a line of a mail\r\n" * 500


class Bucket(ThreadingHTTPServer):
    """Objects and uploads in memory; `failing` answers every request with that status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.log: list[str] = []
        self.failing = 0
        self.protected: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self) -> None:
        parts = urlsplit(self.path)
        name = unquote(parts.path).removeprefix("/bucket/")
        query = parse_qs(parts.query, keep_blank_values=True)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.log.append(f"{self.command} {name}")
        if self.server.failing:
            self.answer(self.server.failing)
        elif self.command == "POST" and "uploads" in query:
            self.server.uploads[name] = {}
            self.answer(200, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
        elif self.command == "PUT" and "partNumber" in query:
            self.server.uploads[name][int(query["partNumber"][0])] = body
            self.answer(200, ETag='"part"')
        elif self.command == "POST" and "delete" in query:
            self.answer(200, self.delete_many(re.findall(r"<Key>([^<]*)</Key>", body.decode())))
        elif self.command == "POST":
            pieces = self.server.uploads.pop(name)
            self.server.objects[name] = b"".join(pieces[number] for number in sorted(pieces))
            self.answer(200, b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
        elif self.command == "PUT":
            self.server.objects[name] = body
            self.answer(200, ETag='"whole"')
        elif self.command == "DELETE":
            self.server.objects.pop(name, None)  # S3 says 204 whether there was one or not
            self.answer(204)
        elif name in self.server.objects:
            content = self.server.objects[name]
            headers = {"ETag": '"x"', "Last_Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
            self.answer(200, content, Content_Length=str(len(content)), **headers)
        else:
            self.answer(404)

    def delete_many(self, names: list[str]) -> bytes:
        """DeleteObjects: 200 for the whole, an outcome for each; a name that is not there counts as deleted."""
        answers = []
        for name in names:
            if name in self.server.protected:
                answers.append(f"<Error><Key>{name}</Key><Code>AccessDenied</Code><Message>no</Message></Error>")
            else:
                self.server.objects.pop(name, None)
                answers.append(f"<Deleted><Key>{name}</Key></Deleted>")
        return f"<DeleteResult>{''.join(answers)}</DeleteResult>".encode()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815 - http.server looks for these names


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    server = Bucket()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def store(bucket: Bucket) -> BlobStore:
    return BlobStore.open(
        "s3://bucket",
        options={
            "endpoint": f"http://127.0.0.1:{bucket.server_port}",
            "access_key_id": "key",
            "secret_access_key": "secret",
            "region": "eu-central-1",
        },
        client_options={"allow_http": True, "timeout": "5s"},
        retries=1,
    )


async def test_put_read_and_erase(store: BlobStore, bucket: Bucket) -> None:
    stored = store.put("t", "blob0001", MAIL, KEY)
    store.settle()
    ((name, content),) = bucket.objects.items()
    assert name.endswith("/blob0001")
    assert len(content) == stored
    assert b"a line" not in content
    assert store.read_bytes("t", "blob0001", KEY, len(MAIL), limit=100_000) == MAIL
    assert b"".join([piece async for piece in store.read("t", "blob0001", KEY, len(MAIL))]) == MAIL
    assert await store.exists("blob0001")
    assert await store.erase("blob0001") is Erased.gone
    assert bucket.objects == {}
    assert await store.erase("blob0001") is Erased.missing
    with pytest.raises(BlobMissingError):
        store.read_bytes("t", "blob0001", KEY, len(MAIL), limit=100_000)


async def test_a_huge_blob_is_uploaded_in_parts_and_seen_when_complete(store: BlobStore, bucket: Bucket) -> None:
    data = os.urandom(20_000_000)
    writer = store.writer("t", "blob0002", KEY)
    for at in range(0, len(data), 1 << 20):
        writer.write(data[at : at + (1 << 20)])
    assert bucket.objects == {}
    stored = writer.finish()
    assert [len(content) for content in bucket.objects.values()] == [stored]
    assert b"".join([piece async for piece in store.read("t", "blob0002", KEY, len(data))]) == data


async def test_a_failing_store_is_an_error_that_may_be_retried(store: BlobStore, bucket: Bucket) -> None:
    store.put("t", "blob0003", MAIL, KEY)
    for status in (500, 403):
        bucket.failing = status
        with pytest.raises(BlobStoreError):
            store.put("t", "blob0004", MAIL, KEY)
        with pytest.raises(BlobStoreError):
            await store.erase("blob0003")
        with pytest.raises(BlobStoreError):
            await store.exists("blob0003")
        with pytest.raises(BlobStoreError):
            store.read_bytes("t", "blob0003", KEY, len(MAIL), limit=100_000)
        (outcome,) = await store.erase_many(["blob0003"])
        assert isinstance(outcome, BlobStoreError)
        assert "secret" not in str(outcome)
    bucket.failing = 0
    assert await store.erase_many(["blob0003", "blob0009"]) == [Erased.gone, Erased.missing]


async def test_one_object_that_cannot_be_deleted_hides_no_other(store: BlobStore, bucket: Bucket) -> None:
    """The protocol answers 200 and puts the failure inside: it must not count as erased."""
    store.put("t", "blob0005", MAIL, KEY)
    bucket.protected = set(bucket.objects)
    store.put("t", "blob0006", MAIL, KEY)
    failed, gone = await store.erase_many(["blob0005", "blob0006"])
    assert isinstance(failed, BlobStoreError)
    assert gone is Erased.gone
    assert await store.exists("blob0005")
