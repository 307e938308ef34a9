"""The page below its surface: texts in all languages, files that come back, hostile names, and the API."""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("gradio", reason="the extra 'space' is not installed")
import gradio as gr
from fastapi import FastAPI
from fastapi.testclient import TestClient

from hf_xmc import Passages
from hf_xmc.errors import DataError
from hf_xmc.fit.sources import read_source
from hf_xmc.inference.batch import predict_file
from hf_xmc.inference.options import SelectionOptions
from hf_xmc.inference.text_files import read_rows
from hf_xmc.serving import limits, service, tagging
from hf_xmc.serving.access import Keys
from hf_xmc.serving.app import build_app
from hf_xmc.serving.limits import RequestRefused
from hf_xmc.serving.page import language, page, review, tag_file, visits
from hf_xmc.serving.page.catalogue import found_labels
from hf_xmc.serving.page.language import LANGUAGES, TEXTS, Words
from hf_xmc.serving.page.tab import Page, told_apart
from hf_xmc.serving.page.tag_file import tagged_file
from hf_xmc.serving.page.tag_text import NUMBER, SET, THRESHOLD, answered, predict_function, tagged
from hf_xmc.serving.page.tagged_files import read_tagged
from hf_xmc.serving.page.visit import Visit, write_training_data
from hf_xmc.serving.service import TaggingService
from hf_xmc.serving.vocabulary import Label, Named

HOSTILE = "<img src=x onerror=alert(1)>"
PAGE = Path(page.__file__).parent


@pytest.fixture
def english(shared_service: TaggingService) -> Page:
    return Page(shared_service, shared_service.about(), Words("en"), gr.State())


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"{(\w+)}", text))


def used_keys() -> Iterator[str]:
    """Keys in calls of `words` and of its `count`, in the code and the templates of the page."""
    call = re.compile(r"\b(?:w|words)(\.count)?\(\s*\"([a-z_.]+)\"[,)]")
    for path in [*PAGE.glob("*.py"), *PAGE.glob("templates/*")]:
        for counted, key in call.findall(path.read_text(encoding="utf-8")):
            yield from (f"{key}.one", f"{key}.other") if counted else (key,)


def test_all_languages_have_the_same_texts_with_the_same_values_in_them() -> None:
    assert {path.stem for path in TEXTS.glob("*.json")} == {*LANGUAGES}
    first = Words("en").texts
    for other in map(Words, LANGUAGES):
        assert list(other.texts) == list(first)
        for key, text in other.texts.items():
            assert text.strip() or key == "thousands"
            assert placeholders(text) == placeholders(first[key]), (other.language, key)


def test_every_text_that_the_page_uses_is_there() -> None:
    found = {*used_keys()}
    assert len(found) > 80
    assert found <= {*Words("en").texts}


def test_every_refusal_of_the_service_has_a_sentence_in_each_language() -> None:
    kinds = set()
    for module in (limits, service, tagging):
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RequestRefused":
                kinds |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    # What the page never asks for.
    unreachable = {"page_out_of_range", "threshold_and_set", "coverage_out_of_range"}
    assert {f"refused.{kind}" for kind in kinds - unreachable} <= {*Words("en").texts}
    assert len(kinds) > 10


def test_numbers_are_written_as_in_the_language() -> None:
    assert [Words(code).number(1234.5) for code in LANGUAGES] == ["1,234.5", "1.234,5", "1\u00a0234,5"]
    assert [Words("en").percent(share) for share in (0.0, 0.001, 0.567, 0.999, 1.0)] == [
        "0%",
        "1%",
        "57%",
        "99%",
        "100%",
    ]


def test_what_is_asked_for_is_what_the_service_gives(shared_service: TaggingService) -> None:
    text = "a red car"
    assert len(tagged(shared_service, text, NUMBER, 3, 0, 0).tags) == 3
    assert all(tag.probability >= 0.5 for tag in tagged(shared_service, text, THRESHOLD, 3, 50, 0).tags)
    [expected] = shared_service.tag([text], conformal=0.9)
    found = tagged(shared_service, text, SET, 3, 0, 90)
    assert [tag.uid for tag in found.tags] == [tag.uid for tag in expected.tags]


