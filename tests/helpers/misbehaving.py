"""What takes a process with it, or tries to; and a worker that does so without loading torch, which takes seconds.

Imports nothing but the standard library and the parts of tridiff that need nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

FROM = 17
"""Columns of a toy Case from which kernels misbehave; no preset has as many."""
PAGE = 4096


def aborts() -> None:
    """End as C++ code does that finds itself in a state that cannot be."""
    os.write(2, f"LLVM ERROR: Cannot select: {id(object()):#x}: v4f32 = fsub {os.getpid()}\n".encode())
    os.abort()


def faults() -> None:
    """Read address 0."""
    ctypes.string_at(0)


def exits() -> None:
    """End without a word."""
    os._exit(3)


def loops() -> None:
    """Never end."""
    while True:
        pass


def swells() -> None:
    """Use ever more memory."""
    kept = []
    while True:
        kept.append(b"x" * (PAGE << 11))


def raises() -> None:
    """Raise an exception of Python's."""
    raise KeyError("num_kv_heads")


def babbles() -> None:
    """Write what is no text wherever a process can write by default."""
    for descriptor in (1, 2):
        os.write(descriptor, bytes(range(256)) * 64 + b'\n{"ready": true}\n')
    sys.stdout.write("\x00\xff" * 100)


def interferes() -> None:
    """Write into every descriptor that is open, the connection to the run included."""
    for descriptor in range(3, 32):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\x00\x00\x00\x05junk!" * 3)


BEHAVIOURS: dict[str, Callable[[], None]] = {
    behaviour.__name__: behaviour for behaviour in (aborts, faults, exits, loops, swells, raises, babbles, interferes)
}


def connection() -> int:
    """The descriptor by which a stand-in answers."""
    return int(json.loads(sys.argv[1])["descriptor"])


def abandons() -> None:
    """Die, and leave a child that holds all that is open."""
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    os.abort()


def promises() -> None:
    """Announce a long answer, and never end."""
    os.write(connection(), struct.pack("!i", 1000) + b"{")
    loops()


def stammers() -> None:
    """End in the middle of an answer."""
    os.write(connection(), struct.pack("!i", 1000) + b"{")
    os._exit(0)


def boasts() -> None:
    """Announce an answer that is too long for anyone."""
    os.write(connection(), struct.pack("!i", 1 << 30) + b"{")


def echoes() -> None:
    """Answer, beside the answer that comes anyway."""
    answer = json.dumps({"outcome": "Clean", "ratio": 9.0, "conclusive": True, "specialisations": []}).encode()
    Connection(os.dup(connection())).send_bytes(answer)


def clones() -> None:
    """Go on as two processes."""
    os.fork()


def heirs() -> None:
    """Have a child that raises what nobody expects."""
    if os.fork() == 0:
        raise RuntimeError


UNRULY: dict[str, Callable[[], None]] = {
    behaviour.__name__: behaviour for behaviour in (abandons, promises, stammers, boasts, echoes, clones, heirs)
}
"""What a stand-in does besides; the Case is clean where it lives."""

BOOT = (
    "import json, sys; setup = json.loads(sys.argv[1]); sys.path[:] = setup['path']; import misbehaving; misbehaving.serve(setup)"
)
"""Starts the stand-in for a worker."""


def serve(setup: dict[str, Any]) -> None:
    """Answer as a worker does: toy Cases are clean, and from `FROM` columns on do what the kernel's name says.

    Kernel "sulks": only a process that has answered before dies. Kernel "counts": the ratio is the number of its answers.
    Kernel "mutters": says how many columns there are, and ends with some last words.
    """
    prepare(setup)
    connection = Connection(setup["descriptor"])
    connection.send_bytes(b'{"ready": true}')
    answered = 0
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(json.dumps(_answer(request, answered)).encode())
        answered += 1


def prepare(setup: dict[str, Any]) -> None:
    """Do as a worker does before it loads anything."""
    from tridiff.harness.isolation import worker  # noqa: PLC0415 - the folders to search are known now

    worker._die_with(setup["parent"])
    worker._go_first()


def serve_as_worker(setup: dict[str, Any]) -> None:
    """Serve with the loop of a real worker, and the answers of a stand-in."""
    from tridiff.harness.isolation import worker  # noqa: PLC0415 - the folders to search are known now

    answered = iter(range(1000))

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        try:
            return _answer(request, next(answered))
        except RuntimeError as error:
            return {"bug": str(error), "traceback": ""}

    worker._warmed = lambda setup: {"ready": bool(setup)}
    worker._answer = answer
    worker.main(setup)


def refuse(setup: dict[str, Any]) -> None:
    """Answer as a worker does that cannot load a plug-in."""
    Connection(setup["descriptor"]).send_bytes(b'{"usage": "plug-in x.py: no such file"}')


def _answer(request: dict[str, Any], answered: int) -> dict[str, Any]:
    name = request["kernel"]
    if name == "mutters":
        os.write(2, b"%d columns\n" % request["case"]["columns"])
    if request["case"]["columns"] >= FROM:
        if name == "mutters":
            os.write(2, b"error: no workspace\ngood-bye\n")
            os._exit(5)
        if name == "sulks" and answered:
            os.abort()
        if name in UNRULY:
            UNRULY[name]()
        if name in BEHAVIOURS:
            try:
                BEHAVIOURS[name]()
            except KeyError as error:
                return {"bug": f"KeyError: {error}", "traceback": "here"}
            return _finding(name)
    return {"outcome": "Clean", "ratio": float(answered), "conclusive": True, "specialisations": ["s"]}


def _finding(name: str) -> dict[str, Any]:
    fields = {"check": "mismatch", "message": "wrong", "line": None, "op": "scale", "kernel": name, "engine": "cpu"}
    return {"finding": {**fields, "target": "gfx942", "subject": "", "others": ["poison"]}, "specialisations": ["s"]}
