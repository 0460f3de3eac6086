"""What a kernel wait channel means: the function a sleeping thread waits in, sorted into families.

Read by the supervisor, so it imports nothing: every millisecond of its start counts for each probe.
"""

from __future__ import annotations

__all__ = ["CHILD", "FILES", "FUTEX", "LOCK", "NETWORK", "PIPE", "POLL", "SLEEP", "UNKNOWN", "family"]

FILES, FUTEX, SLEEP, POLL = "files", "futex", "sleep", "poll"
CHILD, PIPE, NETWORK, LOCK, UNKNOWN = "child", "pipe", "network", "lock", "unknown"

_FAMILIES: dict[str, str] = {
    # file locks first: "locks_lock_inode_wait" must not read as a wait for a file system
    LOCK: "locks_lock flock_lock posix_lock fcntl_setlk do_lock_file_wait",
    FUTEX: "futex",
    SLEEP: "nanosleep",
    CHILD: "do_wait kernel_wait kernel_waitid",
    PIPE: "pipe_",
    POLL: "do_poll do_sys_poll do_select ep_poll epoll poll_schedule schedule_hrtimeout",
    NETWORK: "sk_ tcp_ inet_ unix_ skb_ udp_",
    # the page cache and the block layer; file systems of this machine; of the network and of user space
    FILES: "folio_wait wait_on_page wait_on_buffer io_schedule blk_ lookup_slow d_alloc rwsem_down"
    " jbd2 ext4 xfs btrfs zfs zpl_ ocfs2 gfs2 autofs"
    " request_wait_answer fuse nfs rpc_ cifs smb wait_for_response ceph"
    " p9_ v9fs ptlrpc lustre ll_ virtio_fs beegfs",
}


def family(wchan: str) -> str:
    """The family of a wait channel; `unknown` where the kernel does not say ("0") or says something new.

    Names often carry a prefix ("anon_pipe_read", "__x64_sys_…"), so a family's word may begin after one.
    """
    name = wchan.lstrip("_")
    for kind, words in _FAMILIES.items():
        if any(name.startswith(word) or f"_{word}" in name for word in words.split()):
            return kind
    return UNKNOWN
