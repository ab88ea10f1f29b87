"""The pieces of the benchmarks that would be wrong in silence."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from benchmarks import beside, blaster, content, feeds, report
from benchmarks.__main__ import main
from benchmarks.blaster import ROOT
from benchmarks.contestants import CONTESTANTS, Stopwatch, named
from benchmarks.fresh import RunError
from benchmarks.latency import percentile
from benchmarks.pairs import pairs, rotated, spread
from benchmarks.parts import Aim
from benchmarks.picture import Bar, bars, curves
from benchmarks.receive import Score
from benchmarks.results import load, rounded, save

# --- statistics -----------------------------------------------------------------------------------


def test_pairs_take_turns() -> None:
    """Who comes first changes, and each figure stays with its own side."""
    calls: list[str] = []

    def own() -> int:
        calls.append("own")
        return 1

    def other() -> int:
        calls.append("other")
        return 2

    assert pairs(own, other, 3) == [(1, 2)] * 3
    assert calls == ["other", "own", "own", "other", "other", "own"]


def test_ratio_is_taken_within_pairs() -> None:
    """A machine that gets slower for both changes nothing."""
    score = Score(own=[200, 20, 2], baseline=[100, 10, 1])
    assert score.ratios == [2, 2, 2]
    assert "work" not in score.json()
    score.work = [0.5, 0.25, 0.75]
    assert score.json()["work"]["median"] == 0.5
    assert score.json()["ratio"] == {"median": 2, "low": 2, "high": 2, "count": 3}
    assert (spread([3, 1, 2]).median, spread([3, 1, 2]).low, spread([3, 1, 2]).high) == (2, 1, 3)


def test_everyone_is_first_once() -> None:
    assert [rotated("abc", by)[0] for by in range(4)] == ["a", "b", "c", "a"]


def test_percentiles() -> None:
    ordered = list(range(1, 101))
    assert (percentile(ordered, 0.5), percentile(ordered, 0.99)) == (51, 100)
    assert percentile([7], 0.99) == 7


@pytest.mark.parametrize(
    ("at_least", "values", "met"),
    [(True, [1.196], True), (True, [1.19], False), (False, [1.2], True), (False, [1.21], False)],
)
def test_aim_is_judged_by_what_is_printed(at_least: bool, values: list[float], met: bool) -> None:
    assert Aim("", 1.2, at_least=at_least).json(values)["met"] is met
    assert Aim("", None).json(values)["met"] is None


def test_stopwatch_wants_exactly_its_messages() -> None:
    watch = Stopwatch(2)
    watch.tick()
    with pytest.raises(RuntimeError, match="1 messages handled, 2 expected"):
        _ = watch.seconds
    assert watch.tick()
    assert watch.seconds >= 0
    assert Stopwatch.worked >= 0


# --- frames ---------------------------------------------------------------------------------------


def payloads(data: bytes, *extensions: Extension) -> list[bytes]:
    """What the frames say to the library that others read them with."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    while reader.buffer:
        parser = Frame.parse(reader.read_exact, mask=False, extensions=extensions)
        with pytest.raises(StopIteration) as parsed:
            next(parser)
        found.append(bytes(parsed.value.value.data))
    return found


@pytest.mark.parametrize("size", [64, 125, 126, 4096, 65535, 65536])
def test_messages_have_the_size_asked_for(size: int) -> None:
    found = payloads(b"".join(blaster.plain(blaster.Load(size)).chunks(3)))
    assert [len(payload) for payload in found] == [size] * 3
    assert json.loads(found[2])["key"] == "k002"


@pytest.mark.parametrize("takeover", [True, False])
def test_compressed_messages_inflate_across_blocks(takeover: bool) -> None:
    """A block may be repeated although its window goes on."""
    load = blaster.Load(4096, compress=True)
    count = 3 * load.per_block + 5
    chunks = b"".join(blaster.compressed(load, takeover=takeover).chunks(count))
    inflate = PerMessageDeflate(not takeover, False, blaster.WINDOW_BITS, 15)
    expected = [blaster.message(4096, number) for number in range(load.per_block)]
    found = payloads(chunks, inflate)
    assert len(found) == count
    assert all(text == expected[number % load.per_block] for number, text in enumerate(found))
    assert len(chunks) < 0.8 * count * 4096


@pytest.mark.parametrize("size", [20, 140, 70_000])
def test_sink_counts_whole_frames(size: int) -> None:
    """What follows the messages is left for the reader of frames."""
    frame = Frame(Opcode.TEXT, bytes(size)).serialize(mask=True)
    assert blaster.masked_frame_bytes(frame[:10]) == len(frame)
    reader = io.BufferedReader(io.BytesIO(3 * frame + b"rest"))
    assert blaster.skip(reader, 3 * len(frame))
    assert reader.read() == b"rest"
    assert not blaster.skip(reader, 1)


def test_peer_may_ask_for_less() -> None:
    assert blaster.count_in("/?count=17") == 17
    assert blaster.count_in("/") is None


# --- what is written ------------------------------------------------------------------------------


