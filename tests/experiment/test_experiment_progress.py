import pytest

from superpose.experiment.progress import Progress
from superpose.experiment.steps import progress, track, tracked


@pytest.fixture
def plain(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("superpose.experiment.progress._EVERY", 0.0)


def test_where_there_is_no_terminal_it_prints_plain_lines(plain, capsys):
    with Progress() as shown, shown.bar("measuring", 2) as advance:
        shown.say("a long line " * 20 + "[/x] end", title="toy")
        advance()
        advance()
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("toy a long line")
    assert lines[0].endswith("[/x] end")
    assert lines[1].startswith("  measuring: 1/2, about ")
    assert "\x1b" not in err


def test_quiet_says_nothing(plain, capsys):
    with Progress(quiet=True) as shown, shown.bar("measuring", 2) as advance:
        shown.say("hello")
        advance()
        assert list(shown.track([1, 2], "inner")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_bars_and_can_be_entered_again(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = Progress()
    for description in ("first", "second [/x]"):
        with shown, shown.bar(description, 1) as advance:
            advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert "first" in err
    assert "second [/x]" in err


def test_loops_inside_steps_are_shown_where_somebody_watches(plain, capsys):
    assert list(track(range(3), "silent")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    with Progress() as shown:
        token = progress.set(shown)
        try:
            assert list(track((i for i in range(3)), "walking", total=3)) == [0, 1, 2]
            for _ in track(range(5), "left early"):
                break
        finally:
            progress.reset(token)
    err = capsys.readouterr().err
    assert "walking: 3/3" in err
    assert not shown._bars.tasks  # a loop that is left takes its bar with it


def test_work_that_calls_back_moves_a_bar_to_its_end():
    seen = []

    class Reporter:
        def track(self, items, description, total=None):
            for item in items:
                seen.append((description, item))
                yield item

    token = progress.set(Reporter())
    try:
        with tracked(4, "updates") as move:
            move(1, 4)
            move(2, 4)
            assert len(seen) == 2
    finally:
        progress.reset(token)
    assert seen == [("updates", item) for item in range(4)]
