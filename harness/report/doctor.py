"""What `tridiff doctor` shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from tridiff.harness.doctor.diagnosis import Diagnosis, engine_cpu
from tridiff.harness.doctor.fp8 import FORMATS, MEANING
from tridiff.harness.doctor.host import Installation
from tridiff.harness.engines.spec import TARGETS

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_FORMS = {"wheel": "installed in", "editable": "editable install of", "path": "not installed, found on the path in"}


def facts_text(diagnosis: Diagnosis) -> Text:
    """A labelled line for each fact."""
    text = Text()
    for label, value in _rows(diagnosis):
        text.append(f"{label:<11}", style="bold")
        text.append(f"{value}\n")
    return text


def _rows(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    known, machine = diagnosis.host, diagnosis.host.machine
    yield "tridiff", _installation(known.tridiff)
    yield "Python", f"{machine.python} ({machine.executable})"
    yield "machine", f"{machine.platform}, {_plural(machine.cores, 'core')}, {_size(machine.memory)} of memory"
    if machine.container:
        yield "container", machine.container
    yield "torch", _torch(diagnosis.facts.get("torch", {}))
    yield "triton", _triton(diagnosis.facts.get("triton", {}))
    yield "packages", ", ".join(f"{package.name} {package.version or 'missing'}" for package in known.packages)
    for index, device in enumerate(diagnosis.facts.get("devices", {}).get("devices") or []):
        yield f"GPU {index}", f"{device['name']}, {device['arch']}, {_size(device['memory'])}"
    if "devices" in diagnosis.facts.get("devices", {}) and not diagnosis.facts["devices"]["devices"]:
        yield "GPUs", "none; engine cpu needs none"
    if known.visible:
        yield "variables", ", ".join(f"{name}={value}" for name, value in known.visible.items())
    if "folder" in (cache := diagnosis.facts.get("cache", {})):
        yield "cache", _cache(cache)
    for index, plugin in enumerate(known.plugins):
        yield "plug-in", f"{plugin.source} ({plugin.value}), {_brought(diagnosis.facts.get(f'plugin:{index}', {}))}"
    yield "engine cpu", _engine(diagnosis)
    yield "engine gpu", "not available in this version of tridiff"


def _installation(tridiff: Installation) -> str:
    return f"{tridiff.version}, {_FORMS[tridiff.form]} {tridiff.folder}, source {tridiff.source}"


def _torch(facts: dict[str, Any]) -> str:
    return f"{facts['version']}, built for {facts['build']}" if "version" in facts else "cannot be used"


def _triton(facts: dict[str, Any]) -> str:
    if "version" not in facts:
        return "cannot be used"
    distributions = ", ".join(facts["distributions"]) or "no distribution: a source build on the path"
    return f"{facts['version']} ({distributions}), back ends {', '.join(facts['backends']) or 'none'}"


def _cache(facts: dict[str, Any]) -> str:
    state = f"writable, {_size(facts['free'])} free" if "free" in facts else "not writable"
    return f"{facts['folder']}, {state}" if facts["used"] else f"switched off (TRIDIFF_CACHE or TRITON_ALWAYS_COMPILE), {state}"


def _engine(diagnosis: Diagnosis) -> str:
    state = engine_cpu(diagnosis)
    if not state["available"]:
        return "cannot be used"
    families = diagnosis.facts.get("families", {})
    counts = f"; {_plural(len(families.get('ops', [])), 'op')}, {_plural(len(families.get('kernels', [])), 'kernel')}"
    return f"self-test passed for {' and '.join(state['passed'])}{counts}"


def _brought(facts: dict[str, Any]) -> str:
    if "kernels" not in facts:
        return "broken" if "problem" in facts else "not tried"
    return f"{_plural(len(facts['ops']), 'op')}, {_plural(len(facts['kernels']), 'kernel')}"


def targets_table(diagnosis: Diagnosis) -> Table:
    """One row a target: whether Triton compiles for it, and how it comes by each FP8 format."""
    table = Table()
    for heading in ("target", "compiles to", *FORMATS):
        table.add_column(heading)
    for name, facts in diagnosis.of("target", *TARGETS).items():
        code = facts.get("code") or ("fails" if "problem" in facts else "?")
        table.add_row(name, code, *(facts.get("fp8", {}).get(form, "?") for form in FORMATS))
    return table


def legend(diagnosis: Diagnosis) -> list[str]:
    """What the words of the table mean that occur in it."""
    words = {word for facts in diagnosis.of("target", *TARGETS).values() for word in facts.get("fp8", {}).values()}
    return [f"FP8 {word}: {meaning}" for word, meaning in MEANING.items() if word in words]


def problems_text(diagnosis: Diagnosis) -> Text:
    """A line for each problem: what stops fuzzing is an ERROR, the rest a NOTE."""
    text = Text()
    for problem in diagnosis.problems:
        text.append("ERROR " if problem.blocks else "NOTE ", style="bold red" if problem.blocks else "bold yellow")
        text.append(f"{problem.message}\n")
    return text


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _size(number: int) -> str:
    """Bytes in the largest unit of which there is one at least."""
    unit = min(max(number.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{number / 1024**unit:.0f} {_UNITS[unit]}"
