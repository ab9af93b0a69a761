"""What image decoders print while they work: kept off the terminal, and a sign that a picture is damaged."""

import os
import tempfile
from types import TracebackType

MAX_COMPLAINT = 200


class DecoderNoise:
    """While it lasts, what this process prints to its error stream goes aside: libjpeg and libpng know no other way to
    say that a picture which they decode is damaged."""

    def __enter__(self) -> "DecoderNoise":
        self._file = tempfile.TemporaryFile()
        self._seen = 0
        self._before = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.dup2(self._before, 2)
        os.close(self._before)
        self._file.close()

    def complaint(self) -> str:
        """The first line printed since the last call; empty: none."""
        size = os.fstat(self._file.fileno()).st_size
        if size == self._seen:
            return ""
        text = os.pread(self._file.fileno(), MAX_COMPLAINT, self._seen)
        self._seen = size
        lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
        return lines[0] if lines else ""
