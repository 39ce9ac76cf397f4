"""Which handler answers which request.

What leaves: the dispatch list, by opcode. Called by the worker. Left out on purpose, and answered
ENOSYS, which the kernel remembers: OPEN and OPENDIR (opens are stateless, so nothing has to be
rebuilt after a restart), CREATE (the kernel sends MKNOD instead, which saves the RELEASE), FLUSH,
ACCESS (the kernel checks permissions), locks (the kernel keeps them), POLL, BMAP. The whole table,
with every refusal, is docs/formats/operations.md.
"""

from everup.capture import changing, linking, nameless, naming, protocol, reading, renaming
from everup.capture.session import Handler

HANDLERS: list[Handler | None] = [None] * protocol.OPCODES_MAX
for opcode, handler in (
    (protocol.INIT, reading.init),
    (protocol.LOOKUP, reading.lookup),
    (protocol.FORGET, reading.forget),
    (protocol.BATCH_FORGET, reading.batch_forget),
    (protocol.GETATTR, reading.getattr),
    (protocol.STATX, reading.statx),
    (protocol.READLINK, reading.readlink),
    (protocol.READ, reading.read),
    (protocol.READDIR, reading.readdir),
    (protocol.READDIRPLUS, reading.readdirplus),
    (protocol.STATFS, reading.statfs),
    (protocol.LSEEK, reading.lseek),
    (protocol.GETXATTR, reading.getxattr),
    (protocol.LISTXATTR, reading.listxattr),
    (protocol.INTERRUPT, reading.interrupt),
    (protocol.RELEASE, reading.done),
    (protocol.RELEASEDIR, reading.done),
    (protocol.DESTROY, reading.done),
    (protocol.IOCTL, reading.not_a_terminal),
    (protocol.MKNOD, naming.mknod),
    (protocol.MKDIR, naming.mkdir),
    (protocol.SYMLINK, naming.symlink),
    (protocol.LINK, linking.link),
    (protocol.TMPFILE, nameless.tmpfile),
    (protocol.UNLINK, naming.unlink),
    (protocol.RMDIR, naming.rmdir),
    (protocol.RENAME, renaming.rename),
    (protocol.RENAME2, renaming.rename2),
    (protocol.WRITE, changing.write),
    (protocol.SETATTR, changing.setattr),
    (protocol.FALLOCATE, changing.fallocate),
    (protocol.COPY_FILE_RANGE, changing.copy_file_range),
    (protocol.COPY_FILE_RANGE_64, changing.copy_file_range),
    (protocol.SETXATTR, changing.setxattr),
    (protocol.REMOVEXATTR, changing.removexattr),
    (protocol.FSYNC, changing.fsync),
    (protocol.FSYNCDIR, changing.fsync),
    (protocol.SYNCFS, changing.syncfs),
):
    HANDLERS[opcode] = handler
