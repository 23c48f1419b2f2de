"""What a user's container may use, and what it does."""

from __future__ import annotations

from hutch.api.shapes import (
    ContainerStats,
    CpuQuota,
    DiskQuota,
    EgressQuota,
    MemoryQuota,
    OpenFilesQuota,
    ProcessQuota,
    Quotas,
    RunQuota,
)
from hutch.app import Hutch
from hutch.backends.docker_spec import FILES_MAX
from hutch.backends.limits import resources_of
from hutch.sandboxes.inside import Inside
from hutch.sandboxes.models import Sandbox
from hutch_runtime.protocol import RUN_MAX_BYTES


async def quotas(
    hutch: Hutch, sandbox: Sandbox, stats: ContainerStats | None, inside: Inside
) -> Quotas:
    settings = hutch.settings
    limits = resources_of(settings)
    by_tier = await hutch.runs.limits(sandbox.owner)
    return Quotas(
        cpu=CpuQuota(
            share=limits.cpu_share,
            ceiling=limits.cpu_ceiling,
            used_seconds=stats.cpu_seconds if stats else None,
        ),
        memory=MemoryQuota(
            soft_bytes=limits.memory_soft_mb << 20,
            hard_bytes=limits.memory_hard_mb << 20,
            used_bytes=stats.memory_bytes if stats else None,
        ),
        processes=ProcessQuota(
            limit=limits.pids,
            limit_of_agents=limits.agent_pids if sandbox.isolation == "gvisor" else None,
            used=stats.pids if stats else None,
        ),
        open_files=OpenFilesQuota(limit_of_a_process=FILES_MAX),
        disk=[
            DiskQuota(
                place=disk.place,
                limit_bytes=disk.bytes,
                used_bytes=disk.used_bytes,
                limit_files=disk.files,
                used_files=disk.used_files,
            )
            for disk in inside.disk
        ],
        egress=EgressQuota(
            mb_per_s=settings.egress_mb_per_s or None, connections=settings.egress_connections
        ),
        runs=RunQuota(
            at_once=by_tier.runs_at_once,
            waiting=by_tier.queued,
            timeout_s=settings.run_timeout_s,
            timeout_max_s=settings.run_timeout_max_s,
            output_bytes=RUN_MAX_BYTES,
        ),
    )
