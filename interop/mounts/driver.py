"""The server on a file system that makes no events, and then hangs. Each step is polled for.

usage: driver.py SERVER
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PATIENCE = 60


def eventually(what, found):
    deadline = time.monotonic() + PATIENCE
    began = time.monotonic()
    while time.monotonic() < deadline:
        if result := found():
            print(f"ok after {time.monotonic() - began:.1f} s: {what}")
            return result
        time.sleep(0.05)
    sys.exit(f"FAILED: waited {PATIENCE} s in vain: {what}")


def expect(what, is_so):
    if not is_so:
        sys.exit(f"FAILED: {what}")
    print(f"ok: {what}")


def refused(url):
    try:
        urllib.request.urlopen(url + "/healthz", timeout=2).close()
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    return False


def public_key():
    make = "openssl ecparam -name prime256v1 -genkey -noout | openssl pkey -pubout"
    return subprocess.run(make, shell=True, check=True, capture_output=True).stdout


def main(server):
    here = pathlib.Path(__file__).parent
    base = pathlib.Path(tempfile.mkdtemp())
    backing, mounted, control = base / "backing", base / "mounted", base / "hang"
    backing.mkdir()
    mounted.mkdir()
    fuse = subprocess.Popen([sys.executable, "-B", here / "hanging.py", backing, mounted, control])
    process = None
    try:
        eventually("the file system is mounted", lambda: os.path.ismount(mounted))
        with open(base / "stdout", "wb") as out, open(base / "stderr", "wb") as err:
            command = [server, "--port", "0", "--bind", "127.0.0.1"]
            process = subprocess.Popen(command, cwd=mounted, stdout=out, stderr=err)

        def port():
            if process.poll() is not None:
                sys.exit("FAILED: the server ended: " + (base / "stderr").read_text())
            return re.search(r":(\d+)/", (base / "stdout").read_text())

        url = f"http://127.0.0.1:{eventually('the server serves', port)[1]}"

        def get(path):
            with urllib.request.urlopen(url + path, timeout=2) as answer:
                return json.load(answer)

        def codes():
            # What was served stays served, whatever the file system does.
            assert get("/.well-known/jwks.json")["keys"]
            return [problem["code"] for problem in get("/readyz")["degraded"]]

        expect("/readyz says that there are no events", "no_file_events" in codes())
        status = subprocess.run([server, "status"], cwd=mounted, capture_output=True, text=True)
        expect("so does status", "is on FUSE" in status.stdout)

        began = time.monotonic()
        (backing / "keys" / "new.pem").write_bytes(public_key())
        eventually("a change made elsewhere is served", lambda: len(get("/.well-known/jwks.json")["keys"]) == 2)
        expect("sooner than the sweep would find it", time.monotonic() - began < 8)

        control.touch()
        eventually("a look that hangs is reported", lambda: "set_stuck" in codes())
        control.unlink()
        eventually("until it returns", lambda: "set_stuck" not in codes())
        (backing / "keys" / "new.pem").unlink()
        eventually("and changes are served again", lambda: len(get("/.well-known/jwks.json")["keys"]) == 1)

        # What the kernel asks of the file system when it closes files holds what is left of the process,
        # as it would after SIGKILL: the program itself is gone, and so is its port.
        control.touch()
        eventually("it hangs again", lambda: "set_stuck" in codes())
        process.send_signal(signal.SIGTERM)
        state = pathlib.Path(f"/proc/{process.pid}/status")
        eventually("SIGTERM ends the program", lambda: "\nState:\tZ" in state.read_text())
        expect("its port is free", refused(url))
        control.unlink()
        expect("and all of the process once the disk answers", process.wait(PATIENCE) == 0)
    finally:
        control.unlink(missing_ok=True)
        if process and process.poll() is None:
            process.kill()
            process.wait()
        subprocess.run(["umount", "-l", mounted], check=False)
        fuse.terminate()
        fuse.wait()
    print("all passed")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]))
