"""Folded stacks as a flame graph: an SVG file that a browser opens, without scripts.

A frame is as wide as the CPU below it; callers are at the bottom; frames of one caller are in alphabetical
order. Pointing at one shows its name, its microseconds a message and its share.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from xml.sax.saxutils import escape, quoteattr

from scripts.benches.budget import Folded

WIDTH = 1_600.0
_ROW = 17.0
_HEAD = 44.0
_NARROWEST = 0.4
"""Pixels; what is narrower isn't drawn."""
_CHARACTER = 6.7
_HUES = {"worker/": 20, "broker/": 20, "evenpost/": 50, "line": 5, "[": 200, "scripts/": 280}
_LIBRARY_HUE = 120


@dataclass
class _Frame:
    us: float = 0.0
    inside: dict[str, "_Frame"] = field(default_factory=dict)


def flame_graph(title: str, folded: Folded) -> str:
    """The SVG. `title` is text; `folded` has microseconds a message."""
    root = _Frame()
    for stack, us in folded.items():
        root.us += us
        at = root
        for name in stack.split(";"):
            at = at.inside.setdefault(name, _Frame())
            at.us += us
    depth = _depth(root)
    height = _HEAD + (depth + 1) * _ROW
    scale = WIDTH / root.us if root.us else 0.0
    drawn: list[str] = []

    def draw(name: str, frame: _Frame, left: float, level: int) -> None:
        width = frame.us * scale
        if width < _NARROWEST:
            return
        top = height - (level + 1) * _ROW
        # Spaces are underlines in a folded file.
        shown = name.replace("_", " ") if name.startswith("line_") else name
        told = f"{shown}: {frame.us:.3f} us a message, {frame.us / root.us:.1%}"
        text = escape(shown[: int(width / _CHARACTER)]) if width > 3 * _CHARACTER else ""
        drawn.append(
            f'<g><title>{escape(told)}</title><rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{_ROW - 1:.1f}" fill="{_colour(name)}"/>'
            f'<text x="{left + 2:.1f}" y="{top + 12:.1f}">{text}</text></g>'
        )
        for inner, one in sorted(frame.inside.items()):
            draw(inner, one, left, level + 1)
            left += one.us * scale

    draw("all", root, 0.0, 0)
    label = quoteattr(f"Flame graph: {title}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label={label} '
        f'viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="100%">\n'
        "<style>text{font:11px monospace;fill:#111}rect{stroke:#fff;stroke-width:.5}"
        "g:hover rect{stroke:#000;stroke-width:1.5}</style>\n"
        f'<rect width="{WIDTH:.0f}" height="{height:.0f}" fill="#fff"/>\n'
        f'<text x="8" y="18" style="font-size:15px">{escape(title)}</text>\n'
        f'<text x="8" y="36">{root.us:.1f} us of CPU a message. Point at a frame: its name and time.</text>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _depth(frame: _Frame) -> int:
    return max((1 + _depth(one) for one in frame.inside.values()), default=0)


def _colour(name: str) -> str:
    hue = next((hue for start, hue in _HUES.items() if name.startswith(start)), _LIBRARY_HUE)
    shade = blake2b(name.encode(), digest_size=1).digest()[0]  # the same name, the same colour
    return f"hsl({hue + shade % 20},{70 + shade % 20}%,{68 + shade % 12}%)"
