"""What is asked of each verifier, what must be, and how a run is told."""

import datetime
import re

from processes import CACHE_MAX_AGE, PUBLISH_LEAD, RETAIN_FOR

# How far a number of seconds may lie from the expected one.
TOLERANCE = 15

# Column, what it shows, and the outcome that must be (None: the verifier's own affair).
CELLS = {
    "current": ("the current key", "yes"),
    "forged": ("a key that was never published: an unknown kid", "no"),
    "forged, no kid": ("a key that was never published, no kid", "no"),
    "broken": ("the current key, one bit of the signature flipped", "no"),
    "next, fetched before": ("the new key from its promotion on; fetched last before it was "
                             "published, or when its own cache ran out", None),
    "next, after forged": ("the same, by a verifier that met an unknown kid a minute before", None),
    "next, fetched since": ("the new key at its promotion; started after it was published", "yes"),
    "next, fresh": ("the new key; started after its promotion", "yes"),
    "retired": ("the retired key in the overlap, by a verifier that knew it", "yes"),
    "retired, fresh": ("the retired key in the overlap; started after the promotion", "yes"),
    "removed": ("the retired key after its removal, by a verifier that knew it", None),
    "removed, fresh": ("the retired key; started after its removal", "no"),
    "revoked": ("the revoked key, by a verifier that knew it and meets no other", None),
    "revoked, fresh": ("the revoked key; started after the revocation", "no"),
    "replacement": ("the key that replaced the revoked one, never published before", None),
    "replacement, just fetched": ("the same, by a verifier that fetched within 3 s before", None),
    "replacement, fresh": ("the same; started after the revocation", "yes"),
    "revoked, then": ("the revoked key, once the replacement was accepted", None),
    "no kid, 1 key": ("no kid; the current key, alone in the set", None),
    "no kid, +next": ("no kid; the current key, the next one published beside it", None),
    "no kid, fetched before": ("no kid; the new key from its promotion on; fetched last before it "
                               "was published, or when its own cache ran out", None),
    "no kid, new": ("no kid; the new key, the retired one beside it; started after", None),
    "no kid, retired": ("no kid; the retired key in the overlap; started after", None),
}
TABLES = [
    ("With a kid, through a rotation",
     ["current", "next, fetched before", "next, after forged", "next, fetched since",
      "next, fresh", "retired", "retired, fresh"]),
    ("After removal, and around a revocation",
     ["removed", "removed, fresh", "revoked", "revoked, fresh", "replacement",
      "replacement, just fetched", "replacement, fresh", "revoked, then"]),
    ("Without a kid, and what nobody may accept",
     ["no kid, 1 key", "no kid, +next", "no kid, fetched before", "no kid, new",
      "no kid, retired", "forged", "forged, no kid", "broken"]),
]


def failures(verifier):
    """What the service promises and this verifier did not see."""
    return [f"{verifier.name}: {cell}: {verifier.cells.get(cell, 'not asked')}, must be {must} "
            f"({CELLS[cell][0]}): {verifier.errors.get(cell, '')}"
            for cell, (_, must) in CELLS.items()
            if must is not None and verifier.cells.get(cell) != must]


def differs(found, expected):
    """Whether an outcome is another one than expected; seconds may differ a little."""
    def parts(outcome):
        timed = re.fullmatch(r"(>?)(\d+) s", outcome)
        return (timed[1] or "s", int(timed[2])) if timed else (outcome, 0)

    (kind, seconds), (expected_kind, expected_seconds) = parts(found), parts(expected)
    if kind != expected_kind:
        return True
    return kind == "s" and abs(seconds - expected_seconds) > TOLERANCE


def changes(verifiers, expected):
    for verifier in verifiers:
        if verifier.name not in expected:
            yield f"{verifier.name} {verifier.version}: nothing is expected of it yet"
            continue
        for cell in (cell for cell, (_, must) in CELLS.items() if must is None):
            found = verifier.cells.get(cell, "not asked")
            before = expected[verifier.name].get(cell, "nothing")
            if differs(found, before):
                yield f"{verifier.name} {verifier.version}: {cell}: {found}, expected {before}"


def markdown(verifiers, skipped):
    today = datetime.datetime.now(datetime.timezone.utc).date()
    lines = [
        f"Run on {today}, with `--publish-lead {PUBLISH_LEAD}s --retain-for {RETAIN_FOR}s "
        f"--cache-max-age {CACHE_MAX_AGE}s`. A number is the seconds until the key was accepted, "
        "or in the columns *removed* and *revoked* until it was rejected; `>` means that it had "
        "not happened when the run stopped asking. **Bold**: must be so, or the run fails.", ""]
    for title, cells in TABLES:
        heads = [f"**{cell}**" if CELLS[cell][1] else cell for cell in cells]
        lines += [f"### {title}", "", f"| Verifier | {' | '.join(heads)} |",
                  f"|---|{'---|' * len(cells)}"]
        for verifier in verifiers:
            row = [f"{verifier.name} {verifier.version} ({verifier.origin})",
                   *(verifier.cells.get(cell, "?") for cell in cells)]
            lines.append(f"| {' | '.join(row)} |")
        lines += [f"| {name} | {' | '.join(['skipped'] * len(cells))} |" for name in skipped]
        lines.append("")
        lines += [f"- {cell}: {CELLS[cell][0]}" for cell in cells]
        lines.append("")
    return "\n".join(lines)
