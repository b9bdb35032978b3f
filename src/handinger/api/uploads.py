"""Instructions with files: as `multipart/form-data`, or as JSON that carries them.

Everything is read and checked before anything is stored. Large files wait in temporary ones, which
vanish with the process.
"""

import asyncio
import base64
import binascii
import contextlib
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from handinger.api import json_text
from handinger.api.deps import body_stream, check_body, read_json, services_of
from handinger.api.links import LinkedFile
from handinger.api.models.instructions import FileInput, WorkerContinue
from handinger.attachments import Attachment, IncomingFile
from handinger.errors import InvalidInput, MalformedRequest
from handinger.settings import Settings
from handinger.web.urls import WebUrl

Instruction = TypeVar("Instruction", bound=WorkerContinue)

_MULTIPART = "multipart/form-data"
# Not more memory than this for each file; the rest is on the disk.
_SPOOL_BYTES = 64 * 1024
_MAX_FIELD_BYTES = 1024 * 1024
_MAX_FIELDS = 100
_FILES_FIELD = re.compile(r"files(\[\d*\])?")
_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<parameters>[^,]*),(?P<data>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sent(Generic[Instruction]):
    """An instruction as it was sent: what was checked, what it is known by, and its files."""

    body: Instruction
    fields: dict[str, Any]
    files: tuple[IncomingFile | LinkedFile, ...]
    is_multipart: bool

    @property
    def has_links(self) -> bool:
        """Whether a file of it has to be fetched first."""
        return any(isinstance(file, LinkedFile) for file in self.files)

    def identity(self, attached: tuple[Attachment, ...]) -> dict[str, Any]:
        """What another request must have in common to be the same one.

        The bytes of a multipart body will not do: its boundary changes with every attempt.
        """
        if not self.is_multipart:
            return self.fields
        told = [
            [file.filename, file.media_type, stored.sha256]
            for file, stored in zip(self.files, attached, strict=True)
        ]
        return {**self.fields, "files": told}


@contextlib.asynccontextmanager
async def read_instruction(
    request: Request, model: type[Instruction]
) -> AsyncGenerator[Sent[Instruction]]:
    """The body, checked, in either form. Its files can be read within the block.

    Raises UnsupportedMediaType, BodyTooLarge, MalformedRequest, InvalidInput.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() != _MULTIPART:
        body, fields = await read_json(request, model)
        incoming = await asyncio.to_thread(_read_files, body.files) if body.files else ()
        yield Sent(body, fields, incoming, is_multipart=False)
        return
    form = await _read_form(request)
    try:
        fields, uploads = await _sorted(form, services_of(request).settings)
        body = check_body(model, fields)
        incoming = tuple(
            IncomingFile(upload.filename, upload.content_type, upload.file) for upload in uploads
        )
        yield Sent(body, fields, incoming, is_multipart=True)
    finally:
        await form.close()


class _Parser(MultiPartParser):
    """Stricter than the framework's own: a text must be UTF-8, and the body must be whole."""

    spool_max_size = _SPOOL_BYTES
    is_whole = False

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            try:
                self._current_part.data.decode()
            except UnicodeDecodeError as error:
                name = self._current_part.field_name
                raise MultiPartException(f"The field {name[:80]!r} is not UTF-8.") from error
        super().on_part_end()

    def on_end(self) -> None:
        self.is_whole = True


async def _read_form(request: Request) -> FormData:
    settings = services_of(request).settings
    limit = settings.max_multipart_bytes
    parser = _Parser(
        request.headers,
        body_stream(request, limit, variable="HANDINGER_MAX_MULTIPART_BYTES"),
        # One more, so that the domain tells what the limit is.
        max_files=settings.max_attachments + 1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        message = error.message.removesuffix(".")
        raise MalformedRequest(
            f"The multipart body cannot be read: {message}.", code="malformed_multipart"
        ) from error
    if not parser.is_whole:
        await form.close()
        raise MalformedRequest(
            "The multipart body ends before its closing boundary; send it again.",
            code="malformed_multipart",
        )
    return form


async def _sorted(form: FormData, settings: Settings) -> tuple[dict[str, Any], list[UploadFile]]:
    """The fields as JSON would have them, and the files. Raises InvalidInput, BodyTooLarge."""
    fields: dict[str, Any] = {}
    uploads: list[UploadFile] = []
    for name, value in form.multi_items():
        if _FILES_FIELD.fullmatch(name):
            if isinstance(value, str):
                raise InvalidInput.of(
                    "must be sent as files, each with a filename (curl: -F files=@PATH)", "files"
                )
            # What a browser sends for a file that was not chosen.
            if value.filename or value.size:
                uploads.append(value)
        elif name in ("input", "budget", "stream", "metadata"):
            if not isinstance(value, str):
                raise InvalidInput.of("must be sent as a text, without a filename", name)
            if name in fields:
                raise InvalidInput.of("was sent twice", name)
            fields[name] = await _field(name, value, settings)
    return fields, uploads


async def _field(name: str, text: str, settings: Settings) -> object:
    if name == "stream":
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if name == "metadata":
        try:
            return await json_text.read(text.encode(), max_values=settings.max_json_values)
        except MalformedRequest as error:
            raise InvalidInput.of(f"must be JSON: {error.message}", name) from error
    return text


def _read_files(inputs: Sequence[FileInput]) -> tuple[IncomingFile | LinkedFile, ...]:
    """The files that a JSON body carries or names. Raises InvalidInput."""
    return tuple(_read_file(file, number) for number, file in enumerate(inputs))


def _read_file(file: FileInput, number: int) -> IncomingFile | LinkedFile:
    """The file that JSON carries or names. Raises InvalidInput."""
    if file.url is None:
        if file.data is None:
            raise InvalidInput.of(
                "is needed: the bytes in base64, or as a data: URL; or else `url`",
                *("files", number, "data"),
            )
        return _decode(file, file.data, number, "data")
    if file.data is not None:
        raise InvalidInput.of("cannot be sent together with `data`", "files", number, "url")
    if file.url[:5].lower() == "data:":
        return _decode(file, file.url, number, "url")
    url = WebUrl.parse(file.url)
    if url is None:
        raise InvalidInput.of(
            "is no URL that can be fetched: http:// or https://, a host, and no password in it",
            *("files", number, "url"),
        )
    return LinkedFile(file.filename, file.mediaType, url, number)


def _decode(file: FileInput, text: str, number: int, field: str) -> IncomingFile:
    media_type = file.mediaType
    url = _DATA_URL.fullmatch(text)
    try:
        if url is None:
            content = _from_base64(text)
        else:
            media_type = media_type or url["type"]
            content = unquote_to_bytes(url["data"])
            if url["parameters"].lower().endswith(";base64"):
                content = _from_base64(content.decode("ascii"))
    except (binascii.Error, ValueError) as error:
        raise InvalidInput.of(
            f"is neither base64 nor a data: URL ({error})", "files", number, field
        ) from error
    return IncomingFile(file.filename, media_type, content)


def _from_base64(text: str) -> bytes:
    """Raises ValueError."""
    if text.find("=", 0, -2) >= 0:
        raise ValueError("Excess data after padding")
    # It can be cut after every fourth character, so after every piece.
    return b"".join(base64.b64decode(piece, validate=True) for piece in json_text.pieces(text))
