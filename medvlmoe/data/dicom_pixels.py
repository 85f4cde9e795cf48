"""From the pixel data of a DICOM file to an array: pydicom and its decoders, and nothing else of this package.

Run as a program it decodes for another process (:mod:`medvlmoe.data.dicom_helper`): the libraries that undo compression
are written in C, and a damaged file can bring down the process that they run in.
"""

import json
import os
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt


def decoded_pixels(dataset: Any) -> tuple[npt.NDArray[Any], str]:
    """The pixels as they are stored, H x W or H x W x 3, and their photometric interpretation.

    Colours come as RGB, whichever way they were stored.

    Raises:
        ValueError: they cannot be decoded; pydicom raises other errors too.
    """
    from pydicom.pixels import get_decoder

    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    try:
        return _decoded(dataset, decoder)
    except RuntimeError as error:  # every decoder that is installed has failed
        if not decoder.missing_dependencies:
            raise
        others = " or ".join(decoder.missing_dependencies)
        raise ValueError(f"{error}; not tried, because not installed: {others}") from error


def wrapped(values: npt.NDArray[Any], dataset: Any) -> npt.NDArray[Any]:
    """Only the stored bits of ``values``, with their sign."""
    span = 1 << int(dataset.BitsStored)
    values = values.astype(np.int64) % span
    return np.where(values >= span // 2, values - span, values) if dataset.PixelRepresentation == 1 else values


def _decoded(dataset: Any, decoder: Any) -> tuple[npt.NDArray[Any], str]:
    keeps_every_bit = decoder.is_native or decoder.UID.name == "RLE Lossless"
    if not (keeps_every_bit and dataset.get("HighBit", 0) >= dataset.get("BitsStored", 1)):
        pixels, found = decoder.as_array(dataset)
        return pixels, str(found["photometric_interpretation"])
    # The value does not end at bit 0: move it there, then let its highest bit be the sign.
    pixels, found = decoder.as_array(dataset, correct_unused_bits=False)
    pixels = pixels >> (dataset.HighBit + 1 - dataset.BitsStored)
    return wrapped(pixels, dataset), str(found["photometric_interpretation"])


def _serve(connection: Connection) -> None:
    """Answer names of files, each with a header and its pixels, until the other side has gone or is silent."""
    import pydicom

    elements = json.loads(connection.recv_bytes())
    while connection.poll(_IDLE_SECONDS):
        try:
            path = os.fsdecode(connection.recv_bytes())
        except EOFError:
            return
        try:
            pixels, interpretation = decoded_pixels(pydicom.dcmread(path, force=True, specific_tags=elements))
        except Exception as error:  # the other side tells it with the file's name
            connection.send_bytes(json.dumps({"error": str(error) or type(error).__name__}).encode())
            continue
        header = {"shape": pixels.shape, "dtype": pixels.dtype.str, "interpretation": interpretation}
        connection.send_bytes(json.dumps(header).encode())
        connection.send_bytes(np.ascontiguousarray(pixels).data.cast("B"))


_IDLE_SECONDS = 60

if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
