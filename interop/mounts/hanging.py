"""A file system that shows another directory, makes no events, and answers nothing while a file is there.

usage: hanging.py BACKING MOUNT_POINT CONTROL
"""

import os
import sys
import time

from fuse import FUSE, FuseOSError, Operations


class Hanging(Operations):
    def __init__(self, backing, control):
        self.backing, self.control = backing, control

    def __call__(self, operation, path, *args):
        while os.path.exists(self.control):
            time.sleep(0.05)
        try:
            return super().__call__(operation, self.backing + path, *args)
        except OSError as error:
            raise FuseOSError(error.errno) from error

    def access(self, path, mode):
        return 0

    def getattr(self, path, fh=None):
        found = os.lstat(path)
        names = ("st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid")
        return {name: getattr(found, name) for name in names}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(path)]

    def readlink(self, path):
        return os.readlink(path)

    def statfs(self, path):
        found = os.statvfs(path)
        return {name: getattr(found, name) for name in ("f_bavail", "f_bfree", "f_blocks", "f_bsize")}

    def mkdir(self, path, mode):
        os.mkdir(path, mode)

    def unlink(self, path):
        os.unlink(path)

    def rename(self, old, new):
        os.rename(old, self.backing + new)

    def create(self, path, mode, fi=None):
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path, flags):
        return os.open(path, flags & ~os.O_NOFOLLOW)

    def read(self, path, length, offset, fh):
        return os.pread(fh, length, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(path, length)

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def release(self, path, fh):
        os.close(fh)


if __name__ == "__main__":
    backing, mount_point, control = sys.argv[1:]
    options = {"foreground": True, "attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    FUSE(Hanging(backing, control), mount_point, **options)
