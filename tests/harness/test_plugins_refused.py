"""Whatever is wrong with a plug-in is one line that names it, and never a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plugging import KERNEL, TOY, left_as_found, refused, saved
from toy.family import registry as toy_registry

from tridiff.harness import cli
from tridiff.harness import registry as registries


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> Iterator[None]:
    """An empty current folder."""
    with left_as_found(tmp_path):
        yield


@pytest.fixture
def toy_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy family stands in for the built-in ones."""
    monkeypatch.setattr(registries, "builtin", toy_registry)


Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main([*map(str, arguments), *(["--no-isolation"] if arguments[0] in {"fuzz", "prove", "repro"} else [])])
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, captured.out, captured.err

    return run


# Broken plug-ins

OP = """\
import dataclasses
from tridiff.harness.api import Fault, Kernel, Op, Patch
from toy.reference.scale import reference
from toy.strategies.scale import OP, ScaleCase
KERNEL = Kernel(name="k", op="scale", module="toy.kernels.scale", launcher="scale")

class Plain: ...

@dataclasses.dataclass(frozen=True)
class NoDefault:
    rows: int
    columns: int = 1

@dataclasses.dataclass
class NotFrozen:
    rows: int = 1

@dataclasses.dataclass(frozen=True)
class Listed:
    rows: list[int] = dataclasses.field(default_factory=list)

@dataclasses.dataclass(frozen=True)
class Refusing:
    rows: int = 0
    def __post_init__(self):
        raise ValueError("rows=0: must be 1 or more")

def register(registry):
    def op(reference=reference, **changes):
        registry.register_op(dataclasses.replace(OP, **{"name": "b", **changes}), reference)
    def kernel(**changes):
        registry.register_kernel(dataclasses.replace(KERNEL, **{"name": "a", **changes}))
    registry.register_op(OP, reference)
    registry.register_kernel(KERNEL)
    """

ONE_LINERS = {
    "op(reference=None)": "op 'b' has no reference: register_op takes a function (inputs, rounding) ",
    "op(reference=7)": "op 'b': the reference is 7: must be a function (inputs, rounding)",
    "registry.register_op(None, reference)": "register_op takes an Op and its reference, not None",
    "op(name='b/c')": "op name 'b/c': must be lower-case letters, digits and underscores, ",
    "op(name=3)": "op name 3: must be lower-case letters, digits and underscores, ",
    "registry.register_op(OP, reference)": "an op named 'scale' is registered already, by broken.py: choose another name",
    "op(strategy=[])": "op 'b': strategy is a list of 0: must be a function (domain)",
    "op(presets=None)": "op 'b': presets is None: must be a function (domain)",
    "op(build='x')": "op 'b': build is 'x': must be a function (case, arena)",
    "op(within=True)": "op 'b': within is True: must be a function (case, domain), or None",
    "op(score={})": "op 'b': score is a dict with nothing: must be a function (case, ratio), or None",
    "op(models=['Toy'])": "op 'b': models is a list of 1: must map the name of each model to those of its variants",
    "op(models={'Toy': 'Toy TP1'})": "op 'b': models has 'Toy': 'Toy TP1': must be a name with a tuple of names",
    "op(case=Plain)": "op 'b': case is the type Plain: must be a dataclass with ",
    "op(case=NotFrozen)": "op 'b': case is the type NotFrozen: must be a dataclass ",
    "op(case=ScaleCase())": "op 'b': case is a ScaleCase: must be a dataclass with ",
    "op(case=NoDefault)": "op 'b': field rows of NoDefault has no default: give its ",
    "op(case=Listed)": "op 'b': the default case Listed() cannot be used: CaseError: ",
    "op(case=Refusing)": "op 'b': the default case Refusing() cannot be used: ValueError: rows=0: must be 1 or more",
    "registry.register_kernel(KERNEL)": "a kernel named 'k' is registered already, by broken.py: choose another name",
    "registry.register_kernel(OP)": "register_kernel takes a Kernel, not an Op",
    "kernel(name='a b')": "kernel name 'a b': must be letters, digits and any of ",
    "kernel(op='scala')": "kernel 'a' implements the unknown op 'scala': did you mean 'scale'?",
    "kernel(module='toy.kernel')": "kernel 'a': there is no module "
    "'toy.kernel'; for a launcher in the plug-in write module=__name__",
    "kernel(module='')": "kernel 'a': there is no module ''; for a ",
    "kernel(module='bad')": "kernel 'a': module 'bad' raised on import: ModuleNotFoundError: No module named 'absent' (bad.py:2)",
    "kernel(launcher='scaled')": "kernel 'a': launcher='scaled': module "
    "'toy.kernels.scale' has no such function: did you mean 'scale'?",
    "kernel(launcher=reference)": "kernel 'a': launcher is the function reference: must be a name, as a string",
    "kernel(rounding='KERNELS')": "kernel 'a': rounding='KERNELS': module ",
    "kernel(engines=('cpuu',))": "kernel 'a' names unknown engine 'cpuu': did you mean 'cpu'?; engines: cpu",
    "kernel(engines=())": "kernel 'a' names no engine; engines: cpu",
    "registry.register_fault(KERNEL)": "register_fault takes a Fault, not a Kernel",
    "registry.register_fault(Fault(name='f', kernel='q', description='', patches=()))": "unknown kernel 'q'",
    "Op(name='b')": "register raised TypeError: ",
    "raise SystemExit(3)": "register raised SystemExit: 3 (broken.py:@)",
}
"""What a plug-in may do wrong when it registers, and the beginning of what is said."""


