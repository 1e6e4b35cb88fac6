"""If these break, a user trains on half a file, downloads 500 MB twice, or meets a trace when offline.

A loopback server stands for the internet.  It can cut, refuse and misbehave as real ones do.
"""

import hashlib
import io
import re
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from zoo import download
from zoo.download import fetch
from zoo.errors import InputError

CONTENT = bytes(range(256)) * 1600  # 409,600 bytes: several blocks
HASH = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server:
    """Serves CONTENT at /file.pth and notes the Range header of every request."""

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        self.stop_at = len(CONTENT)  # bytes of the file after which the connection ends
        self.content, self.status, self.resumes, self.lengths, self.shift = CONTENT, 200, True, True, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *words: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/some/file.pth?token=1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.resumes else 0
        status = 206 if asked and self.resumes else 200
        if start and start >= len(self.content):
            status = 416
        if self.status != 200:
            status = self.status
        request.send_response(status)
        body = self.content[start:] if status in (200, 206) else b""
        if status == 206:
            first = start + self.shift
            request.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.lengths:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: max(0, self.stop_at - start)])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    it = Server()
    yield it
    it.http.shutdown()
    it.http.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_comes_whole_and_once(server: Server, folder: Path) -> None:
    path = fetch(server.url, sha256=HASH.upper(), size=len(CONTENT), folder=folder)
    assert path == folder / "file.pth"
    assert path.read_bytes() == CONTENT
    assert fetch(server.url, sha256=HASH, folder=folder) == path
    assert (len(server.ranges), names(folder)) == (1, ["file.pth"])
    assert fetch(server.url, name="other.pth", folder=folder) == folder / "other.pth"


def test_the_folder_is_torchs(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    assert fetch(server.url) == tmp_path / "hub" / "checkpoints" / "file.pth"


def test_a_server_that_tells_no_length(server: Server, folder: Path) -> None:
    server.lengths = False
    assert fetch(server.url, sha256=HASH, folder=folder).read_bytes() == CONTENT
    (folder / "file.pth").unlink()
    server.stop_at = 1000  # nothing says that this is not all, but for the size or the hash
    with pytest.raises(InputError, match=rf"ended at byte 1000 of {len(CONTENT)}; .*goes on from there"):
        fetch(server.url, size=len(CONTENT), folder=folder)
    server.stop_at = len(CONTENT)
    assert fetch(server.url, size=len(CONTENT), folder=folder).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=1000-"


def test_a_cut_download_goes_on_where_it_ended(server: Server, folder: Path) -> None:
    server.stop_at = 150_001
    with pytest.raises(InputError, match=r"ended at byte 150001 of 409600.*file\.pth\.partial.*try again"):
        fetch(server.url, sha256=HASH, folder=folder)
    assert names(folder) == ["file.pth.partial"]
    server.stop_at = len(CONTENT)
    seen: list[tuple[int, int | None]] = []
    path = fetch(server.url, sha256=HASH, folder=folder, progress=lambda at, total: seen.append((at, total)))
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=150001-"]
    assert seen[0][0] > 150_001
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert names(folder) == ["file.pth"]


def test_an_interrupted_download_goes_on_in_another_call(server: Server, folder: Path) -> None:
    def interrupt(at: int, total: int | None) -> None:
        if at >= 2 * download.BLOCK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, sha256=HASH, folder=folder, progress=interrupt)
    assert (folder / "file.pth.partial").stat().st_size == 2 * download.BLOCK
    assert fetch(server.url, sha256=HASH, folder=folder).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={2 * download.BLOCK}-"]


def test_killed_between_the_last_byte_and_the_renaming(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "file.pth.partial").write_bytes(CONTENT)
    assert fetch(server.url, sha256=HASH, folder=folder).read_bytes() == CONTENT
    assert server.ranges == []


@pytest.mark.parametrize("how", ["ignores Range", "says 416", "sends another part"])
def test_where_resuming_fails_it_starts_over(server: Server, folder: Path, how: str) -> None:
    folder.mkdir()
    there = CONTENT[:1000]
    if how == "ignores Range":
        server.resumes = False
    elif how == "says 416":
        there = b"x" * (len(CONTENT) + 5)
    else:
        server.shift = 7
    (folder / "file.pth.partial").write_bytes(there)
    assert fetch(server.url, sha256=HASH, folder=folder).read_bytes() == CONTENT
    assert server.ranges[0] == f"bytes={len(there)}-"
    assert len(server.ranges) == (1 if how == "ignores Range" else 2)


