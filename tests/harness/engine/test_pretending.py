"""The pretended platform: torch and Triton answer as on a machine with the target, and work as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton.runtime.driver import driver
from triton.runtime.errors import OutOfResources

from tridiff.harness.capture import NotCompiled, pretend, targeting
from tridiff.harness.capture.grids import launched_grid
from tridiff.harness.capture.pretending import replacements
from tridiff.harness.targets import table
from tridiff.harness.targets.table import BUILT_IN, Part

Pretend = Callable[[str], None]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretend]:
    """Pretends as `pretend` does, which is for good, until the test ends."""

    def until_the_end(target: str) -> None:
        for owner, name, _ in replacements(target):
            monkeypatch.setattr(owner, name, getattr(owner, name))
        pretend(target)

    with table.scope():
        yield until_the_end


def answers() -> dict[str, Any]:
    """What launchers ask, each in the way that some of them do."""
    properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    target = driver.active.get_current_target()
    return {
        "hip": torch.version.hip is not None,
        "cuda": torch.version.cuda is not None,
        "capability": torch.cuda.get_device_capability(),
        "version": (properties.major, properties.minor),
        "arch": properties.gcnArchName,
        "name": torch.cuda.get_device_name(0),
        "processors": properties.multi_processor_count,
        "warp": properties.warp_size,
        "shared": (properties.shared_memory_per_block, properties.shared_memory_per_block_optin),
        "of the SM": properties.shared_memory_per_multiprocessor,
        "target": (target.backend, target.arch, target.warp_size),
        "Triton": driver.active.utils.get_device_properties(driver.active.get_current_device()),
    }


def test_amd(pretended: Pretend) -> None:
    """A machine with an MI300X."""
    pretended("gfx942")

    assert answers() == {
        "hip": True,
        "cuda": False,
        "capability": (9, 4),
        "version": (9, 4),
        "arch": "gfx942:sramecc+:xnack-",
        "name": "AMD Instinct MI300X",
        "processors": 304,
        "warp": 64,
        "shared": (65536, 65536),
        "of the SM": 65536,
        "target": ("hip", "gfx942", 64),
        "Triton": {"max_shared_mem": 65536, "warpSize": 64, "multiprocessor_count": 304, "arch": "gfx942:sramecc+:xnack-"},
    }


def test_nvidia(pretended: Pretend) -> None:
    """A machine with an H100; 48 KiB of shared memory come without asking, and 1 KiB of the SM's belongs to CUDA."""
    pretended("sm_90")

    assert answers() == {
        "hip": False,
        "cuda": True,
        "capability": (9, 0),
        "version": (9, 0),
        "arch": "NVIDIA H100 80GB HBM3",
        "name": "NVIDIA H100 80GB HBM3",
        "processors": 132,
        "warp": 32,
        "shared": (49152, 232448),
        "of the SM": 233472,
        "target": ("cuda", 90, 32),
        "Triton": {"max_shared_mem": 232448, "warpSize": 32, "multiprocessor_count": 132},
    }
    assert torch.cuda.is_bf16_supported()


@pytest.mark.parametrize("target", BUILT_IN)
def test_every_part(pretended: Pretend, target: str) -> None:
    """One device, of the right kind, which names its architecture as launchers look for it."""
    pretended(target)

    seen = answers()

    assert (torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.get_arch_list()) == (True, 1, [target])
    assert seen["target"] == (BUILT_IN[target].backend, BUILT_IN[target].arch, BUILT_IN[target].warp_size)
    assert seen["hip"] is not seen["cuda"]
    assert target.startswith("sm_") or seen["arch"].partition(":")[0] == target


@pytest.mark.parametrize(
    "device", [None, 0, -1, "cuda", "cuda:0", "cpu", torch.device("cpu"), torch.device("cuda:0"), "Triton's"]
)
def test_ways_to_name_the_device(pretended: Pretend, device: Any) -> None:
    """By number or name, or as that of a tensor, which is on the CPU."""
    pretended("gfx950")
    named = driver.active.get_current_device() if device == "Triton's" else device

    with torch.cuda.device(named):
        torch.cuda.set_device(named)
        assert torch.cuda.get_device_properties(named).multi_processor_count == 256
        assert torch.cuda.get_device_capability(named) == (9, 5)


