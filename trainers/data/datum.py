"""Caffe's `Datum` message: what one LMDB value holds.

Two dialects are in use. Caffe's own keeps the bytes in field 4 beside a label and sizes; a one-field message keeps
them in field 1. Field 1 of the former is a varint, of the latter length-delimited, so a value is never both: protobuf
sets a field of the wrong wire type aside as unknown, and the dialect is the one whose `data` is then present.
"""

from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from search_space.errors import UserError

IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""First bytes of a JPEG and of a PNG."""

_FIELD = descriptor_pb2.FieldDescriptorProto
_CAFFE_FIELDS = (
    ("channels", 1, _FIELD.TYPE_INT32, _FIELD.LABEL_OPTIONAL),
    ("height", 2, _FIELD.TYPE_INT32, _FIELD.LABEL_OPTIONAL),
    ("width", 3, _FIELD.TYPE_INT32, _FIELD.LABEL_OPTIONAL),
    ("data", 4, _FIELD.TYPE_BYTES, _FIELD.LABEL_OPTIONAL),
    ("label", 5, _FIELD.TYPE_INT32, _FIELD.LABEL_OPTIONAL),
    ("float_data", 6, _FIELD.TYPE_FLOAT, _FIELD.LABEL_REPEATED),
    ("encoded", 7, _FIELD.TYPE_BOOL, _FIELD.LABEL_OPTIONAL),
)
_BARE_FIELDS = (("data", 1, _FIELD.TYPE_BYTES, _FIELD.LABEL_OPTIONAL),)


def _message_types() -> tuple[Any, Any]:
    """The two message classes, built here so that no generated file ties us to one protobuf version."""
    file = descriptor_pb2.FileDescriptorProto(name="lfs_datum.proto", package="lfs_datum", syntax="proto2")
    for name, fields in (("Datum", _CAFFE_FIELDS), ("BareDatum", _BARE_FIELDS)):
        message = file.message_type.add(name=name)
        for field_name, number, kind, label in fields:
            message.field.add(name=field_name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()  # a pool of our own: Caffe in the same process may define `Datum` too
    pool.Add(file)
    caffe, bare = (pool.FindMessageTypeByName(f"lfs_datum.{name}") for name in ("Datum", "BareDatum"))
    return message_factory.GetMessageClass(caffe), message_factory.GetMessageClass(bare)


_Caffe, _Bare = _message_types()


class Datum(NamedTuple):
    """One picture as stored."""

    data: bytes
    """A JPEG or PNG file if `encoded`, else uint8 pixels in the order channel (B, G, R), row, column."""

    label: int
    encoded: bool
    channels: int
    """0 where the message does not say, as `height` and `width`."""

    height: int
    width: int


def decode_datum(value: bytes) -> Datum:
    """Parse one LMDB value of either dialect.

    Bytes count as `encoded` if the message says so, or if they begin like a JPEG or PNG and are not as many as the
    message's sizes ask for (writers that leave `encoded` out are common).

    Raises:
        UserError: not a Datum, a Datum without bytes, or raw bytes that do not match the sizes. The message names
            neither file nor key; the caller knows them.
    """
    try:
        message = _Caffe.FromString(value)
    except DecodeError:
        raise UserError(
            f"expected a Caffe Datum, got {len(value)} bytes that are no such message{_hint(value)}"
        ) from None
    if not message.data:
        return _decode_bare(value)
    data, channels, height, width = message.data, message.channels, message.height, message.width
    looks_encoded = len(data) != channels * height * width and data.startswith(IMAGE_SIGNATURES)
    if not (encoded := message.encoded or looks_encoded):
        _check_raw(message)
    return Datum(data, message.label, encoded, channels, height, width)


def encode_datum(
    data: bytes, label: int = 0, *, encoded: bool = True, shape: tuple[int, int, int] | None = None
) -> bytes:
    """Serialise one picture in Caffe's dialect.

    Args:
        data: the JPEG or PNG file, or raw uint8 pixels (channel, row, column) with `encoded=False`.
        shape: (channels, height, width); required for raw pixels.
    """
    message = _Caffe(data=data, label=label, encoded=encoded)
    if shape is not None:
        message.channels, message.height, message.width = shape
    if not encoded:
        _check_raw(message)
    return bytes(message.SerializeToString())


def _decode_bare(value: bytes) -> Datum:
    data = _Bare.FromString(value).data
    if not data:
        raise UserError(f"expected a Caffe Datum with `data`, got {len(value)} bytes with none{_hint(value)}")
    return Datum(data, 0, True, 0, 0, 0)


def _check_raw(message: Any) -> None:
    channels, height, width, size = message.channels, message.height, message.width, len(message.data)
    if channels not in (1, 3) or height < 1 or width < 1 or size != channels * height * width:
        sizes = f"channels x height x width = {channels} x {height} x {width}"
        raise UserError(f"expected a JPEG, a PNG or raw pixels of 1 or 3 channels, got {size} bytes for {sizes}")


def _hint(value: bytes) -> str:
    return " (a bare picture file: wrap it with `encode_datum`)" if value.startswith(IMAGE_SIGNATURES) else ""
