"""How many files this process may hold open: every shard that is mapped holds one.

soft limit = min(what is needed, hard limit)       the soft limit is ours to raise, the hard one is the system's
"""

from __future__ import annotations

import os

from lgdlm.errors import InputError

OTHERS = 256  # files that libraries, sockets and checkpoints hold beside the shards


def allow_open_files(count: int) -> None:
    """Raise the soft limit so that `count` more files may be open. Raises InputError OPEN_FILES where the system's limit is lower."""
    if os.name != "posix":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _held() + count + OTHERS
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        message = f"{count} shards need {wanted} open files, the system allows {hard}; raise it with ulimit -Hn"
        raise InputError("OPEN_FILES", "system", "ulimit -n", message)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _held() -> int:
    """Files open now, where the system says so."""
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0
