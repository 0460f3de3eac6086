"""A file system that misbehaves on purpose: a pure Python FUSE server over /dev/fuse, without libfuse.

It passes a backing folder through and breaks what it is told to break:

    dead=1         mounts and never answers again       die_after=N   answers N calls and then no more
    delay=0.005    seconds a call                        quota=BYTES   writes beyond it fail with EDQUOT
    fsync_error=N  fsync fails with errno N              corrupt=1     reads give back other bytes than written
    hang=OPCODE    that call is never answered           revive=1      the silence of `die_after` ends after 1.5 s
    read_error=N   reads of libraries (.so) fail with errno N

Needs root (or CAP_SYS_ADMIN) and /dev/fuse. Runs in a process of its own: a test that touched the mount itself could hang for ever. The
mount ends with its server: when the last descriptor of /dev/fuse closes, the kernel fails every waiting call.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

(LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, RENAME, OPEN, READ, WRITE, STATFS) = (
    (1, 2, 3, 4, 9, 10, 11, 12, 14, 15, 16, 17)
)  # fmt: skip
RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 18, 20, 25, 26, 27, 28, 29
CREATE, INTERRUPT, DESTROY, BATCH_FORGET, RENAME2 = 35, 36, 38, 42, 45
SILENT = (FORGET, INTERRUPT, BATCH_FORGET)
PETABYTE = 2**50


def available() -> str:
    """Why this machine cannot do it; "" when it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no access to /dev/fuse"
    return "" if os.geteuid() == 0 else "mounting needs root"


