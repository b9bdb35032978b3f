"""An object store on loopback that speaks as much of S3 as our client of it does.

Signatures are computed anew and compared, so that a request without the secret gets nothing.
"""

import hashlib
import hmac
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.support.threaded import ThreadedServer

REGION = "eu-central-1"
MODIFIED = formatdate(1_700_000_000, usegmt=True)

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request,"
    r" ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class S3Server(ThreadedServer):
    """One bucket. `objects` may be looked into at any time.

    `seen` are methods and targets, `ranges` what was read of objects that were not read whole.
    """

    bucket: str = "files"
    key_id: str = "AKIATESTTESTTEST"
    secret: str = "a secret of the store's"
    page: int = 1000  # objects in one answer to a list
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    seen: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    ranges: list[str] = field(default_factory=list[str])
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict[str, dict[int, bytes]])
    failing: bool = False  # answers everything with 503
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        class Handler(_Handler):
            store = self

        self._listen(Handler)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a client finds this store."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }

    def new_upload(self) -> str:
        """The id of an upload in parts."""
        upload = f"upload-{next(self._numbers)}"
        self.uploads[upload] = {}
        return upload


class _Handler(BaseHTTPRequestHandler):
    store: S3Server
    protocol_version = "HTTP/1.1"
    # Else an answer waits for the acknowledgement of its head.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests look at `seen`."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # The client was killed, or has read enough.
            self.close_connection = True

    def _act(self) -> None:
        store = self.store
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        store.seen.append((self.command, self.path))
        target = urlsplit(self.path)
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        bucket, _, key = unquote(target.path).removeprefix("/").partition("/")
        if store.failing:
            self._refuse(503, "SlowDown")
        elif not _is_signed(store, self.command, self.path, dict(_lower(self.headers)), body):
            self._refuse(403, "SignatureDoesNotMatch")
        elif bucket != store.bucket:
            self._refuse(404, "NoSuchBucket")
        elif not key:
            self._act_on_bucket(query, body)
        elif "uploads" in query or "uploadId" in query:
            self._act_on_upload(key, query, body)
        else:
            self._act_on_object(key, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _act

    def _act_on_bucket(self, query: Mapping[str, str], body: bytes) -> None:
        if self.command == "GET":
            self._list(query.get("prefix", ""), query.get("continuation-token", ""))
        elif self.command == "POST" and "delete" in query:
            gone = [
                element.text or ""
                for element in ElementTree.fromstring(body).iter()
                if element.tag.rpartition("}")[2] == "Key"
            ]
            for key in gone:
                self.store.objects.pop(key, None)
            told = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in gone)
            self._tell(200, f"<DeleteResult>{told}</DeleteResult>".encode())
        else:
            self._refuse(400, "InvalidRequest")

    def _list(self, prefix: str, after: str) -> None:
        objects = self.store.objects
        keys = sorted(key for key in [*objects] if key.startswith(prefix) and key > after)
        page, more = keys[: self.store.page], len(keys) > self.store.page
        told = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(objects[key])}</Size>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{_tag(objects[key])}</ETag></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._tell(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{told}{token}"
            "</ListBucketResult>".encode(),
        )

    def _act_on_upload(self, key: str, query: Mapping[str, str], body: bytes) -> None:
        store, upload = self.store, query.get("uploadId", "")
        if "uploads" in query:
            told = f"<UploadId>{store.new_upload()}</UploadId>"
            self._tell(
                200,
                f"<InitiateMultipartUploadResult>{told}</InitiateMultipartUploadResult>".encode(),
            )
        elif upload not in store.uploads:
            self._refuse(404, "NoSuchUpload")
        elif self.command == "PUT":
            store.uploads[upload][int(query["partNumber"])] = body
            self._tell(200, headers={"ETag": _tag(body)})
        elif self.command == "POST":
            parts = store.uploads.pop(upload)
            store.objects[key] = b"".join(parts[number] for number in sorted(parts))
            tag = f"<ETag>{_tag(store.objects[key])}</ETag>"
            self._tell(
                200,
                f"<CompleteMultipartUploadResult>{tag}</CompleteMultipartUploadResult>".encode(),
            )
        else:
            del store.uploads[upload]
            self._tell(204)

    def _act_on_object(self, key: str, body: bytes) -> None:
        objects = self.store.objects
        if self.command == "PUT":
            objects[key] = body
            self._tell(200, headers={"ETag": _tag(body)})
        elif self.command == "DELETE":
            objects.pop(key, None)
            self._tell(204)
        elif (content := objects.get(key)) is None:
            self._refuse(404, "NoSuchKey")
        else:
            self._send(content)

    def _send(self, content: bytes) -> None:
        headers = {"ETag": _tag(content), "Last-Modified": MODIFIED}
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None:
            self._tell(200, content, headers)
            return
        self.store.ranges.append(wanted[0])
        start, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if start > last:
            self._refuse(416, "InvalidRange")
            return
        headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
        self._tell(206, content[start : last + 1], headers)

    def _refuse(self, status: int, code: str) -> None:
        self._tell(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _tell(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _lower(headers: "Message[str, str]") -> Iterator[tuple[str, str]]:
    return ((name.lower(), value) for name, value in headers.items())


def _tag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _is_signed(
    store: S3Server, method: str, target: str, headers: Mapping[str, str], body: bytes
) -> bool:
    """Whether the request is signed with the store's secret, in version 4 of that scheme."""
    found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if found is None or (found[1], found[3]) != (store.key_id, REGION):
        return False
    claimed = headers.get("x-amz-content-sha256", "")
    if claimed not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
        return False
    url = urlsplit(target)
    pairs = sorted(parse_qsl(url.query, keep_blank_values=True))
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    canonical = "\n".join(
        (
            method,
            url.path,
            query,
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in found[4].split(";")),
            "",
            found[4],
            claimed,
        )
    )
    scope = f"{found[2]}/{REGION}/s3/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    told = f"AWS4-HMAC-SHA256\n{headers.get('x-amz-date', '')}\n{scope}\n{hashed}"
    key = f"AWS4{store.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(hmac.new(key, told.encode(), "sha256").hexdigest(), found[5])
