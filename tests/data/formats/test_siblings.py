"""Inputs that went wrong in silence, each with its siblings: other spellings, kinds of file and notations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_xmc.data.dataset import load_xmc_dataset, prepare_xmc_dataset
from hf_xmc.data.formats.source import Options
from hf_xmc.data.spreadsheets import spreadsheet_rows
from hf_xmc.errors import DataError, Problems
from hf_xmc.inference.text_files import open_texts
from tests.data.reading import named

Content = str | bytes | dict[str, list[object]]  # a dict is a Parquet table
Named = dict[str, list[str]]
TWO = "text,labels\na red car,red|car\na car,car\n"
READ: Named = {"a red car": ["car", "red"], "a car": ["car"]}
OBJECTS = [{"text": text, "labels": labels} for text, labels in READ.items()]


def put(folder: Path, **files: Content) -> Path:
    """Write files; in their names `__` is a slash, and the last `_` a full stop."""
    for name, content in files.items():
        name, packed = name.removesuffix("_gz"), ".gz" * name.endswith("_gz")
        path = folder / (".".join(name.replace("__", "/").rsplit("_", 1)) + packed)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            pq.write_table(pa.table(content), path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def checked(folder: Path, **options: str) -> tuple[Named, list[str], Problems]:
    """What is read, what is said, and what `--check` finds."""
    problems = Problems(stop=False)
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    data = prepare_xmc_dataset(folder, scratch, problems, Options(**options))
    found = {text: sorted(labels) for text, labels in named(data).items()}
    return found, data.said, problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


LISTS = {
    "tuple of Python": "('red', 'car')",
    "set of Python": "{'red', 'car'}",
    "frozenset": "frozenset({'red', 'car'})",
    "array of numpy": "array(['red', 'car'], dtype=object)",
    "array with a type": "array(['red', 'car'], dtype='<U3')",
    "index of pandas": "Index(['red', 'car'], dtype='object')",
    "array of PostgreSQL": '{red,"car"}',
    "names in quotes": "'red', 'car'",
    "wide semicolons": "red\uff1b car",
    "empty names": ";red; ;car;",
}


@pytest.mark.parametrize("cell", LISTS.values(), ids=LISTS.keys())
def test_lists_in_any_notation(cell: str, folder: Path) -> None:
    quoted = '"' + cell.replace('"', '""') + '"'
    found, _, _ = checked(put(folder, a_csv=f"text,labels\na red car,{quoted}\na car,car\n"))
    assert found == READ


@pytest.mark.parametrize("labels", ['{"red": 1, "car": 0}', "['car', nan]", "['red', None]", '["red", "car"'])
def test_what_is_no_list_of_names_is_refused(labels: str, folder: Path) -> None:
    rows = json.dumps({"text": "a car", "labels": "car"}) + "\n" + json.dumps({"text": "b", "labels": labels})
    found, _, problems = checked(put(folder, a_jsonl=rows))
    assert problems.counts["unreadable rows"] == 1 or labels.endswith('"')
    assert not {name for names in found.values() for name in names} - {"car", '["red"', '"car"'}


@pytest.mark.parametrize("labels", [[True, "red"], {"red": 1}, [["red"]], [0.5]])
def test_values_that_are_no_names_are_refused(labels: object, folder: Path) -> None:
    with pytest.raises(DataError, match=r"no labels.*found the labels"):
        checked(put(folder, a_jsonl=json.dumps({"text": "a car", "labels": labels})))


def test_two_labels_in_any_order_are_no_vector(folder: Path) -> None:
    found, _, _ = checked(put(folder, a_csv="text,labels\na,red;car\nb,car;red\n"))
    assert found == {"a": ["car", "red"], "b": ["car", "red"]}


def test_vectors_written_as_digits_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="multi-hot"):
        checked(put(folder, a_csv="text,labels\na,0101\nb,1100\n"))


def test_columns_of_true_and_false(folder: Path) -> None:
    found, _, _ = checked(put(folder, a_csv="text,red,car\na,TRUE,FALSE\nb,False,True\nc,TRUE,TRUE\n"))
    assert found == {"a": ["red"], "b": ["car"], "c": ["car", "red"]}


NUMBERS: dict[str, dict[str, Content]] = {
    "fractions in a CSV": {"train_csv": "text,label\na,1.0\nb,2.0\nc,\n", "labels_csv": "id,name\n1,red\n2,car\n"},
    "fractions in a Parquet file": {
        "train_parquet": {"text": ["a", "b", "c"], "label": [1.0, 2.0, None]},
        "labels_csv": "id,name\n1,red\n2,car\n",
    },
    "fractions in the label table": {
        "train_csv": "text,labels\na,1\nb,2\nc,\n",
        "labels_parquet": {"id": [1.0, 2.0], "name": ["red", "car"]},
    },
    "zeros in front": {"train_csv": "text,labels\na,1\nb,2\nc,\n", "labels_csv": "code,name\n001,red\n002,car\n"},
}


@pytest.mark.parametrize("files", NUMBERS.values(), ids=NUMBERS.keys())
def test_a_number_is_found_in_any_spelling(files: dict[str, Content], folder: Path) -> None:
    found, _, problems = checked(put(folder, **files))
    assert found == {"a": ["red"], "b": ["car"], "c": []}
    assert not problems.errors


def test_fractions_as_row_numbers_and_uids(folder: Path) -> None:
    trn = '{"uid": 1.0, "text": "a", "labels": [0.0]}\n{"uid": 2.0, "text": "b", "labels": [1.0, 0.0]}\n'
    put(folder, trn_jsonl=trn, lbl_jsonl='{"uid": "x", "text": "red"}\n{"uid": "y", "text": "car"}\n')
    assert checked(folder)[0] == {"a": ["red"], "b": ["car", "red"]}


@pytest.mark.parametrize("names", ["label_names_csv", "id2label_csv", "labels_txt"])
def test_numbers_without_names_are_said_and_so_is_a_file_that_is_not_read(names: str, folder: Path) -> None:
    put(folder, train_csv="text,labels\na,1|2\nb,2\n", **{names: "id,name\n1,red\n2,car\n"})
    _, said, problems = checked(folder)
    assert problems.counts["labels whose text is a number or an address"] == 2
    assert any(line.startswith("Labels are numbers or addresses, as '1'") for line in said)
    assert any(line.startswith(f"Not read: {'.'.join(names.rsplit('_', 1))};") for line in said)


def test_ids_that_begin_with_one(folder: Path) -> None:
    put(folder, trn_jsonl='{"uid": "a", "text": "a", "labels": [1, 2]}', lbl_jsonl=label_lines("1", "2"))
    _, said, problems = checked(folder)
    assert "counted from 0; do ids begin with 1 here?" in problems.found[0].message
    assert any("counted from 0, and not its uids, which begin with 1" in line for line in said)


def label_lines(*uids: str) -> str:
    return "".join(json.dumps({"uid": uid, "text": f"name {uid}"}) + "\n" for uid in uids)


@pytest.mark.parametrize("lines", ["red\t0\ncar\t1\n", "0 red\n1 car\n", "1\tred\n2\tcar\n"])
def test_numbered_lines_of_labels(lines: str, folder: Path) -> None:
    put(folder, trn_X_txt="a\nb\n", trn_X_Y_txt="2 2\n0:1\n1:1\n", label_map_txt=lines)
    assert checked(folder)[0] == {"a": ["red"], "b": ["car"]}


SAME: dict[str, dict[str, Content]] = {
    "commas in a .tsv": {"a_tsv": TWO},
    "a separator is stated": {"a_csv": "sep=,\n" + TWO},
    "UTF-16 without a mark": {"a_csv": TWO.encode("utf-16-le")},
    "line ends of old Macs": {"a_csv": TWO.replace("\n", "\r")},
    "packed under another name": {"a_csv": gzip.compress(TWO.encode())},
    "not packed": {"a_csv_gz": TWO},
    "a list in .jsonl": {"a_jsonl": json.dumps(OBJECTS)},
    "a list over lines": {"a_jsonl": json.dumps(OBJECTS, indent=1)},
    "a list in an object": {"train_json": json.dumps({"data": OBJECTS}, indent=2)},
    "a list in an object, one line": {"train_json": json.dumps({"data": OBJECTS})},
    "a list alone in a folder": {"data_json": json.dumps(OBJECTS)},
    "a list with a mark": {"a_jsonl": "\ufeff" + json.dumps(OBJECTS)},
}


@pytest.mark.parametrize("files", SAME.values(), ids=SAME.keys())
def test_the_same_rows_in_other_files(files: dict[str, Content], folder: Path) -> None:
    assert checked(put(folder, **files))[0] == READ


REFUSED: dict[str, tuple[dict[str, Content], str]] = {
    "Parquet as .csv": ({"a_csv": b"PAR1\0\0"}, "this is a Parquet file; give the file its right ending"),
    "a spreadsheet as .csv": ({"a_csv": b"PK\x03\x04\0\0"}, "this is a spreadsheet .*right ending"),
    "an old spreadsheet": ({"a_xls": b"x"}, r"\.xls is not read: save a\.xls as \.xlsx"),
    "a pickle": ({"a_pkl": b"x"}, r"save a\.pkl as \.parquet"),
    "objects over several lines": ({"a_jsonl": '{\n"text": 1}\n{\n"text": 2}'}, "line 1: not JSON"),
    "no header": ({"train_csv": "a red car,red\na car,car\n"}, "if the first row has the names of the columns"),
    "a label table without header": ({"train_csv": TWO, "labels_csv": "1,red\n2,car\n"}, "in the first row"),
    "fastText in cp1252": ({"train_txt": "__label__r r\u00e9d\n".encode("cp1252")}, "not UTF-8 .*--encoding"),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_says_what_it_is(files: dict[str, Content], message: str, folder: Path) -> None:
    with pytest.raises(DataError, match=message):
        checked(put(folder, **files))


ENCODED: dict[str, dict[str, str]] = {
    "fastText": {"train_txt": "__label__r\u00e9d a\n__label__car b\n"},
    "lists of names": {
        "trn_jsonl": '{"uid": 1, "text": "a", "labels": ["r\u00e9d"]}\n{"uid": 2, "text": "b", "labels": ["car"]}\n',
        "lbl_jsonl": '{"uid": "x", "text": "r\u00e9d"}\n{"uid": "y", "text": "car"}\n',
    },
    "texts and pairs": {"trn_X_txt": "a\nb\n", "trn_X_Y_txt": "2 2\n0:1\n1:1\n", "Y_txt": "r\u00e9d\ncar\n"},
    "corpus of Annif": {
        "train_tsv": "a\t<http://x/1>\nb\t<http://x/2>\n",
        "vocabulary_tsv": "<http://x/1>\tr\u00e9d\n<http://x/2>\tcar\n",
    },
    "Turtle": {
        "train_csv": "text,labels\na,r\u00e9d\nb,car\n",
        "v_ttl": "@prefix skos: <http://www.w3.org/2004/02/skos/core#> . <http://x/1> a skos:Concept ; "
        'skos:prefLabel "r\u00e9d"@en . <http://x/2> a skos:Concept ; skos:prefLabel "car"@en .',
    },
}


@pytest.mark.parametrize("files", ENCODED.values(), ids=ENCODED.keys())
def test_an_encoding_is_used_by_every_reader(files: dict[str, str], folder: Path) -> None:
    put(folder, **{name: content.encode("cp1252") for name, content in files.items()})
    assert checked(folder, encoding="cp1252")[0] == {"a": ["r\u00e9d"], "b": ["car"]}


def test_a_formula_that_was_never_computed_is_refused(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (["text", "labels"], ["a car", '=CONCATENATE("ca", "r")']):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"the formula in B2 was never computed.*open it in a spreadsheet program"):
        list(spreadsheet_rows(tmp_path / "a.xlsx"))


def test_cells_that_programs_print_for_nothing(folder: Path) -> None:
    put(folder, a_csv="text,labels\na,nan\nnan,red\nb,N/A\nc,<NA>\n")
    found, _, problems = checked(folder)
    assert found == {"a": [], "": ["red"], "b": ["N/A"], "c": []}
    assert problems.counts["empty texts"] == problems.counts["labels that look like an empty cell"] == 1


def test_a_text_that_is_the_uid_of_another_label(folder: Path) -> None:
    put(folder, train_csv="text,labels\na,red\n", labels_csv="uid,text\nred,car\nb,red\n")
    found, _, problems = checked(folder)
    assert found == {"a": ["car"]}
    assert problems.counts["labels whose text is the uid of another"] == 1


def test_a_repeated_column_is_said(folder: Path) -> None:
    _, said, _ = checked(put(folder, a_csv="text,text,labels\na,more,red\n"))
    assert any("Several columns are called 'text'" in line for line in said)


def test_documents_without_subjects_are_counted(folder: Path) -> None:
    put(folder, train__a_txt="a", train__a_key="red", train__B_TXT="b", train__B_KEY="car", train__c_txt="c")
    put(folder, vocabulary_tsv="<http://x/1>\tred\n<http://x/2>\tcar\n")
    found, _, problems = checked(folder)
    assert found == {"a": ["red"], "b": ["car"]}
    assert problems.counts["documents without subjects"] == 1


@pytest.mark.parametrize(
    "first", ["__label__red, __label__car a red car\n", "nothing\n__label__red __label__car a red car\n"]
)
def test_lines_of_fasttext(first: str, folder: Path) -> None:
    assert checked(put(folder, train_txt=first))[0]["a red car"] == ["car", "red"]


SKOS = (
    "@prefix skos: <http://www.w3.org/2004/02/skos/core#> . @prefix xl: <http://www.w3.org/2008/05/skos-xl#> .\n"
    "@prefix owl: <http://www.w3.org/2002/07/owl#> . @prefix iso: <http://purl.org/iso25964/skos-thes#> .\n"
)
PLAIN = (
    '<http://x/1> a skos:Concept ; skos:prefLabel "red"@en . <http://x/2> a skos:Concept ; skos:prefLabel "car"@en .'
)
RDF = (
    '<?xml version="1.0" encoding="{}"?><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:skos="http://www.w3.org/2004/02/skos/core#">'
    '<skos:Concept rdf:about="http://x/1"><skos:prefLabel xml:lang="en">red</skos:prefLabel></skos:Concept>'
    '<skos:Concept rdf:about="http://x/2"><skos:prefLabel xml:lang="en">car</skos:prefLabel>'
    '<skos:altLabel xml:lang="en">v\u00e4n</skos:altLabel></skos:Concept></rdf:RDF>'
)
VOCABULARIES: dict[str, dict[str, Content]] = {
    "SKOS-XL": {
        "v_ttl": SKOS + '<http://x/1> a skos:Concept ; xl:prefLabel [ xl:literalForm "red"@en ] . '
        '<http://x/2> a skos:Concept ; xl:prefLabel <http://x/n> . <http://x/n> xl:literalForm "car"@en .'
    },
    "Turtle called .rdf": {"v_rdf": SKOS + PLAIN},
    "XML called .ttl": {"v_ttl": RDF.format("utf-8")},
    "XML that states Latin-1": {"v_rdf": RDF.format("iso-8859-1").encode("latin-1")},
    "XML in UTF-16": {"v_rdf": RDF.format("utf-16").encode("utf-16")},
    "graphs of TriG": {"v_trig": SKOS + "<http://x/g> {" + PLAIN + "}"},
    "graphs of N-Quads": {
        "v_nq": "".join(
            f'<http://x/{i}> <http://www.w3.org/2004/02/skos/core#prefLabel> "{name}"@en <http://x/g> .\n'
            for i, name in ((1, "red"), (2, "car"))
        )
    },
    "graphs of JSON-LD": {
        "v_jsonld": json.dumps(
            {
                "@context": {"p": {"@id": "http://www.w3.org/2004/02/skos/core#prefLabel", "@language": "en"}},
                "@id": "http://x/g",
                "@graph": [{"@id": "http://x/1", "p": "red"}, {"@id": "http://x/2", "p": "car"}],
            }
        )
    },
    "deprecated by 1": {
        "v_ttl": SKOS + PLAIN + '<http://x/3> a skos:Concept ; skos:prefLabel "old" ; owl:deprecated "1" .'
    },
    "blank names": {"v_ttl": SKOS + PLAIN + '<http://x/3> a skos:Concept ; skos:prefLabel "  "@en .'},
}  # fmt: skip


@pytest.mark.parametrize("files", VOCABULARIES.values(), ids=VOCABULARIES.keys())
def test_vocabularies_in_any_syntax(files: dict[str, Content], folder: Path) -> None:
    found, said, _ = checked(put(folder, train_csv="text,labels\na,red\nb,car\n", **files))
    assert found == {"a": ["red"], "b": ["car"]}
    assert said == []


def test_concepts_without_a_uri_and_kinds_of_broader(folder: Path) -> None:
    body = PLAIN + '[] a skos:Concept ; skos:prefLabel "lost"@en . <http://x/2> iso:broaderGeneric <http://x/1> .'
    put(folder, train_csv="text,labels\na,red\nb,car\n", v_ttl=SKOS + body)
    problems = Problems(stop=False)
    data = prepare_xmc_dataset(folder, folder.parent, problems)
    assert problems.counts["concepts without a uri"] == 1
    assert data.labels["parents"][:] == [[], ["http://x/1"]]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "xlsx"])
def test_pointers_of_git_lfs_are_no_data(suffix: str, folder: Path) -> None:
    put(folder, **{f"train_{suffix}": POINTER})
    with pytest.raises(DataError, match=rf"train\.{suffix} is a pointer of Git LFS .*run git lfs pull"):
        checked(folder)
    with pytest.raises(DataError, match=r"is a pointer of Git LFS"):
        open_texts(folder / f"train.{suffix}")


def test_a_vocabulary_and_a_prepared_set_that_are_pointers(folder: Path, tmp_path: Path) -> None:
    put(folder, train_csv=TWO, v_ttl=POINTER)
    with pytest.raises(DataError, match=r"v\.ttl is a pointer of Git LFS"):
        checked(folder)
    (folder / "v.ttl").unlink()
    made = load_xmc_dataset(folder).save(tmp_path / "prepared")
    (made / "labels" / "labels.parquet").write_bytes(POINTER)
    with pytest.raises(DataError, match=r"labels\.parquet is a pointer of Git LFS"):
        load_xmc_dataset(made)
