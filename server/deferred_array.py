"""An array of a request whose bytes are made when they are sent. This uses internals of Flower 1.41 (pinned)."""

from collections.abc import Callable
from typing import cast

from flwr.app import Array
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import InflatableObject


class DeferredArray(Array):
    """A Flower array that remembers what Flower calls its bytes (their hashes), and not the bytes.

    Args:
        make: makes the array; always the same one.
    """

    def __init__(self, make: Callable[[], Array]) -> None:
        array = make()
        self.dtype, self.shape, self.stype = array.dtype, array.shape, array.stype
        pieces = {identity: NamedPiece(identity) for identity, _ in array.slice_array()}
        self.__dict__.update(_make=make, _pieces=pieces, _content=array.deflate(), _name=array.object_id)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The array's bytes, made anew each time."""
        return cast(bytes, self.__dict__["_make"]().data)

    @property
    def object_id(self) -> str:
        """See Flower."""
        return cast(str, self.__dict__["_name"])

    @property
    def children(self) -> dict[str, InflatableObject]:
        """Flower's pieces of the array: their names, without their bytes."""
        return cast(dict[str, InflatableObject], self.__dict__["_pieces"])

    def slice_array(self) -> list[tuple[str, InflatableObject]]:
        """Flower's pieces of the array, made anew."""
        return cast(Array, self.__dict__["_make"]()).slice_array()

    def deflate(self) -> bytes:
        """See Flower."""
        return cast(bytes, self.__dict__["_content"])


class NamedPiece(ArrayChunk):
    """What Flower calls a piece of an array, without the piece."""

    def __init__(self, identity: str) -> None:
        self._identity = identity

    @property
    def object_id(self) -> str:
        """See Flower."""
        return self._identity