@pytest.mark.parametrize("device", [1, "cuda:1", torch.device("cuda", 3)])
def test_no_second_device(pretended: Pretend, device: Any) -> None:
    """As torch says it."""
    pretended("sm_80")

    with pytest.raises(AssertionError, match="Invalid device id"):
        torch.cuda.get_device_properties(device)


def test_figure_that_nobody_stated(pretended: Pretend) -> None:
    """A launcher may have a default; otherwise its case is not judged, and the line says what to add."""
    table.add([Part(name="gfx1151", shared_bytes=65536)])
    pretended("gfx1151")
    properties: Any = torch.cuda.get_device_properties(0)
    figures = driver.active.utils.get_device_properties(0)
    unstated = "the launcher asks for '{}' of a GPU, which is not known of gfx1151"

    assert (getattr(properties, "L2_cache_size", 0), figures.get("sm_clock_rate", 1)) == (0, 1)
    assert (properties.name, properties.gcnArchName, properties.warp_size) == ("AMD gfx1151", "gfx1151", 32)
    with pytest.raises(NotCompiled, match=f"{unstated.format('L2_cache_size')}$"):
        _ = properties.L2_cache_size
    with pytest.raises(NotCompiled, match=f"{unstated.format('multi_processor_count')}: add `processors` to targets.gfx1151 of"):
        _ = properties.multi_processor_count
    with pytest.raises(NotCompiled, match="'multiprocessor_count' of a GPU"):
        _ = figures["multiprocessor_count"]


def test_torch_works_as_before(pretended: Pretend) -> None:
    """Seeds, random numbers and their forks, streams, and tensors, which stay on the CPU."""
    pretended("gfx942")

    torch.manual_seed(3)
    with torch.random.fork_rng(), torch.cuda.stream(torch.cuda.current_stream()):
        inner = torch.randn(3)
    outer = torch.randn(3)
    torch.cuda.synchronize()
    torch.cuda.current_stream().synchronize()
    torch.cuda.init()
    torch.cuda.empty_cache()

    assert torch.equal(inner, outer)
    assert torch.cuda.current_stream(inner.device).cuda_stream == 0
    assert torch.cuda.mem_get_info()[1] == torch.cuda.get_device_properties(0).total_memory
    assert inner.device.type == "cpu"
    assert "0." in repr(outer.abs())
    with torch.cuda.device_of(inner):
        assert not torch.cuda.is_current_stream_capturing()


def test_driver_stays(pretended: Pretend) -> None:
    """Another target may be active for a while; afterwards, and after a reset, it is the pretended one."""
    pretended("sm_90")

    with targeting("gfx942"):
        assert driver.active.get_current_target().arch == "gfx942"
    driver.reset_active()

    assert driver.active.get_current_target().arch == 90
    assert driver.active.get_device_capability() == (9, 0)
    assert driver.active.get_device_interface() is torch.cuda


def test_threads_of_a_program(pretended: Pretend) -> None:
    """What the settings say of them is the limit."""
    pretended("gfx942")
    target, options = driver.active.get_current_target(), SimpleNamespace(num_warps=16, num_ctas=1)
    assert launched_grid((2, 1, 1), target, options) == (2, 1, 1)

    table.add([Part(name="gfx942", shared_bytes=65536, threads=512)])

    with pytest.raises(OutOfResources, match="threads, Required: 1024, Hardware limit: 512"):
        launched_grid((2, 1, 1), target, options)


def test_events(pretended: Pretend) -> None:
    """What a launcher records has happened at once."""
    pretended("gfx942")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    start.record()
    torch.cuda.current_stream().record_event(end)
    torch.cuda.current_stream().wait_event(end)
    end.synchronize()
    torch.cuda.empty_cache()

    assert torch.cuda.is_initialized()
    assert end.query()
    assert start.elapsed_time(end) == 0.0