@contextlib.contextmanager
def mounted(point: Path, backing: Path, **faults: float) -> Iterator[Path]:
    """The file system, mounted on `point` for the length of the block; afterwards nothing of it is left."""
    point.mkdir()
    options = [f"{name}={value}" for name, value in faults.items()]
    command = [sys.executable, __file__, str(point), str(backing), *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        ready = server.stdout.readline() if server.stdout else b""
        if ready != b"ready\n":
            raise OSError(f"the server did not start: {ready!r}")
        yield point
    finally:
        server.kill()
        server.wait(10)
        if server.stdout:
            server.stdout.close()
        ctypes.CDLL(None).umount2(str(point).encode(), 2)


class Server:
    """Answers the kernel's calls; nodes are numbered paths below the backing folder."""

    def __init__(self, backing: str, faults: dict[str, float]) -> None:
        self.backing, self.faults = backing, faults
        self.paths: dict[int, str] = {1: backing}
        self.numbers: dict[str, int] = {backing: 1}
        self.files: dict[int, int] = {}
        self.calls = self.written = 0

    def serve(self, device: int) -> None:
        """Until the mount ends."""
        while True:
            try:
                request = os.read(device, 2**21)
            except OSError as why:
                if why.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            if opcode in SILENT:
                continue
            answer = self.answer(opcode, node, request[40:])
            if answer is None:
                continue
            code, body = answer
            with contextlib.suppress(OSError):
                os.write(device, struct.pack("<IiQ", 16 + len(body), -code, unique) + body)

    def answer(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes] | None:
        """Errno and reply; None where it stays silent."""
        if opcode == INIT:
            return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 2**17, 0, 12, 9, 2**17, 1, 32, 0, 0)
        self.calls += 1
        if self.faults.get("dead") or opcode == self.faults.get("hang"):
            return None
        if 0 < self.faults.get("die_after", 0) < self.calls:
            if not self.faults.get("revive"):
                return None
            time.sleep(1.5)
            self.faults.pop("die_after")
        time.sleep(self.faults.get("delay", 0))
        try:
            return 0, self.do(opcode, node, body)
        except OSError as why:
            return why.errno or errno.EIO, b""

    def do(self, opcode: int, node: int, body: bytes) -> bytes:
        """One call."""
        path = self.paths.get(node, "")
        names = body.split(b"\0")
        if opcode == LOOKUP:
            return self.entry(self.child(path, names[0]))
        if opcode in (GETATTR, SETATTR):
            return self.setattr(path, body) if opcode == SETATTR else self.attr_out(path)
        if opcode in (OPENDIR, OPEN):
            return self.open(path, struct.unpack_from("<I", body)[0] if opcode == OPEN else os.O_RDONLY)
        if opcode in (RELEASE, RELEASEDIR):
            os.close(self.files.pop(struct.unpack_from("<Q", body)[0]))
            return b""
        if opcode == READ:
            if self.faults.get("read_error") and path.endswith(".so"):
                raise OSError(int(self.faults["read_error"]), "planted")
            return self.read(body)
        if opcode == READDIR:
            return self.readdir(path, body)
        if opcode == WRITE:
            return self.write(body)
        if opcode == STATFS:
            blocks = PETABYTE // 4096
            return struct.pack("<QQQQQIIII24x", blocks, blocks, blocks, 10**9, 10**9, 4096, 255, 4096, 0)
        if opcode == CREATE:
            flags, mode = struct.unpack_from("<II", body)
            made = self.child(path, body[16:].partition(b"\0")[0])
            file = os.open(made, flags | os.O_CREAT, mode)
            self.files[file] = file
            return self.entry(made) + struct.pack("<QII", file, 0, 0)
        return self.change(opcode, path, body, names)

    def change(self, opcode: int, path: str, body: bytes, names: list[bytes]) -> bytes:
        """Calls that change the tree, and the rest."""
        if opcode == MKDIR:
            made = self.child(path, body[8:].partition(b"\0")[0])
            Path(made).mkdir(struct.unpack_from("<I", body)[0])
            return self.entry(made)
        if opcode in (UNLINK, RMDIR):
            (os.unlink if opcode == UNLINK else os.rmdir)(self.child(path, names[0]))
            return b""
        if opcode in (RENAME, RENAME2):
            folder = self.paths[struct.unpack_from("<Q", body)[0]]
            old, new = body[16 if opcode == RENAME2 else 8 :].split(b"\0")[:2]
            Path(self.child(path, old)).rename(self.child(folder, new))
            return b""
        if opcode == FSYNC:
            if self.faults.get("fsync_error"):
                raise OSError(int(self.faults["fsync_error"]), "planted")
            return b""
        if opcode in (FLUSH, DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "not here")

    def child(self, path: str, name: bytes) -> str:
        """The path of a name in a folder."""
        return f"{path}/{name.decode()}"

    def number(self, path: str) -> int:
        """The node of a path; a new one where it has none."""
        if path not in self.numbers:
            self.numbers[path] = len(self.numbers) + 1
            self.paths[self.numbers[path]] = path
        return self.numbers[path]

    def attr(self, path: str) -> bytes:
        """struct fuse_attr."""
        found = os.lstat(path)
        times = [int(t) for t in (found.st_atime, found.st_mtime, found.st_ctime)]
        sizes = (self.number(path), found.st_size, found.st_blocks, *times)
        return struct.pack(
            "<6Q10I", *sizes, 0, 0, 0, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0
        )

    def entry(self, path: str) -> bytes:
        """struct fuse_entry_out, never cached."""
        attr = self.attr(path)
        return struct.pack("<QQQQII", self.number(path), 0, 0, 0, 0, 0) + attr

    def attr_out(self, path: str) -> bytes:
        """struct fuse_attr_out, never cached."""
        return struct.pack("<QII", 0, 0, 0) + self.attr(path)

    def setattr(self, path: str, body: bytes) -> bytes:
        """Truncation and modes; the rest is taken as done."""
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & 8:
            os.truncate(path, size)
        return self.attr_out(path)

    def open(self, path: str, flags: int) -> bytes:
        """Files and folders alike."""
        file = os.open(path, flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
        self.files[file] = file
        return struct.pack("<QII", file, 0, 0)

    def read(self, body: bytes) -> bytes:
        """What is there, or with `corrupt` something else."""
        file, offset, size = struct.unpack_from("<QQI", body)
        data = os.pread(self.files[file], size, offset)
        if self.faults.get("corrupt") and data:
            middle = len(data) // 2
            return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        return data

    def write(self, body: bytes) -> bytes:
        """Up to the quota."""
        file, offset, size = struct.unpack_from("<QQI", body)
        if self.faults.get("quota") and self.written + size > self.faults["quota"]:
            raise OSError(errno.EDQUOT, "planted")
        self.written += size
        return struct.pack("<II", os.pwrite(self.files[file], body[40 : 40 + size], offset), 0)

    def readdir(self, path: str, body: bytes) -> bytes:
        """All names at once; a later offset has no more."""
        _, offset, size = struct.unpack_from("<QQI", body)
        found = b""
        for number, name in enumerate(
            [".", "..", *sorted(one.name for one in Path(path).iterdir())], start=1
        ):
            kind = stat.S_IFMT(os.lstat(f"{path}/{name}").st_mode) >> 12
            text = name.encode()
            record = struct.pack("<QQII", 10_000 + number, number, len(text), kind) + text
            record += b"\0" * (-len(record) % 8)
            if number > offset and len(found) + len(record) <= size:
                found += record
        return found


def _leave_with_parent(point: str, parent: int) -> None:
    """A test that is killed must not leave a mount behind that hangs whoever looks at it."""
    while os.getppid() == parent:
        time.sleep(0.2)
    ctypes.CDLL(None).umount2(point.encode(), 2)
    os._exit(1)


def main() -> None:
    """`fuse.py MOUNTPOINT BACKING NAME=VALUE*`."""
    point, backing = sys.argv[1:3]
    faults = {name: float(value) for name, _, value in (option.partition("=") for option in sys.argv[3:])}
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"faulty", point.encode(), b"fuse.faulty", 0, options) != 0:
        raise SystemExit(os.strerror(ctypes.get_errno()))
    threading.Thread(target=_leave_with_parent, args=(point, os.getppid()), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Server(backing, faults).serve(device)


if __name__ == "__main__":
    main()