def test_a_score_is_called_a_score_where_there_is_no_calibration(new_pipeline: Any) -> None:
    pipeline = new_pipeline()
    pipeline.confidence = None
    plain = TaggingService(pipeline)
    bare = Page(plain, plain.about(), Words("en"), gr.State())
    _, html, _ = answered(bare, Visit(), "a red car", (NUMBER, 3, 0, 0))
    assert html.count('<span class="certainty">score</span>') == 3
    assert "%</span>" not in html


def test_names_and_texts_of_others_are_shown_and_not_run(english: Page) -> None:
    visit = Visit()
    visit.service = english.service.session()
    visit.service.add_label(HOSTILE, HOSTILE)
    _, html, _ = answered(english, visit, f"a red car {HOSTILE}", (NUMBER, 50, 0, 0))
    assert "&lt;img src=x" in html
    assert "<img" not in html


def test_an_unexpected_error_is_not_shown(english: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("/home/somebody/secret is not readable")

    monkeypatch.setattr(TaggingService, "tag", fail)
    _, html, _ = answered(english, Visit(), "a red car", (NUMBER, 3, 0, 0))
    assert "Something went wrong on the server" in html
    assert "secret" not in html


@pytest.mark.parametrize("ending", ["csv", "xlsx", "jsonl", "parquet"])
@pytest.mark.parametrize("rows", ["texts", "tags"])
def test_a_tagged_file_can_be_reviewed(english: Page, tmp_path: Path, ending: str, rows: str) -> None:
    source, visit = tmp_path / "texts.csv", Visit()
    source.write_text("nr,text\n1,a red car\n2,\n3,a green tree\n", encoding="utf-8")
    steps: list[Any] = []
    selection = SelectionOptions(3)
    progress: Any = lambda done, desc: steps.append(done)  # noqa: E731
    path, said = tagged_file(english, visit, source, ["text"], selection, rows, ending, progress)
    assert said == "2 texts tagged. 1 row has no text."
    assert steps == [(3, 3)]
    found = read_tagged(path)
    expected = english.service.tag(["a red car", "a green tree"], 3)
    given = [(text, [tag.label for tag in tags]) for text, tags in found]
    assert given == [
        (text, [tag.label for tag in one.tags])
        for text, one in zip(["a red car", "a green tree"], expected, strict=True)
    ]
    assert found[0][1][0].probability == pytest.approx(expected[0].tags[0].probability, abs=1e-4)
    first = next(row for _, row in read_rows(path))
    names = json.dumps(first, default=str)
    assert "http://example.org/" in names or ending in ("jsonl", "parquet")
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no part of it is left behind"


def test_a_file_of_hf_xmc_predict_can_be_reviewed(shared_service: TaggingService, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("a red car\na green tree\n", encoding="utf-8")
    predict_file(shared_service.view().pipeline, source, tmp_path / "tags.parquet", k=2)
    assert pq.read_table(tmp_path / "tags.parquet").num_rows == 2
    assert [len(tags) for _, tags in read_tagged(tmp_path / "tags.parquet")] == [2, 2]
    with pytest.raises(DataError, match="no tags"):
        read_tagged(source)


def test_accepted_tags_are_training_data_for_fit(shared_service: TaggingService, tmp_path: Path) -> None:
    """With names for a new tagger; and joined with the labels of an earlier one, `--from`."""
    shared_service.view().pipeline.save_pretrained(tmp_path / "tagger")
    visit = Visit()
    for text in ("a red car", "a green tree", "a blue house"):
        [one] = shared_service.tag([text], 5)
        number = visit.keep(text, one.tags)
        visit.judge(number, one.tags[0].uid, True)
        visit.judge(number, one.tags[1].uid, False)
        visit.judge(number, one.tags[2].uid, True)
        visit.judge(number, one.tags[2].uid, None)
    visit.judge(number, "no such label", True)
    wanted = {text: [tag.uid for tag in tags] for text, tags in visit.accepted()}
    assert [len(uids) for uids in wanted.values()] == [1, 1, 1]
    write_training_data(visit, tmp_path / "review.zip")
    for name, earlier in (("new", None), ("grown", tmp_path / "tagger")):
        data, problems = read_source(str(tmp_path / "review.zip"), tmp_path / name, earlier=earlier)
        assert not problems.errors
        rows = [row for split in data.queries.values() for row in split]
        found = {row["text"]: [data.labels[label]["uid"] for label in row["labels"]] for row in rows}
        assert found == wanted
        assert data.num_labels == (14 if earlier else len({uid for uids in wanted.values() for uid in uids}))
    assert all(":" in text for text in data.labels["text"]), "names keep their definitions"


def test_too_large_a_file_is_refused_in_a_sentence(
    english: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("a red car\n" * 600, encoding="utf-8")
    monkeypatch.setattr(tag_file, "MOST_ROWS", 500)
    assert "The file has more than 500 rows." in shown_for(english, source)
    source.write_text("", encoding="utf-8")
    assert "The file has no rows" in shown_for(english, source)


def shown_for(english: Page, path: Path) -> str:
    """What a press of "Tag the file" shows."""
    settings = (3.0, 0.0, "tags", "csv")
    return tag_file.run_file(english, Visit(), str(path), ["text"], settings, lambda *_, **__: None)[1]


def test_changes_stay_with_the_visitor_unless_the_owner_shares_them(english: Page, service: TaggingService) -> None:
    visit, request = Visit(), gr.Request()
    english.add_label(visit, request, "zeppelin", "A ship in the air with gas in it.")
    assert [found_labels(english, its, "zeppelin", 0)[0] for its in (visit, Visit())] == [
        "1 label found.",
        "0 labels found.",
    ]
    told: list[int] = []
    about, changed = service.about(), lambda: told.append(1)
    shared = Page(service, about, Words("en"), gr.State(), shared_changes=True, changed=changed)
    shared.add_label(Visit(), request, "zeppelin", "A ship in the air with gas in it.")
    assert found_labels(shared, Visit(), "zeppelin", 0)[0] == "1 label found."
    assert told == [1]
    visitor = Visit()
    with pytest.raises(RequestRefused, match="belongs to everybody"):
        shared.own_service(visitor).remove_label("car")


def test_labels_of_the_same_name_are_told_apart() -> None:
    def named(uid: str, name: str, *parents: str) -> Label:
        return Label(uid, 0, name, parents=tuple(Named(parent, parent) for parent in parents))

    mapping = [
        named("t1", "Mapping", "Topic"),
        named("o1", "mapping", "Operation"),
        named("o2", "Sorting", "Operation"),
    ]
    assert told_apart(mapping) == {"t1": "Topic", "o1": "Operation"}
    assert told_apart([*mapping[:2], named("x", "Mapping")]) == {"t1": "t1", "o1": "o1", "x": "x"}
    assert told_apart([mapping[0], mapping[0]]) == {}, "it is one label"


def test_the_page_shows_what_tells_tags_apart(service: TaggingService) -> None:
    service.add_label("car", "A wagon of a train.", uid="wagon", parents=["thing"])
    page_of_it = Page(service, service.about(), Words("en"), gr.State())
    visit = Visit()
    _, html, _ = answered(page_of_it, visit, "a red car, a wagon of a train", (NUMBER, 15, 0, 0))
    assert '<span class="name">car <span class="apart">(wagon)</span></span>' in html
    assert '<span class="name">red</span>' in html
    assert "(wagon)" in review.shown(page_of_it, visit)[1]
    assert "(wagon)" in found_labels(page_of_it, visit, "car", 0)[1]


def test_a_visit_forgets_its_oldest_texts() -> None:
    visit = Visit()
    numbers = [visit.keep(f"{number} " + "a" * 249_000, []) for number in range(6)]
    assert [*visit.seen] == numbers[2:]
    assert visit.keep(visit.seen[3].text, []) == 3, "a text that is known keeps its number"


def test_the_page_is_mounted_at_any_path_in_every_language(shared_service: TaggingService) -> None:
    client = TestClient(page.mount_page(FastAPI(), shared_service, path="/tagger"))
    for path, button in (("/tagger/", "Tag"), ("/tagger/de", "Verschlagworten"), ("/tagger/fi", "Asiasanoita")):
        answer = client.get(path)
        assert answer.status_code == 200
        assert f'"value":"{button}"' in answer.text.replace('": "', '":"')
    endpoints = client.get("/tagger/gradio_api/info").json()["named_endpoints"]
    assert list(endpoints) == ["/predict"]


def test_the_api_refuses_what_is_too_much_in_a_sentence(shared_service: TaggingService) -> None:
    predict = predict_function(shared_service)
    assert len(predict("a red car", 50)) == 14, "as many as there are"
    with pytest.raises(gr.Error, match="1,000,000"):
        predict("a red car", 1_000_000)
    with pytest.raises(gr.Error, match="1,400,000 characters"):
        predict("a" * 1_400_000)
    assert len(predict("a red car", 2.0)) == 2  # type: ignore[arg-type]  # as JSON has it
    for text, k, said in ((None, 5, "of type NoneType"), ("a", "x", "of type str"), ("caf\udce9", 5, "half of a")):
        with pytest.raises(gr.Error, match=said):
            predict(text, k)  # type: ignore[arg-type]  # as clients send it


def test_languages_are_read_from_files_of_the_package() -> None:
    assert language.TEXTS.is_dir()
    with pytest.raises(KeyError):
        Words("en")("no.such.text")


def event(client: TestClient, name: str, *data: Any, **headers: str) -> Any:
    """What an event of the page in English gives to its outputs, whatever a visitor of the page sends with it."""
    functions = client.get("/config", headers=headers).json()["dependencies"]
    number = next(one["id"] for one in functions if one["api_name"] == name)
    sent = {"fn_index": number, "data": data, "session_hash": name}
    assert client.post("/gradio_api/queue/join", json=sent, headers=headers).status_code == 200
    answer = client.get("/gradio_api/queue/data", params={"session_hash": name}, headers=headers).text
    events = [json.loads(line.removeprefix("data: ")) for line in answer.splitlines() if line.startswith("data: ")]
    return next(one["output"] for one in events if one["msg"] == "process_completed")


def test_who_gets_at_the_page_and_what_it_leaves_out(service: TaggingService, tmp_path: Path) -> None:
    (tmp_path / "private.csv").write_text("text\na red car\n")
    with TestClient(build_app(service, Keys(("reader",), ("owner",)), shared_changes=True)) as client:
        for path in ("/", "/config", "/gradio_api/info", f"/gradio_api/file={tmp_path}/private.csv", "/metrics"):
            assert client.get(path).status_code == 401
        assert client.post("/gradio_api/upload", files={"files": ("a.csv", b"text\n")}).status_code == 401
        client.headers["X-API-Key"] = "reader"
        assert client.get("/").status_code == 200
        assert str(tmp_path) not in client.get("/config").text
        assert client.get(f"/gradio_api/file={tmp_path}/private.csv").status_code == 403
        for path in ("/gradio_api/deep_link?session_hash=a", "/gradio_api/dev/reload", "/monitoring/summary"):
            assert client.get(path).json()["error"]["kind"] == "not_found"
        foreign = {"Sec-Fetch-Site": "cross-site"}
        assert client.post("/gradio_api/queue/join", json={}, headers=foreign).json()["error"]["kind"] == "other_site"
        label = (None, "zeppelin", "A ship in the air with gas in it.")
        assert "needs one of the owner" in str(event(client, "add_label", *label))
        assert service.search_labels("zeppelin").total == 0
        assert "zeppelin was added" in str(event(client, "add_label", *label, **{"X-API-Key": "owner"}))
        assert service.search_labels("zeppelin").total == 1
        # Nor does it read a file of the server whose path is sent in place of an uploaded one.
        given = {"path": str(tmp_path / "private.csv"), "meta": {"_type": "gradio.FileData"}}
        assert event(client, "look", None, given) == {"error": None}
        given["path"] = "http://127.0.0.1:9/private.csv"
        assert "An address was sent" in event(client, "look", None, given)["error"]
        assert client.get("/api/nope").json()["error"]["kind"] == "not_found", "in the form of the API, not the page"
        held = next(
            route.app for route in client.app.app.routes if hasattr(getattr(route, "app", None), "state_holder")
        )
        assert isinstance(held.state_holder, visits.Visits)


def test_visits_are_forgotten(shared_service: TaggingService, monkeypatch: pytest.MonkeyPatch) -> None:
    made = page.build_page(shared_service)
    holder = visits.Visits()
    holder.set_blocks(made)
    assert holder.capacity == visits.MOST_VISITS
    field = next(number for number, one in made.blocks.items() if isinstance(one, gr.Textbox))
    holder["a visit"]._update_value_in_config(field, "a secret red car")
    assert "a secret red car" not in str([*holder["a visit"].components]), "what was typed is not kept"
    holder.delete_all_expired_state()
    assert "a visit" in holder
    monkeypatch.setattr(visits, "KEPT_SECONDS", -1)
    holder.delete_all_expired_state()
    assert "a visit" not in holder
    assert not holder.time_last_used


def test_files_that_unpack_to_very_much_are_refused(english: Page, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.xlsx"
    packed: Any = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
    with zipfile.ZipFile(bomb, "w", **packed) as archive, archive.open("xl/sharedStrings.xml", "w") as part:
        for _ in range(65):
            part.write(bytes(2**20))
    assert "at most 64 MB" in tag_file.looked_into(english, Visit(), str(bomb))[0]


def test_the_page_shows_the_passage_that_a_tag_came_from(new_pipeline: Any) -> None:
    pipeline = new_pipeline()
    pipeline.passages = Passages(overlap=2)
    service = TaggingService(pipeline, name="toys")
    page = Page(service, service.about(), Words("en"), gr.State())
    text = "\U0001f600 a red <b>car</b>. " * 12 + "Then there is a green house. " * 12
    _, html, _ = answered(page, Visit(), text, (NUMBER, 3, 0, 0))
    found = re.findall(r'<mark>(.*?)</mark>.*?data-select-start="(\d+)" data-select-end="(\d+)"', html, re.DOTALL)
    assert len(found) == 3
    units = text.encode("utf-16-le")
    for shown, start, end in found:
        part = units[2 * int(start) : 2 * int(end)].decode("utf-16-le")
        assert part.strip() == unescape(shown).strip()
        assert "<b>" not in shown
    assert "<mark>" not in answered(page, Visit(), "a red car", (NUMBER, 3, 0, 0))[1]


def test_a_long_text_that_a_file_holds_once_counts_as_often_as_it_is_there(english: Page, tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), pa.array(["a red car " * 50_000]))
    pq.write_table(pa.table({"text": column}), tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1_000_000
    assert "286.1 MB" in tag_file.looked_into(english, Visit(), str(tmp_path / "bomb.parquet"))[0]
    pq.write_table(pa.table({"text": ["a red car", None], "n": [1, 2]}), tmp_path / "good.parquet")
    assert "a red car" in tag_file.looked_into(english, Visit(), str(tmp_path / "good.parquet"))[0]
