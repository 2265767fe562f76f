"""Leases of processes that this machine does not run."""

import os

from diffusion_lab.store import lease


def put_lease(folder, pid=7, host="elsewhere", seconds=None):
    """A process of another machine has taken `folder`, as its file says."""
    seconds = lease.LEASE_SECONDS if seconds is None else seconds
    new = folder / "new"
    new.write_text(f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=its own\nduration={seconds!r}\n")
    os.replace(new, folder / lease.FILE)
