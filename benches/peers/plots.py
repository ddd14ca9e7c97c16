"""Draws medians over a logarithmic axis as SVG, one line for each server."""

import math
import statistics
from html import escape

from measures import COUNTS, LOADS

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 40, 50
COLOURS = {"nginx": "#2a7", "jwks-server": "#c22", "limit": "#888", "h2o": "#27c", "caddy": "#a6c",
           "go": "#e90", "express": "#666"}


def drawings(samples):
    """The plots whose measures were made, by file name."""
    plots = {
        "latency.svg": ("Latency against load: p50 (solid) and p99 (dashed)", "requests a second",
                        "µs", LOADS, {"": "p50 at {:,}/s", "6 4": "p99 at {:,}/s"}),
        "keys.svg": ("CPU per GET against the number of keys", "keys in the set", "µs", COUNTS,
                     {"": "CPU per GET of {:,} keys"}),
    }
    return {file: draw(samples, *plot) for file, plot in plots.items()
            if any(row.format(plot[3][0]) in samples for row in plot[4].values())}


def draw(samples, title, x_name, y_name, xs, lines):
    medians = {}
    for dashes, row in lines.items():
        for x in xs:
            for peer, values in samples.get(row.format(x), {}).items():
                medians.setdefault((peer, dashes), []).append((x, statistics.median(values)))
    medians = {of: points for of, points in medians.items() if len(points) > 1}
    values = [y for points in medians.values() for _, y in points]
    bottom = 10 ** math.floor(math.log10(min(values)))
    top = 10 ** math.ceil(math.log10(max(values)))

    def at(x, y):
        across = math.log(x / xs[0]) / math.log(xs[-1] / xs[0])
        up = math.log(y / bottom) / math.log(top / bottom)
        return (round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
                round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        text(LEFT, TOP - 16, title, "start", 14),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_name),
        text(LEFT - 8, TOP - 2, y_name, "end"),
    ]
    for x in xs:
        across, low = at(x, bottom)
        parts += [line(across, low, across, TOP), text(across, low + 16, f"{x:,}")]
    y = bottom
    while y <= top:
        left, up = at(xs[0], y)
        parts += [line(left, up, WIDTH - RIGHT, up), text(left - 8, up + 4, f"{y:,g}", "end")]
        y *= 10
    names = []
    for (peer, dashes), points in medians.items():
        path = " ".join(f"{across},{up}" for across, up in (at(*point) for point in points))
        parts.append(f'<polyline fill="none" stroke="{COLOURS[peer]}" stroke-width="2" '
                     f'stroke-dasharray="{dashes}" points="{path}"/>')
        if not dashes:
            names.append((at(*points[-1])[1], peer))
    # Names that would lie on each other move apart.
    last = 0
    for up, peer in sorted(names):
        last = max(up, last + 14)
        parts.append(text(WIDTH - RIGHT + 8, last + 4, peer, "start", fill=COLOURS[peer]))
    return "\n".join([*parts, "</svg>", ""])


def line(x1, y1, x2, y2):
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#ddd"/>'


def text(x, y, words, anchor="middle", size=12, fill="#333"):
    return (f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">'
            f"{escape(words)}</text>")
