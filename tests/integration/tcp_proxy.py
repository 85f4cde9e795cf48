"""A line that can be slow or cut: TCP through this process."""

import contextlib
import socket
import threading
import time


class TcpProxy:
    """Forwards connections from a free loopback port; a context manager.

    Args:
        target: port on loopback.
        upload_bytes_per_second: of each connection, from those who connect; ``None``: as fast as it goes.

    Attributes:
        port: where to connect.
        forwarded: bytes so far, both ways.
    """

    def __init__(self, target: int, upload_bytes_per_second: int | None = None) -> None:
        self._target, self._rate = target, upload_bytes_per_second
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.forwarded = 0
        self._cut = False
        self._open: set[socket.socket] = set()

    def __enter__(self) -> "TcpProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections; new ones are broken too until :meth:`mend`."""
        self._cut = True
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def mend(self) -> None:
        """Let connections through again."""
        self._cut = False

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._target))
            self._open |= {here, there}
            for source, sink, rate in ((here, there, self._rate), (there, here, None)):
                threading.Thread(target=self._pump, args=(source, sink, rate), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, rate: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                self.forwarded += len(data)
                if rate is not None:
                    time.sleep(len(data) / rate)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
