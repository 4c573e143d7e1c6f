"""Names beside points: none lies on another, and points in one place share a label."""

from hypothesis import given
from hypothesis import strategies as st

from crosstok.results.web.labels import GAP, LETTER, LINE, Mark, place

MARKS = st.lists(
    st.builds(Mark, st.text("abc-", min_size=1, max_size=20), st.floats(0, 250), st.floats(0, 160)), max_size=30
)


@given(MARKS)
def test_labels_never_lie_on_each_other_or_outside(marks: list[Mark]) -> None:
    boxes = []
    for label in place(marks, 250, 8):
        length = LETTER * 8 * len(label.text)
        start = marks[label.of].x + label.dx - (length if label.side == "right" else 0)
        boxes.append((start, marks[label.of].y + label.dy, start + length, marks[label.of].y + label.dy + LINE * 8))
    for number, (left, bottom, right, top) in enumerate(boxes):
        assert left >= 0
        assert right <= 250
        for other in boxes[:number]:
            assert other[2] <= left or right <= other[0] or other[3] <= bottom or top <= other[1]


def test_a_lone_point_is_named_to_its_right_and_one_at_the_edge_to_its_left() -> None:
    right, left = place([Mark("model", 10, 10), Mark("model", 245, 100)], 250, 8)
    assert (right.dx, right.side) == (GAP, "left")
    assert (left.dx, left.side) == (-GAP, "right")


def test_points_in_one_place_share_a_label_which_does_not_grow_without_end() -> None:
    (label,) = place([Mark(name, 10, 10) for name in ("a", "b", "c", "d", "e")], 250, 8)
    assert label.text == "a, b, c and 2 more"