@pytest.mark.parametrize("statement", ONE_LINERS)
def test_wrong_registration(statement: str) -> None:
    """One line that begins with the plug-in, names the value and says what to do."""
    saved("bad.py", "\nimport absent\n")

    message = refused(saved("broken.py", OP + statement + "\n"))

    assert message.startswith(f"plug-in broken.py: {ONE_LINERS[statement].replace('@', str(OP.count(chr(10)) + 1))}")
    assert "tridiff_plugin" not in message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef register(registry:\n    pass\n", "raised on import: SyntaxError: '(' was never closed (broken.py:2)"),
        ("def f():\n    return 1 / 0\n\nf()\n", "raised on import: ZeroDivisionError: division by zero (broken.py:2)"),
        ("import torch\ntorch.zeros(-1)\n", "raised on import: RuntimeError: "),
        ("import absent\n", "raised on import: ModuleNotFoundError: No module named 'absent' (broken.py:1)"),
        ("raise SystemExit", "raised on import: SystemExit: no message (broken.py:1)"),
        ("\0", "raised on import: "),
        ("register = 1", "has no function register(registry), which registers its ops and kernels"),
        ("def register(): pass", "register raised TypeError: register() takes 0 positional arguments but 1 was given"),
        ("def register(registry): pass", "register(registry) registered nothing"),
    ],
)  # fmt: skip
def test_broken_file(source: str, message: str) -> None:
    """A file that is no plug-in is refused with its line, every time, and leaves no half-made module behind."""
    saved("broken.py", source)

    first, second = refused("broken.py"), refused("broken.py")

    assert first == second
    assert first.startswith(f"plug-in broken.py: {message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py", "no such file; give the path of a Python file or the dotted name of a module"),
        ("none/here", "no such file; "),
        ("folder/", "not a Python file: its name must end in .py"),
        ("kernels.txt", "not a Python file: its name must end in .py"),
        ("no_such.module", "there is no module 'no_such'; install what holds it, or give the path of a file"),
        ("json.absent", "there is no module 'json.absent'; "),
        ("a-b", "neither the path of a Python file nor the dotted name of a module"),
        ("''", "neither the path of a Python file nor the dotted name of a module"),
        (".relative", "neither the path of a Python file nor the dotted name of a module"),
    ],
)
def test_no_plugin(name: str, message: str) -> None:
    """What is no plug-in at all is said to be none."""
    Path("folder").mkdir()
    saved("kernels.txt", "")

    assert refused(name.strip("'")).startswith(f"plug-in {name}: {message}")


def test_names_of_others() -> None:
    """Who had a name first is told: tridiff or another plug-in."""
    saved("mine.py", TOY)
    saved("yours.py", TOY)
    built_in = next(iter(registries.builtin().ops))
    theirs = f"op(name={built_in!r})"

    assert refused("mine.py", "yours.py") == (
        "plug-in yours.py: an op named 'scale' is registered already, by mine.py: choose another name"
    )
    assert refused(saved("theirs.py", OP + theirs)).endswith(
        f"an op named {built_in!r} is registered already, by tridiff: choose another name"
    )


# During a run

