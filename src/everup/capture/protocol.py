"""The FUSE kernel protocol as numbers and structs (pure).

What enters and leaves: bytes of requests and replies as <linux/fuse.h> lays them out, version 7.45
and its predecessors down to 7.36 (kernel 5.16); Debian 12 speaks 7.37. Called by the session and
the handlers of this package.
"""

from struct import Struct

MAJOR = 7
MINOR = 45
MINOR_MIN = 36
ROOT_NODE = 1

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK = 8, 9, 10, 11, 12, 13
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 14, 15, 16, 17, 18, 20
SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT = 21, 22, 23, 24, 25, 26
OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 27, 28, 29, 30
ACCESS, CREATE, INTERRUPT, DESTROY = 34, 35, 36, 38
IOCTL, POLL, BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2 = 39, 40, 42, 43, 44, 45
LSEEK, COPY_FILE_RANGE, SYNCFS, TMPFILE, STATX, COPY_FILE_RANGE_64 = 46, 47, 50, 51, 52, 53
OPCODES_MAX = 64

NAMES = {
    LOOKUP: "lookup", FORGET: "forget", GETATTR: "getattr", SETATTR: "setattr",
    READLINK: "readlink", SYMLINK: "symlink", MKNOD: "mknod", MKDIR: "mkdir", UNLINK: "unlink",
    RMDIR: "rmdir", RENAME: "rename", LINK: "link", OPEN: "open", READ: "read", WRITE: "write",
    STATFS: "statfs", RELEASE: "release", FSYNC: "fsync", SETXATTR: "setxattr",
    GETXATTR: "getxattr", LISTXATTR: "listxattr", REMOVEXATTR: "removexattr", FLUSH: "flush",
    INIT: "init", OPENDIR: "opendir", READDIR: "readdir", RELEASEDIR: "releasedir",
    FSYNCDIR: "fsyncdir", ACCESS: "access", CREATE: "create", INTERRUPT: "interrupt",
    DESTROY: "destroy", IOCTL: "ioctl", POLL: "poll", BATCH_FORGET: "batch-forget",
    FALLOCATE: "fallocate", READDIRPLUS: "readdirplus", RENAME2: "rename2", LSEEK: "lseek",
    COPY_FILE_RANGE: "copy-file-range", SYNCFS: "syncfs", TMPFILE: "tmpfile", STATX: "statx",
    COPY_FILE_RANGE_64: "copy-file-range-64",
}  # fmt: skip

UNIQUE_RESEND = 1 << 63
NOTIFY_RESEND = 7

# length, opcode, unique, node, uid, gid, pid, extension length in 8-byte units
IN_HEADER = Struct("<IIQQIIIHxx")
OUT_HEADER = Struct("<IiQ")
IN_HEADER_BYTES = IN_HEADER.size
OUT_HEADER_BYTES = OUT_HEADER.size

# features of INIT
ASYNC_READ = 1 << 0
BIG_WRITES = 1 << 5
DONT_MASK = 1 << 6
DO_READDIRPLUS = 1 << 13
READDIRPLUS_AUTO = 1 << 14
ASYNC_DIO = 1 << 15
NO_OPEN_SUPPORT = 1 << 17
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
ABORT_ERROR = 1 << 21
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
NO_OPENDIR_SUPPORT = 1 << 24
EXPLICIT_INVAL_DATA = 1 << 25
HANDLE_KILLPRIV_V2 = 1 << 28
SETXATTR_EXT = 1 << 29
INIT_EXT = 1 << 30
NO_EXPORT_SUPPORT = 1 << 38
HAS_RESEND = 1 << 39

