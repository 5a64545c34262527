"""Faults that show when the kernel is compiled for a GPU, each with that target and the checks of which one must catch it.

All of them shipped somewhere: tiles made from the page size of hybrid models, stages that only the largest parts have room for,
slabs as wide as the key, and FP8 formats that a part lacks.
"""

FAULTS = (
    {
        "name": "tile_from_page",
        "kernel": "decode_attention",
        "description": "A tile holds a whole page, of which those of hybrid models have up to 2048 tokens.",
        "patches": (("        block_n=tiles.block_n,", "        block_n=triton.next_power_of_2(page_size),"),),
        "checks": ("resources",),
        "target": "gfx942",
    },
    {
        "name": "tile_from_page_unpadded",
        "kernel": "decode_attention",
        "description": "A tile holds a whole page, also where that is no power of two, such as 544.",
        "patches": (("        block_n=tiles.block_n,", "        block_n=page_size,"),),
        "checks": ("compile",),
        "target": "gfx942",
    },
    {
        "name": "stage_too_many",
        "kernel": "decode_attention",
        "description": "Tiles of up to 128 keys, of which 64 KiB hold one at a time, are staged as if every part had more.",
        "patches": (
            ('stages = 1 if platform == "hip" or', "stages = 3 if"),
            ('(16,) if platform == "hip" else', '(128, 64, 32, 16) if platform == "hip" else'),
        ),
        "checks": ("resources",),
        "target": "gfx942",
    },
    {
        "name": "stages_not_capped",
        "kernel": "decode_attention",
        "description": "With MLA keys of 576 columns are one tile of 1024, which has two stages, and nobody counts its bytes.",
        "patches": (
            ("    if is_mla:\n        # The slab", "    if False:\n        # The slab"),
            ("is_mla=is_mla,\n        num_warps", "is_mla=False,\n        num_warps"),
            ('platform == "hip" or widths["block_dk"] >= 1024', 'platform == "hip"'),
            ("needed <= SHARED_MEMORY[platform]:", 'needed <= SHARED_MEMORY[platform] or widths["block_dk"] >= 1024:'),
        ),
        "checks": ("resources",),
        "target": "sm_86",
    },
    {
        "name": "dot_of_8_keys",
        "kernel": "decode_attention",
        "description": "Weights and values are multiplied 8 keys at a time, which AMD's parts can and NVIDIA's cannot.",
        "patches": (('(16,) if platform == "hip" else (32, 16)', "(8,)"),),
        "checks": ("compile",),
        "target": "sm_90",
    },
    {
        "name": "mla_tile_from_key_width",
        "kernel": "decode_attention",
        "description": "With MLA the tile of V is as wide as the whole key, which does not fit the accumulator.",
        "patches": (("block_dk, block_dpe = block_dv,", "block_dk, block_dpe = _padded(lk),"),),
        "checks": ("compile",),
        "target": "sm_100",
    },
    {
        "name": "fnuz_not_refused",
        "kernel": "decode_attention",
        "description": "Caches of e4m3fnuz are taken on NVIDIA, which has no such format.",
        "patches": (("if dtype == torch.float8_e4m3fnuz:", "if False:"),),
        "checks": ("compile",),
        "target": "sm_90",
    },
    {
        "name": "e4m3fn_not_refused",
        "kernel": "decode_attention",
        "description": "Caches of e4m3fn are taken on every part of NVIDIA's, also before sm_89.",
        "patches": (("arch < E4M3FN_SINCE:", "arch < 0:"),),
        "checks": ("compile",),
        "target": "sm_86",
    },
    {
        "name": "fnuz_straight_to_bfloat16",
        "kernel": "decode_attention",
        "description": "Codes of e4m3fnuz are converted to bfloat16 directly, at which code generation aborts.",
        "patches": (("(tile.to(tl.float32) * scale).to(dtype)", "(tile.to(dtype).to(tl.float32) * scale).to(dtype)"),),
        "checks": ("codegen",),
        "target": "gfx90a",
    },
    {
        "name": "fnuz_converted_as_ocp",
        "kernel": "decode_attention",
        "description": "Codes of e4m3fnuz are converted to bfloat16 directly, for which an OCP part takes its own e4m3.",
        "patches": (("(tile.to(tl.float32) * scale).to(dtype)", "(tile.to(dtype).to(tl.float32) * scale).to(dtype)"),),
        "checks": ("fp8_semantics",),
        "target": "gfx1201",
    },
    {
        "name": "merge_unrolled",
        "kernel": "decode_attention",
        "description": "The merge is unrolled for 64 splits, which takes Triton's compiler many seconds.",
        "patches": (
            ("for split in range(num_kv_splits):", "for split in tl.static_range(64):"),
            (
                "tl.load(partial_lse + index + split)",
                'tl.load(partial_lse + index + split, mask=split < num_kv_splits, other=float("-inf"))',
            ),
        ),
        "checks": ("compile_time",),
        "target": "gfx942",
    },
)
