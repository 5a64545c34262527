"""What runs in a worker process: reads Cases, examines them, answers; dies with the run that started it.

Everything that crosses the border is JSON, so that a kernel that writes garbage into the connection cannot run code in the
process that reads it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tridiff.harness.registry import Registry

_PR_SET_PDEATHSIG = 1


def main(setup: dict[str, Any]) -> None:
    """Serve until the connection closes.

    `setup`: `descriptor` of the connection, process id of the `parent`, `plugins` and `target` of the registry, `parts` that
    the settings add to the built-in ones, and the `folder` for files that are to go with this process.
    """
    os.set_inheritable(setup["descriptor"], False)  # noqa: FBT003 - the name says what the flag is
    _die_with(setup["parent"])
    _go_first()
    connection = Connection(setup["descriptor"])
    # What a kernel forks must not answer in our place, nor keep the connection open when we die.
    os.register_at_fork(after_in_child=connection.close)
    ours = os.getpid()
    connection.send_bytes(_json(_warmed(setup)))
    while True:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        answer = _answer(json.loads(request))
        if os.getpid() != ours:  # a kernel forked, and did not end its child
            os._exit(0)
        connection.send_bytes(_json(answer))


def _die_with(parent: int) -> None:
    """See to it that the end of the run is the end of this process, whatever it is busy with (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before
        os._exit(0)


def _go_first() -> None:
    """No core dumps; and if memory runs out, the system kills this process, not the run (proc(5), oom_score_adj).

    A limit of 1 byte, because where core dumps are piped to a program a limit of 0 does not prevent them, and 1 does (core(5)
    and the kernel's fs/coredump.c).
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _warmed(setup: dict[str, Any]) -> dict[str, Any]:
    """Import what Cases will need, as on a machine with the target. What is wrong with a kernel is told when it is examined."""
    from tridiff.harness.capture import pretend  # noqa: PLC0415 - what `main` does first comes before torch is loaded
    from tridiff.harness.engines.spec import UsageError  # noqa: PLC0415 - likewise
    from tridiff.harness.faults import keep_in  # noqa: PLC0415 - likewise
    from tridiff.harness.plugins import loaded  # noqa: PLC0415 - likewise
    from tridiff.harness.runner import examine as _examine  # noqa: F401, PLC0415 - likewise
    from tridiff.harness.targets.table import Part, add  # noqa: PLC0415 - likewise

    keep_in(Path(setup["folder"]))
    add(Part(**part) for part in setup["parts"])
    pretend(setup["target"])  # before a plug-in, or a kernel, is imported
    try:
        loaded(tuple(setup["plugins"]), setup["target"])
    except UsageError as error:
        return {"usage": str(error)}
    return {"ready": True}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """The outcome of one request, or what `examine` raised."""
    from tridiff.harness.engines.spec import EngineSpec, UsageError  # noqa: PLC0415 - loaded by now
    from tridiff.harness.isolation import messages  # noqa: PLC0415 - likewise
    from tridiff.harness.plugins import loaded  # noqa: PLC0415 - likewise
    from tridiff.harness.runner.examine import examine  # noqa: PLC0415 - likewise

    try:
        ref = messages.ref_of(request)
        spec = EngineSpec(**request["spec"])
        known: Registry = loaded(ref.plugins, spec.target)
        case = messages.case_of(known, ref, request["case"])
        return messages.encoded(examine(ref, spec, case, known))
    except UsageError as error:
        return {"usage": str(error)}
    except Exception as error:  # noqa: BLE001 - a bug of ours is told where the run is
        return {"bug": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    finally:
        with contextlib.suppress(Exception):  # a kernel may have put anything in its place, or have closed it
            sys.stdout.flush()


def _json(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode()