def test_results_are_what_the_figures_say() -> None:
    """The document that is committed is what the committed figures make; none is by hand."""
    folder = Path(report.__file__).parent
    document = folder / "RESULTS.md"
    assert document.read_text(encoding="utf-8") == report.document(folder / "results")
    for name, drawn in report.pictures(folder / "results").items():
        path = folder / name
        assert drawn == (path.read_text(encoding="utf-8") if path.exists() else None)


def test_unmeasured_parts_are_left_out(tmp_path: Path) -> None:
    """A part is merged with what earlier runs have left."""
    aim = Aim("ours / theirs", 1.2).json([1.3, 1.1, 1.25])
    save(tmp_path / "results", "aims", {"aims": [aim]}, quick=True, seconds=1.0)
    assert main(["--report", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| ours / theirs | ≥ 1.2 | 1.25 (1.10–1.30, 3) | yes |" in text
    assert "quick form" in text
    assert "Latency" not in text


def test_figures_are_rounded_not_changed(tmp_path: Path) -> None:
    assert rounded({"a": [1.23456, 7, None, "x"]}) == {"a": [1.235, 7, None, "x"]}
    assert load(tmp_path, "never") is None


def test_picture_is_well_formed_and_to_scale() -> None:
    """Bars start at 0: twice the value is twice the length."""
    drawn = bars("A & B", "a <note>", [Bar("x", 1, "1", False), Bar("y", 2, "2", True)], mark=1)
    root = ElementTree.fromstring(drawn)
    lengths = [float(each.get("width", 0)) for each in root.iter() if each.get("height") == "14"]
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=0.2)
    assert "A &amp; B" in drawn


def test_curves_are_to_scale() -> None:
    """Ten times the size is as far again; twice the ratio is twice as high."""
    found = {"ours": [(100.0, 1.0), (1000.0, 2.0), (10_000.0, 1.0)], "a&b": [(100.0, 2.0)] * 2}
    root = ElementTree.fromstring(curves("A & B", "", found))
    paths = [each.get("d", "") for each in root.iter() if "curve" in each.get("class", "")]
    drawn = next(path for path in paths if path.count("L") == 2)
    (a, low), (b, high), (c, _) = [map(float, point.split()) for point in drawn[1:].split("L")]
    assert b - a == pytest.approx(c - b, abs=0.2)
    assert 360 - high == pytest.approx(2 * (360 - low), abs=0.2)


@pytest.mark.parametrize("kind", content.KINDS)
def test_messages_of_a_feed_are_all_different_and_always_the_same(kind: str) -> None:
    made = [content.message(kind, number) for number in range(3)]
    assert len(set(made)) == 3
    assert made == [content.message(kind, number) for number in range(3)]
    assert all(json.loads(each)["type"] for each in made)


def test_a_feed_is_sent_as_it_is_made() -> None:
    found = payloads(b"".join(blaster.plain(blaster.Load(kind="book-8k")).chunks(3)))
    assert found == [content.message("book-8k", number) for number in range(3)]
    with pytest.raises(ValueError, match="kind must be one of trade"):
        blaster.Load(kind="poem")


def test_a_burst_is_due_at_one_moment() -> None:
    """And the next one after as long as so many take on average."""
    load = blaster.Load(count=6, rate=1000, burst=3)
    stamps = [json.loads(each)["sent"] for each in payloads(b"".join(blaster.timed(load, 1000)))]
    assert len(set(stamps)) == 2
    assert stamps[3] - stamps[0] == pytest.approx(3_000_000, abs=1000)


def test_another_tree_is_measured_by_its_own_package(tmp_path: Path) -> None:
    """Not by this one, which lies in the same places."""
    with pytest.raises(RunError, match="has no package"):
        beside.check_tree(tmp_path)
    (tmp_path / "datastream_ws").mkdir()
    (tmp_path / "datastream_ws/__init__.py").touch()
    beside.check_tree(tmp_path)


def test_a_row_that_the_other_tree_cannot_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "datastream_ws").mkdir()
    (tmp_path / "datastream_ws/__init__.py").touch()
    row = beside.Row("ours-sync", blaster.Load(count=10))
    [said, *rest] = beside.compare(row, tmp_path, 1)
    assert said.startswith("cannot run there: ImportError: cannot import name 'Client'")
    assert rest == ["–", "–"]


def test_a_row_is_both_trees_in_turn() -> None:
    load = blaster.Load(count=1000, kind="trade")
    cells = beside.compare(beside.Row("ours-routed", load), ROOT, 1)
    assert [cell.endswith(", 1)") for cell in cells] == [True, True, False]


def test_every_name_in_the_report_is_a_contestant() -> None:
    """A typing error would show only after minutes of measuring."""
    pictured = [name for names in report.PICTURED.values() for name in names]
    for name in [*pictured, *feeds.PLAIN, *feeds.PYTHONS, *(way[0] for way in feeds.OTHERS)]:
        named(name)
    for row in beside.ROWS.values():
        named(row.contestant)
    with pytest.raises(KeyError, match="there are bare"):
        named("nobody")
    assert CONTESTANTS["websocket-client"].share(100) == 20