# Not asked for, on purpose: WRITEBACK_CACHE (reorders), POSIX_LOCKS and FLOCK_LOCKS (the kernel
# keeps locks right by itself), ATOMIC_O_TRUNC (opens are stateless, truncation comes as SETATTR),
# PARALLEL_DIRECT_WRITES, EXPORT_SUPPORT, AUTO_INVAL_DATA (nothing changes but through us).
WANTED = (
    ASYNC_READ | BIG_WRITES | DONT_MASK | DO_READDIRPLUS | READDIRPLUS_AUTO | ASYNC_DIO
    | NO_OPEN_SUPPORT | PARALLEL_DIROPS | POSIX_ACL | ABORT_ERROR | MAX_PAGES | CACHE_SYMLINKS
    | NO_OPENDIR_SUPPORT | EXPLICIT_INVAL_DATA | HANDLE_KILLPRIV_V2 | SETXATTR_EXT | INIT_EXT
    | NO_EXPORT_SUPPORT | HAS_RESEND
)  # fmt: skip
NEEDED = BIG_WRITES | DONT_MASK | NO_OPEN_SUPPORT | HANDLE_KILLPRIV_V2 | MAX_PAGES

INIT_IN = Struct("<IIIII")
INIT_IN_SHORT = Struct("<IIII")
INIT_OUT = Struct("<IIIIHHIIHHI28x")

ATTR = Struct("<QQQQQQIIIIIIIIII")
ATTR_OUT_HEAD = Struct("<QIxxxx")
ATTR_OUT = Struct("<QIxxxxQQQQQQIIIIIIIIII")
ENTRY_OUT = Struct("<QQQQIIQQQQQQIIIIIIIIII")
ENTRY_OUT_BYTES = ENTRY_OUT.size
DIRENT = Struct("<QQII")
STATFS_OUT = Struct("<QQQQQIIII24x")

# valid, fh, size, lock owner, atime, mtime, ctime, atime ns, mtime ns, ctime ns, mode, uid, gid
SETATTR_IN = Struct("<IxxxxQQQQQQIIIIxxxxIIxxxx")
MKNOD_IN = Struct("<IIIxxxx")
# flags, mode, umask
CREATE_IN = Struct("<IIIxxxx")
OPEN_OUT = Struct("<QIi")
MKDIR_IN = Struct("<II")
RENAME_IN = Struct("<Q")
RENAME2_IN = Struct("<QIxxxx")
LINK_IN = Struct("<Q")
READ_IN = Struct("<QQIIQIxxxx")
WRITE_IN = Struct("<QQIIQIxxxx")
WRITE_OUT = Struct("<Ixxxx")
FSYNC_IN = Struct("<QIxxxx")
SETXATTR_IN = Struct("<IIIxxxx")
GETXATTR_IN = Struct("<Ixxxx")
GETXATTR_OUT = Struct("<Ixxxx")
FORGET_IN = Struct("<Q")
BATCH_FORGET_IN = Struct("<Ixxxx")
FORGET_ONE = Struct("<QQ")
# valid, flags, statx
STATX_OUT_HEAD = Struct("<QIIxxxxxxxxxxxxxxxx")
FALLOCATE_IN = Struct("<QQQIxxxx")
LSEEK_IN = Struct("<QqIxxxx")
LSEEK_OUT = Struct("<Q")
COPY_IN = Struct("<QQQQQQQ")
COPY_OUT_64 = Struct("<Q")

WRITE_BODY_AT = IN_HEADER_BYTES + WRITE_IN.size

FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_KILL_SUIDGID = 1 << 11
FATTR_CHANGES = (
    FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME
    | FATTR_ATIME_NOW | FATTR_MTIME_NOW
)  # fmt: skip

WRITE_CACHE = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
FSYNC_DATA_ONLY = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
ACL_KILL_SGID = 1 << 0

assert IN_HEADER_BYTES == 40 and OUT_HEADER_BYTES == 16
assert ATTR.size == 88 and ENTRY_OUT_BYTES == 128 and ATTR_OUT.size == 104
assert SETATTR_IN.size == 88 and WRITE_IN.size == 40 and INIT_OUT.size == 64
assert STATFS_OUT.size == 80 and READ_IN.size == 40