CHANGES = {
    "strategy=lambda domain: [1]": "strategy of other returns a list of 1: must be a Hypothesis strategy of ScaleCase",
    "presets=lambda: OP.presets(None)": "presets of other raised TypeError: ",
    "strategy=lambda domain: exit(7)": "strategy of other raised SystemExit: 7",
    "strategy=lambda domain: st.builds(exit)": "the strategy of other raised SystemExit: ",
    "strategy=lambda domain: st.just(3)": "the strategy of other drew 3: must be a ScaleCase",
    "strategy=lambda domain: st.builds(ScaleCase, columns=st.just(0))": "the strategy of other raised CaseError: columns=0: ",
    "strategy=lambda domain: st.builds(ScaleCase, factor=st.just(float('nan')))": "the strategy of other drew ScaleCase(rows=1, ",
    "build=lambda case, arena: 1 / 0": "build of other raised ZeroDivisionError: division by zero (broken.py:@), with ",
    "build=lambda case, arena: None": "build of other returns None: must be a dict of the launcher's keyword arguments, with ",
    "reference=lambda inputs, rounding: None": "the reference of other gives None: must be {'outputs': {name: (value, ",
    "reference=lambda inputs, rounding: {'outputs': {}}": "the reference of other gives a dict with 'outputs': must be ",
    "**told(lambda i: {'out': i['x']})": "the reference of other gives a Tensor for 'out': must ",
    "**told(lambda i: {'aut': i['x']})": "the reference of other gives 'aut', which is none of the inputs: did you mean 'out'?",
    "**told(lambda i: {'out': (i['x'], i['x'][0])})": "the reference of other gives out and ",
    "**told(lambda i: {'out': (i['x'], i['x'])})": "the reference of other gives no value and "
    "bound for total, which the kernel must write, with ScaleCase(",
    "**told(lambda i: {k: (i[k], i[k]) for k in ('out', 'total', 'x')})": "the reference of other "
    "judges x, which build does not declare as written: use arena.output",
    "**told(lambda i: {'out': (i['out'], i['out'], 3), 'total': 2 * (i['total'],)})": "the reference of other gives 3 for the "
    "elements of 'out': must be 2 int64 tensors, one for each of its dimensions",
    "**told(lambda i: {'out': 2 * (i['out'][:1, :1],) + (2 * (i['out'][:1, :1].long(),),), 'total': 2 * (i['total'],)})": "the "
    "reference of other speaks of 1 elements of out, and not just of the ",
    "reference=lambda inputs, rounding: inputs['y']": "the reference of other raised KeyError: 'y' (broken.py:@), with ",
    "rounding='rounds'": "rounds of kernel k raised LookupError: no rounding (broken.py:7), with ScaleCase(",
}
"""What may go wrong in a run, and the beginning of what is said."""

RUNNING = """\
from dataclasses import replace
from hypothesis import strategies as st
from tridiff.harness.api import Kernel
from toy import reference as _, kernels
from toy.kernels.scale import scale
from toy.strategies.scale import OP, ScaleCase
def rounds(**inputs): raise LookupError("no rounding")
def told(outputs): return {"reference": lambda i, r: {"outputs": outputs(i), "conclusive": 1}}
def register(registry, reference=__import__("toy.reference.scale", fromlist="*").reference, rounding=None, **changes):
    parts = dict({change})
    reference, rounding = parts.pop("reference", reference), parts.pop("rounding", rounding)
    registry.register_op(replace(OP, name="other", **parts), reference)
    registry.register_kernel(Kernel(name="k", op="other", module=__name__, launcher="scale", rounding=rounding))
"""

LINE = str(RUNNING[: RUNNING.index("{change}")].count("\n") + 1)


@pytest.mark.parametrize("change", CHANGES)
def test_failure_during_a_run(invoke: Invoke, change: str) -> None:
    """What a plug-in's op does wrong is no finding and no defect of tridiff: exit 2, and one line with the case."""
    plugin = saved("broken.py", RUNNING.replace("{change}", change))

    code, _, err = invoke("fuzz", "--plugin", plugin, "--kernel", "k", "--max-examples", 5)

    assert code == cli.Exit.USAGE
    assert err.startswith(f"tridiff: plug-in broken.py: {CHANGES[change].replace('@', LINE)}")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("toy_built_in")
def test_fault_that_does_not_fit(invoke: Invoke) -> None:
    """A patch of a plug-in's fault that its kernel does not contain is the plug-in's mistake."""
    plugin = saved("broken.py", KERNEL.replace('old="x + 0"', 'old="x + 1"'))

    code, _, err = invoke("prove", "--plugin", plugin, "--kernel", "scaled")

    assert code == cli.Exit.USAGE
    assert re.fullmatch(r"tridiff: plug-in broken.py: fault one_before raised PatchError: .* occurs 0 times in .*\n", err)