def test_a_wrong_hash_is_told_and_the_file_removed(server: Server, folder: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    got = hashlib.sha256(server.content).hexdigest()[:8]
    with pytest.raises(InputError, match=rf"begins with {got}, expected {HASH}; it was removed: try again"):
        fetch(server.url, sha256=HASH, folder=folder)
    assert names(folder) == []
    with pytest.raises(InputError, match=r"measures 409600 bytes, expected 7; it was removed"):
        fetch(server.url, size=7, folder=folder)


def test_a_wrong_file_that_was_there_is_named_and_kept(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / "file.pth").write_bytes(b"mine")
    with pytest.raises(InputError, match=rf"file\.pth: has a sha256 .* expected {HASH}: damaged .*delete it"):
        fetch(server.url, sha256=HASH, folder=folder)
    assert (folder / "file.pth").read_bytes() == b"mine"
    assert server.ranges == []
    assert fetch(server.url, folder=folder).read_bytes() == b"mine"  # no hash known: nothing to object


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_server_that_refuses(server: Server, folder: Path, status: int) -> None:
    server.status = status
    path = re.escape(str(folder / "file.pth"))
    by_hand = rf"or save http://127\.0\.0\.1:.* as {path} by hand \(its sha256 begins with {HASH}\)"
    with pytest.raises(InputError, match=rf"cannot be downloaded \(HTTP {status} .*\): try again, {by_hand}"):
        fetch(server.url, sha256=HASH, folder=folder)
    assert names(folder) == []


def test_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file.pth"
    with pytest.raises(InputError, match=r"cannot be downloaded \(.*refused.*\): .*or save .* by hand"):
        fetch(url, folder=folder)


def test_a_silent_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/file.pth"
        with pytest.raises(InputError, match=r"cannot be downloaded \(timed out\): try again, or save "):
            fetch(url, folder=folder)


def test_a_server_that_falls_silent_midway(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:

        def talk() -> None:
            connection, _ = mute.accept()
            connection.recv(4096)
            half = CONTENT[: 2 * download.BLOCK]
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 409600\r\n\r\n" + half)
            connection.recv(1)  # until the other side gives up
            connection.close()

        talker = threading.Thread(target=talk, daemon=True)
        talker.start()
        with pytest.raises(InputError, match=r"ended at byte 131072 of 409600 \(.*timed out.*\); these are"):
            fetch(f"http://127.0.0.1:{mute.getsockname()[1]}/file.pth", folder=folder)
        talker.join(5)
    assert (folder / "file.pth.partial").read_bytes() == CONTENT[: 2 * download.BLOCK]


def test_a_folder_that_cannot_be_written_to(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot save there \(.*\): free space or set TORCH_HOME"):
        fetch(server.url, folder=tmp_path / "file")


@pytest.mark.parametrize("second_resumes", [True, False])
def test_two_at_once_do_no_harm(server: Server, folder: Path, second_resumes: bool) -> None:
    half, second_done = threading.Event(), threading.Event()
    paths: list[Path] = []

    def wait_at_half(at: int, total: int | None) -> None:
        if at >= 3 * download.BLOCK and not half.is_set():
            half.set()
            assert second_done.wait(10)

    def first() -> None:
        paths.append(fetch(server.url, sha256=HASH, folder=folder, progress=wait_at_half))

    thread = threading.Thread(target=first)
    thread.start()
    assert half.wait(10)
    server.resumes = second_resumes
    paths.append(fetch(server.url, sha256=HASH, folder=folder))
    second_done.set()
    thread.join(10)
    assert paths == [folder / "file.pth"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert names(folder) == ["file.pth"]
    assert server.ranges == [None, f"bytes={3 * download.BLOCK}-"]


def test_a_terminal_sees_a_bar_and_a_pipe_nothing(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(server.url, name="quiet.pth", folder=folder)
    assert capsys.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(server.url, name="seen.pth", folder=folder)
    assert "seen.pth" in sys.stderr.getvalue()
