"""A flame graph: what a browser is given."""

from xml.etree import ElementTree

from scripts.benches.flame import WIDTH, flame_graph

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> dict[str, tuple[float, float, float]]:
    """By title: left, top, width."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None and title.text and box is not None
        found[title.text] = (float(box.attrib["x"]), float(box.attrib["y"]), float(box.attrib["width"]))
    return found


def test_a_frame_is_as_wide_as_its_time_and_stands_on_its_caller() -> None:
    found = boxes(flame_graph("x", {"a;b": 3.0, "a;c;d": 1.0, "e": 4.0}))
    every, a, b, c, d, e = (
        found[f"{name} us a message, {share}"]
        for name, share in [
            ("all: 8.000", "100.0%"), ("a: 4.000", "50.0%"), ("b: 3.000", "37.5%"),
            ("c: 1.000", "12.5%"), ("d: 1.000", "12.5%"), ("e: 4.000", "50.0%"),
        ]
    )  # fmt: skip
    assert (every[0], every[2]) == (0.0, WIDTH)
    assert (a[2], b[2], c[2], d[2], e[2]) == (WIDTH / 2, WIDTH * 3 / 8, WIDTH / 8, WIDTH / 8, WIDTH / 2)
    assert a[0] == b[0] == 0.0
    assert c[0] == d[0] == b[0] + b[2]
    assert e[0] == a[2]
    assert every[1] > a[1] > b[1] == c[1] > d[1]


def test_what_code_looks_like_is_still_xml() -> None:
    line = 'line_7:_if_a_<_b_&_c:_return_"<&>"'
    (title,) = [
        each for each in boxes(flame_graph("<&>", {f"<template>:root;{line}": 1.0})) if "line" in each
    ]
    assert title.startswith('line 7: if a < b & c: return "<&>": 1.000 us a message')
