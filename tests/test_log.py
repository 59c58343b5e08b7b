"""Log lines that cannot be written must cost nothing else."""

import io
import time

from gateway import log


class Full(io.StringIO):
    """A disk that is full once."""

    failed = False

    def write(self, text: str) -> int:
        if not self.failed:
            self.failed = True
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_full_disk_costs_lines_and_not_the_log() -> None:
    stream, before = Full(), log.dropped()
    lines = log.Lines(stream)
    lines.add({"number": 1})
    deadline = time.monotonic() + 5
    while not stream.failed and time.monotonic() < deadline:
        time.sleep(0.01)
    lines.add({"number": 2})
    lines.close()
    assert stream.getvalue() == '{"number":2}\n'
    assert log.dropped() == before + 1
