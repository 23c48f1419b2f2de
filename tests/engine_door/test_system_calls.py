"""The filter under runc: what it must never let through, whoever edits it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hutch.backends.system_calls import ALLOWED, PROFILE

RULES = json.loads(PROFILE)["syscalls"]
CLOSED = """
    add_key keyctl request_key bpf perf_event_open userfaultfd io_uring_setup io_uring_enter
    io_uring_register mount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount
    fspick pivot_root chroot unshare setns kexec_load kexec_file_load init_module finit_module
    delete_module reboot swapon swapoff acct settimeofday clock_settime adjtimex clock_adjtime
    sethostname setdomainname iopl ioperm open_by_handle_at name_to_handle_at syslog quotactl
    fanotify_init fanotify_mark lookup_dcookie kcmp pidfd_getfd process_madvise vhangup sync
    syncfs socketcall ioprio_set mbind migrate_pages move_pages set_mempolicy modify_ldt
"""


def test_what_is_not_named_is_refused() -> None:
    profile = json.loads(PROFILE)
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert [each["subArchitectures"] for each in profile["archMap"]] == [[], []]


@pytest.mark.parametrize("call", CLOSED.split())
def test_a_call_on_the_host_is_in_no_rule(call: str) -> None:
    assert not [rule for rule in RULES if call in rule["names"]]


def test_one_list_is_open_and_the_rest_has_conditions() -> None:
    free = [rule for rule in RULES if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule]
    assert [rule["names"] for rule in free] == [list(ALLOWED)]
    bound = {name for rule in RULES if rule not in free for name in rule["names"]}
    assert bound == {"socket", "socketpair", "clone", "clone3", "personality"}
    assert not bound & set(ALLOWED)


def test_no_condition_is_what_a_number_is_not() -> None:
    """The kernel reads half of the bits that a filter compares."""
    for rule in RULES:
        for condition in rule.get("args", ()):
            assert condition["op"] in {"SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"}
            if condition["op"] == "SCMP_CMP_MASKED_EQ":  # none of these bits
                assert (rule["names"], condition["valueTwo"]) == (["clone"], 0)


def test_no_name_is_a_slip_of_the_pen() -> None:
    """The engine ignores a name that it does not know, and the call would be refused in silence."""
    table = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not table.exists():
        pytest.skip("this machine has no headers of the kernel")
    known = set(re.findall(r"^#define __NR_(\w+)", table.read_text(), re.MULTILINE))
    since_6_1 = {
        *("cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_wake", "getxattrat"),
        *("listxattrat", "map_shadow_stack", "mseal", "removexattrat", "setxattrat", "uretprobe"),
    }
    assert set(ALLOWED) - known <= since_6_1
