"""Three races of a directory's owner against root's commands in it.

races.py PROGRAM TRIES PLACE: PLACE is a directory of root's on the file system to try.
"""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time

PROGRAM, TRIES, PLACE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
USER = 4242
AT_FDCWD, RENAME_EXCHANGE = -100, 2
# So many tries of the control are enough for chance to show.
CONTROL = 20_000

HOME, VICTIM = f"{PLACE}/home", f"{PLACE}/victim"
KEYS, LINK, AWAY = f"{HOME}/keys", f"{HOME}/link", f"{HOME}/away"
LIBC = ctypes.CDLL(None, use_errno=True)


def exchange(one, other):
    LIBC.renameat2(AT_FDCWD, one.encode(), AT_FDCWD, other.encode(), RENAME_EXCHANGE)


def attempt(deed, *arguments):
    try:
        deed(*arguments)
    except OSError:
        pass


def swap():
    """keys/ becomes a link as soon as it is there, and then goes. Some are let pass."""
    while True:
        while not os.path.lexists(KEYS):
            pass
        if random.random() < 0.2:
            time.sleep(0.02)
        attempt(os.rename, KEYS, AWAY)
        attempt(os.symlink, VICTIM, KEYS)
        time.sleep(random.random() * 0.002)
        attempt(os.unlink, KEYS)
        shutil.rmtree(AWAY, ignore_errors=True)


def link():
    """The lock files are other names of a file that is precious to others."""
    while True:
        if random.random() < 0.5:
            time.sleep(0.03)
            attempt(os.unlink, f"{KEYS}/.lock")
            time.sleep(0.03)
        for name in (".lock", ".server"):
            attempt(os.unlink, f"{KEYS}/{name}")
            attempt(os.link, f"{VICTIM}/precious", f"{KEYS}/{name}")


def flip():
    """keys/ is a link and a directory in turn."""
    while True:
        exchange(KEYS, LINK)


def prepare(race):
    """The directory as it is before each race, and what is not to change."""
    for path in (HOME, VICTIM):
        shutil.rmtree(path, ignore_errors=True)
        os.mkdir(path)
    os.chmod(HOME, 0o755)
    # What the user may read and write, so that he may link it; and a name as a record has it.
    with open(f"{VICTIM}/precious", "w") as file:
        file.write("precious")
    os.chmod(f"{VICTIM}/precious", 0o666)
    os.chown(HOME, USER, USER)
    subprocess.run([PROGRAM, "rotate"], cwd=HOME, capture_output=True)
    key = subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"], capture_output=True, check=True
    )
    with open(f"{HOME}/private_key.pem", "wb") as file:
        file.write(key.stdout)
    os.chmod(f"{HOME}/private_key.pem", 0o600)
    os.chown(f"{HOME}/private_key.pem", USER, USER)
    if race is not swap:
        subprocess.run([PROGRAM, "rotate", "--now"], cwd=HOME, capture_output=True, check=True)
    if race is flip:
        for name in os.listdir(KEYS):
            if name.endswith(".pem"):
                shutil.copy(f"{KEYS}/{name}", f"{VICTIM}/{name}")
        os.symlink(VICTIM, LINK)
        os.lchown(LINK, USER, USER)


def state():
    """All that would tell a change of what is root's."""
    found = {}
    for path in [VICTIM] + [f"{VICTIM}/{name}" for name in os.listdir(VICTIM)]:
        stat = os.lstat(path)
        content = open(path, "rb").read() if os.path.isfile(path) else b""
        found[path] = (stat.st_uid, stat.st_gid, stat.st_mode, stat.st_ino, content)
    return found


def program(race, number):
    """Root's command. A key is made at each, so that there is something to write."""
    del race
    attempt(os.unlink, f"{HOME}/next_key.pem")
    haste = ["--now"] if number % 2 else []
    done = subprocess.run([PROGRAM, "rotate", *haste], cwd=HOME, capture_output=True, timeout=60)
    return done.returncode


def stand_in(race, number):
    """What root's command did when it stayed root: it opens by path what it has made or looked at.

    It is slower between the two than a program would be, since the attacker is.
    """
    del number
    try:
        if race is swap:
            os.mkdir(KEYS, 0o700)
            time.sleep(0.0005)
            handle = os.open(KEYS, os.O_RDONLY | os.O_DIRECTORY)
            os.fchown(handle, USER, USER)
            os.close(handle)
        elif race is link:
            handle = os.open(f"{KEYS}/.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            os.fchown(handle, USER, USER)
            os.close(handle)
        else:
            handle = os.open(f"{KEYS}/.new", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            os.close(handle)
            os.rename(f"{KEYS}/.new", f"{KEYS}/new.pem")
    except OSError:
        return 1
    return 0


def compete(race, victim, tries, until_lost):
    """How many of the tries were lost, and how many commands were done."""
    prepare(race)
    before = state()
    attacker = os.fork()
    if attacker == 0:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        race()
    lost = done = 0
    try:
        for number in range(tries):
            done += victim(race, number) == 0
            if state() != before:
                lost += 1
                if until_lost:
                    break
                for name in os.listdir(VICTIM):
                    if f"{VICTIM}/{name}" not in before:
                        os.unlink(f"{VICTIM}/{name}")
                before = state()
    finally:
        os.kill(attacker, signal.SIGKILL)
        os.waitpid(attacker, 0)
    return lost, done, number + 1


def main():
    kind = os.path.basename(PLACE)
    failed = False
    for race in (swap, link, flip):
        lost, _, control = compete(race, stand_in, CONTROL, True)
        if not lost:
            print(f"{kind}, {race.__name__}: the control won {control} tries, so the race shows nothing")
            failed = True
        lost, done, tries = compete(race, program, TRIES, False)
        print(
            f"{kind}, {race.__name__}: {lost} of {tries} lost, {done} commands done; "
            f"the control lost its try {control}",
            flush=True,
        )
        failed |= lost > 0
    sys.exit(failed)


main()
