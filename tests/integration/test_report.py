"""The report as who opens it sees it: in a real browser, with documents that mean harm."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from ragself import Chunk, Config, KnowledgeBase
from ragself.report import plots
from ragself.report import render as page
from ragself.report.report_data import gather
from tests.integration.browser import browser, look  # noqa: F401
from tests.integration.helpers import another

HOSTILE = [
    "<script>document.title = 'taken'; alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</style></head><body onload=alert(3)>",
    "{{ 7 * 7 }} {% for x in range(9) %}x{% endfor %}",
    "'\"><svg onload=alert(4)>",
    "<a href='javascript:alert(5)'>click</a> <link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "&lt;script&gt; \\u003cscript\\u003e ]]> <!-- --> $x^2$ \x1b[31m",
]


@pytest.fixture
def harmed(promoted: Path, settings: Config, chunks: list[Chunk], asked: list[str]) -> Iterator[KnowledgeBase]:
    """Documents, titles, sources and queries that are markup; two versions to compare; a few searches."""
    config = settings.model_copy(update={"queries": settings.queries.model_copy(update={"log": True})})
    with KnowledgeBase(promoted, config=config) as kb:
        bad = [
            Chunk(f"bad-{row}", f"{harm} {another(chunks, row)}", {"title": harm, "source": f"/home/me/{harm}"})
            for row, harm in enumerate(HOSTILE * 12)
        ]
        kb.add(bad)
        for harm in HOSTILE:
            kb.search(f"{harm} {asked[0]}", 5)
            kb.search(harm, 5)
        kb.pin(reason=HOSTILE[0])
        kb.unpin(started=HOSTILE[1])
        kb.engine.record("fail", "Cannot write /home/me/kb/live.json: it is full. vllm:/home/me/models/llama", "watch")
        kb.rollback(0, reason=HOSTILE[2])
        kb.rollback(1)
        yield kb


def test_the_page_renders_and_asks_for_nothing(
    harmed: KnowledgeBase,
    tmp_path: Path,
    browser: Browser,  # noqa: F811
) -> None:
    story = gather(harmed)
    page.write_page(story, tmp_path / "report.html")
    for width in (1100, 400):
        seen = look(browser, tmp_path / "report.html", width)
        assert (seen.said, seen.asked) == ([], [])
        assert seen.page.title() == "promoted: " + page.headline(story)[0]
        assert seen.page.locator("h1").inner_text().startswith("Version 1 is live: utility@10 from")
        headings = seen.page.locator("h2").all_inner_texts()
        assert headings == [
            "Quality over versions",
            "Decision of the gate",
            "Queries whose results changed most",
            "Weight of the language model",
            "Training data",
            "Cost",
            "Searches in the last seven days",
            "History",
        ]
        plots = seen.page.locator("section svg")
        assert plots.count() >= 4
        assert all(plots.nth(row).bounding_box()["width"] > 100 for row in range(plots.count()))  # type: ignore[index]
        assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        ids = seen.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))


def test_what_documents_and_queries_say_stays_text(
    harmed: KnowledgeBase,
    tmp_path: Path,
    browser: Browser,  # noqa: F811
) -> None:
    story = gather(harmed)
    assert len(story.changed) == 8
    shown = {place.title for one in story.changed for place in (*one.before, *one.after)}
    assert shown & set(HOSTILE)
    page.write_page(story, tmp_path / "report.html")
    seen = look(browser, tmp_path / "report.html")
    seen.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert seen.said == []
    assert seen.page.locator("script, img, link, iframe, a, [onload], [onerror], [onclick]").count() == 0
    text = seen.page.locator("body").inner_text()
    assert [harm for harm in sorted(shown & set(HOSTILE)) if " ".join(harm.split()) not in " ".join(text.split())] == []
    assert HOSTILE[0] in text  # why it was pinned
    text = (tmp_path / "report.html").read_text()
    assert "/home/me" not in text  # no local paths
    assert "Cannot write …/live.json: it is full. vllm:…/llama" in text


def test_nothing_that_was_left_of_the_page_may_run(harmed: KnowledgeBase, tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    """The page forbids itself what it does not need: even markup that came through could do nothing."""
    text = page.html(gather(harmed))
    spoilt = text.replace("<main>", "<main><script>window.ran = 1</script><img src=http://127.0.0.1:9/x.png>", 1)
    (tmp_path / "spoilt.html").write_text(spoilt)
    seen = look(browser, tmp_path / "spoilt.html")
    assert seen.page.evaluate("window.ran") is None
    assert len([line for line in seen.said if "Content Security Policy" in line]) >= 2


def test_a_store_without_a_pass_has_a_page(
    filled: Path,
    settings: Config,
    tmp_path: Path,
    browser: Browser,  # noqa: F811
) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        story = gather(kb)
    page.write_page(story, tmp_path / "report.html")
    seen = look(browser, tmp_path / "report.html")
    assert (seen.said, seen.asked) == ([], [])
    assert seen.page.locator("h1").inner_text() == "The base model is live: nothing was trained yet"
    assert seen.page.locator("h2").all_inner_texts() == ["History"]


def test_a_store_whose_passes_kept_it_has_a_page(filled: Path, settings: Config, tmp_path: Path) -> None:
    with KnowledgeBase(filled, config=settings) as kb:
        kb.delete(kb.ids({"topic": {"$ne": "t0"}}))
        kb.adapt()
        story = gather(kb)
    text = page.html(story)
    assert "no pass found a better version" in text
    assert "only 16 chunks, at least 100 are needed to train" in text


def test_a_store_that_was_rolled_back_says_so(promoted: Path, settings: Config, tmp_path: Path) -> None:
    with KnowledgeBase(promoted, config=settings) as kb:
        kb.rollback(reason=f"it is $\\frac{{bad {HOSTILE[0]} " + "very " * 40)
        story = gather(kb)
    (name,) = {key for key in story.passes[-1]["report"]["figures"] if key.startswith("utility")}
    assert f"change of {name}<" in plots.quality(story, name)
    other = json.loads(json.dumps(story.passes[-1]).replace(name, "utility@2"))
    told = plots.quality(replace(story, passes=[*story.passes, other]), "utility@2")
    assert "change of utility<" in told  # of two depths
    title, lines = page.headline(story)
    assert title == "The base model is live: version 1 was rolled back"
    assert lines[0].startswith("from version 1: it is $")
    text = page.html(story)
    assert re.search(r">↩</text>\s*<text [^>]*>v1<", text)
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    page.write_picture(story, tmp_path / "r.png")
    with Image.open(tmp_path / "r.png") as picture:  # nothing reaches its right edge
        assert picture.convert("L").crop((1330, 0, 1350, 200)).getextrema() == (255, 255)


def test_the_command_writes_page_and_picture(promoted: Path, tiny_model: Path, tmp_path: Path, capsys: object) -> None:
    from tests.integration.test_cli import real

    done = real("report", tmp_path / "r.html", "--kb", promoted, "--png", tmp_path / "r.png", "--json", "-q")
    found = done.json
    assert found["title"].startswith("Version 1 is live")
    assert [Path(file).name for file in found["files"]] == ["r.html", "r.png"]
    assert stat.S_IMODE((tmp_path / "r.html").stat().st_mode) == 0o600
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.size == (1350, 630)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50  # something is drawn
    refused = real("report", tmp_path / "r.html" / "x.html", "--kb", promoted)
    assert refused.code == 1
    assert "Cannot write" in refused.err
    assert json.loads((promoted / "live.json").read_text())["version"] == 1
