"""A fault of the toy kernel for every check, one for each way to raise, and one that the engine cannot run."""

_BEHIND_ROW = "live = (at < columns) | ((at == columns) & (row + 1 < tl.num_programs(0)))\n    kept = at < columns"
_STORES = ("values * factor, mask=live", "values * factor, mask=kept")
_NO_STEP = "\n        tl.store(total + row, 0.0)\n        step += row * 0"

FAULTS = (
    {
        "name": "launcher_raises",
        "kernel": "scale",
        "description": "The launcher refuses rows of more than two columns.",
        "patches": (
            (
                "rows, columns = x.shape\n",
                'rows, columns = x.shape\n    if columns > 2:\n        raise ValueError(f"{columns} columns: must be 2")\n',
            ),
        ),
        "checks": ("launch",),
    },
    {
        "name": "front_end_refuses",
        "kernel": "scale",
        "description": "The number of lanes is no constant.",
        "patches": (("tl.arange(0, block)", "tl.arange(0, columns)"),),
        "checks": ("launch",),
    },
    {
        "name": "never_ends",
        "kernel": "scale",
        "description": "A loop advances by nothing.",
        "patches": (
            ("at = tl.arange(0, block)", "at = tl.arange(0, block)\n    step = 0\n    while step < columns:" + _NO_STEP),
        ),
        "checks": ("hang",),
    },
    {
        "name": "load_unmasked",
        "kernel": "scale",
        "description": "Lanes behind the last column are loaded.",
        "patches": (("stride + at, mask=live, other=0.0", "stride + at"),),
        "checks": ("bounds",),
    },
    {
        "name": "gap_written",
        "kernel": "scale",
        "description": "The gap behind a row of the output is written.",
        "patches": (
            (
                "    tl.store(total",
                "    tl.store(out + row * stride + columns, 0.5, mask=row + 1 < tl.num_programs(0))\n    tl.store(total",
            ),
        ),
        "checks": ("corruption",),
    },
    {
        "name": "last_column_skipped",
        "kernel": "scale",
        "description": "The last column of the output is not written.",
        "patches": (("values * factor, mask=live", "values * factor, mask=at < columns - 1"),),
        "checks": ("unwritten",),
    },
    {
        "name": "gap_summed",
        "kernel": "scale",
        "description": "The gap behind a row takes part in its sum.",
        "patches": (("live = at < columns", _BEHIND_ROW), _STORES),
        "checks": ("nan",),
    },
    {
        "name": "factor_off",
        "kernel": "scale",
        "description": "The factor is too large.",
        "patches": (("values * factor", "values * (factor + 0.001)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "gap_summed_unless_nan",
        "kernel": "scale",
        "description": "The gap behind a row takes part in its sum, but NaN does not.",
        "patches": (
            ("live = at < columns", _BEHIND_ROW),
            _STORES,
            ("    tl.store(out", "    values = tl.where(values == values, values, 0.0)\n    tl.store(out"),
        ),
        "checks": ("poison",),
    },
    {
        "name": "assembly_used",
        "kernel": "scale",
        "description": "The product goes through assembly, which only a GPU can run; no check can catch it here.",
        "patches": (
            (
                "values * factor, mask",
                'tl.inline_asm_elementwise("v_mov_b32 $0, $1;", "=v,v", [values * factor], tl.float32, True, 1), mask',
            ),
        ),
        "checks": ("mismatch",),
    },
)
