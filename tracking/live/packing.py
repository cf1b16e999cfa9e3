"""Messages to dispatchers, joined from encoded pieces. No message is longer than a frame may be."""

from collections.abc import Iterable, Iterator, Sequence

from tracking.protocol.codec import MAX_FRAME_BYTES, encode, framed

_ROOM = MAX_FRAME_BYTES - 1024


def packed(pieces: Iterable[bytes], room: int = _ROOM) -> Iterator[bytes]:
    """Joins JSON values with commas, as many as fit into a message."""
    part: list[bytes] = []
    size = 0
    for piece in pieces:
        if part and size + len(piece) >= room:
            yield b",".join(part)
            part, size = [], 0
        part.append(piece)
        size += len(piece) + 1
    if part:
        yield b",".join(part)


def snapshots(names: Sequence[str], encoded_states: Iterable[bytes]) -> Iterator[bytes]:
    """`fleet_snapshot` messages as ready frames; at least one."""
    cells = encode(names)
    states = list(packed(encoded_states, _ROOM - len(cells)))
    for part in states or [b""]:
        yield framed(b'{"type":"fleet_snapshot","cells":%b,"vehicles":[%b]}' % (cells, part))
        cells = b"[]"


def updates(rows: list[bytes], descriptions: list[bytes], left: list[str]) -> Iterable[bytes]:
    """`fleet` messages as ready frames, joined from encoded pieces."""
    # A vehicle that left may be back in the same tick, so `left` comes first. A vehicle is described before it moves.
    for ids in packed(encode(vehicle_id) for vehicle_id in left):
        yield framed(b'{"type":"fleet","positions":[],"left":[%b]}' % ids)
    for described in packed(descriptions):
        yield framed(b'{"type":"fleet","positions":[],"vehicles":[%b]}' % described)
    for moved in packed(rows):
        yield framed(b'{"type":"fleet","positions":[%b]}' % moved)
