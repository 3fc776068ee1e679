"""A disk on which a sync takes time: every fsync, fdatasync, syncfs and sync_file_range of a program that is started
with this library before the C library's waits first, and is counted.

What it can't show: that many syncs at once share a disk's turn (they wait side by side here), and that a sync of much
takes longer than one of little.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long calls;

static void wait_first(void) {
    static long nanoseconds = -1;
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    if (nanoseconds < 0) {
        const char *told = getenv("SLOW_DISK_US");
        nanoseconds = told ? atol(told) * 1000 : 0;
    }
    struct timespec left = { nanoseconds / 1000000000, nanoseconds % 1000000000 };
    while (nanoseconds && nanosleep(&left, &left)) { }
}

#define SLOW(name, parameters, arguments) \
    int name parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters) dlsym(RTLD_NEXT, #name); \
        wait_first(); \
        return real arguments; \
    }

SLOW(fsync, (int fd), (fd))
SLOW(fdatasync, (int fd), (fd))
SLOW(syncfs, (int fd), (fd))
SLOW(sync_file_range, (int fd, off_t at, off_t length, unsigned flags), (fd, at, length, flags))

__attribute__((destructor)) static void tell(void) {
    const char *where = getenv("SLOW_DISK_COUNT");
    FILE *file = where && calls ? fopen(where, "a") : NULL;
    if (file) { fprintf(file, "%ld\n", calls); fclose(file); }
}
"""


class SlowDisk:
    """Builds the library in a folder; raises RuntimeError without a C compiler."""

    def __init__(self, folder: Path, sync_ms: float) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise RuntimeError("a slow disk needs a C compiler (apt install gcc libc6-dev)")
        self._library = folder / "slow_disk.so"
        self._counts = folder / "slow_disk.counts"
        self._sync_ms = sync_ms
        source = folder / "slow_disk.c"
        source.write_text(_SOURCE)
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)

    def environment(self, before: Mapping[str, str]) -> dict[str, str]:
        """What a program is started with to have this disk."""
        self._counts.unlink(missing_ok=True)
        mine = {"SLOW_DISK_US": str(round(self._sync_ms * 1000)), "SLOW_DISK_COUNT": str(self._counts)}
        return {**before, **mine, "LD_PRELOAD": str(self._library)}

    def syncs(self) -> int:
        """How many syncs the programs that were started since and have ended did."""
        return sum(int(line) for line in self._counts.read_text().split()) if self._counts.exists() else 0
