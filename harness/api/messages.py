"""Messages without what varies from case to case, machine to machine and process to process: what is left names the defect."""

from __future__ import annotations

import re

_SCALAR = r"(?:BFloat16|Half|Float|Double|Long|Int|Short|Char|Byte|Bool)"
_FORMAT = r"(?:bf16|fp?(?:16|32|64)|bfloat16|float(?:16|32|64)|u?i(?:nt)?\d+|[fF]loat8_\w+|fp8e\w+|f8E\w+)"

_FOLDED = (
    (r"(?<![\w.:/])~?(?:/[^\s/:;,\"'<>()]+)+/(?=[\w.])", ""),  # the folder of a file
    (r"\btmp[a-z0-9_]{8}(?![a-z0-9])", "#"),  # a name that Python made up
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "#"),  # a UUID
    (r"\b0x[0-9a-fA-F]+", "#"),
    (r"\b(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{8,}\b", "#"),  # a digest, or an address without 0x
    (r"\b(?=[A-Z]*[2-7])[A-Z2-7]{26,}\b", "#"),  # a key of Triton's cache
    (r"\bgfx[0-9a-f]{3,4}\b", "gfx#"),
    (r"\b(?:\d+x)+(?=[a-z!])", "<shape> "),  # as in tensor<16x32xbf16>
    (rf"(?<![A-Za-z_])(?:v\d+)?{_FORMAT}(?![A-Za-z0-9_])", "<dtype>"),  # v4f32: four of them, in LLVM
    (rf"\bc10::{_SCALAR}\b|\b(?:float|double)(?= !=)|(?<=!= )(?:float|double)\b", "<dtype>"),  # torch's names
    (rf"\bBFloat16\b|(?<=type ){_SCALAR}\b|(?<=found ){_SCALAR}\b|(?<='){_SCALAR}(?=')", "<dtype>"),
    (
        r"(?<=torch\.)(?:half|float|double|long|int|short|bool)\b|(?<=\d x )(?:half|float|double|bfloat)\b",
        "<dtype>",
    ),  # also LLVM's
    (r"\d+(?:x\d+)+", "#"),
    (r"[%$][A-Za-z_]*\d[\w.]*", "%#"),  # a value of MLIR or LLVM, a register
    (r"\b(?:t|bb|BB|[sva]gpr|v?reg)\d+\b|(?<=#)[a-z]+\d+\b", "%#"),  # a node of LLVM's graph, a block, a layout of MLIR
    (r"\b(?:True|False)\b|(?<== )(?:true|false)\b", "#"),
)
"""What varies, in this order, and what stands for it."""

# A code says what happened, a line of a source file where, and one digit at the end of a name is part of it: exp2, stage1.
_KEPT = (
    r"\b(?:signal|errno|(?:exit|error) (?:code|status)|exited with(?: code| status)?)[ :=]+-?\d+"
    r"|[\w-]+\.(?:py|cc|cpp|cu|hip|hpp|h)(?::|\"?, line |\":)\d+"
    r"|(?<=[A-Za-z])\d(?!\d)"
)
_NUMBER = r"[-+]?(?:\d[\d_]*(?:\.\d+)?(?:e[-+]?\d+)?|\binf\b|\bnan\b)"
_NUMBERS = re.compile(rf"(?P<kept>{_KEPT})|{_NUMBER}", re.IGNORECASE)

_MEASURES = (
    (r"#\.(?= ?[#\]])", "#"),  # 1., as numpy prints it
    (r"'#'|\"#\"", "#"),
    (r"# ?(?:[nuµm]?s|sec(?:ond)?s?|min(?:ute)?s?|h|hours?)\b", "<time>"),
    (r"# ?(?:[kKMGT]i?)?(?:B|bytes?)\b", "<size>"),
    (r"#(?:(?: x |, ?)#)+", "#"),
)
_LISTS = (
    (r"[\[(](?:#|<shape>)(?:,? ?(?:#|<shape>))*,?[\])]", "<shape>"),
    (r"[\[(](?:\w+\.)?<dtype>(?:, ?(?:\w+\.)?<dtype>)*,?[\])]", "<dtype>"),
)


def normalised(message: str) -> str:
    """`message` with one sign each for numbers, addresses, shapes, dtypes, flags, sizes, times, made-up names and folders.

    Kept: words and names, a digit at the end of a name, lines of source files, exit codes and numbers of signals.
    """
    text = _replaced(message, _FOLDED)
    text = _NUMBERS.sub(lambda match: match["kept"] or "#", text)
    text = _replaced(text, _MEASURES)
    before = ""
    while text != before:
        before, text = text, _replaced(text, _LISTS)
    return text


def _replaced(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, sign in rules:
        text = re.sub(pattern, sign, text)
    return text
