"""The commands that write, each with what it starts from and what a reader sees of what it wrote."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.conftest import COLOURS, THINGS, make_tiny_encoder, write_lines

TEXTS = ["a red car is here", "the blue house", "white stone, green tree"]
TRAINING = [
    *("--max_query_length=12", "--max_label_length=8", "--label_strategy=in_batch", "--num_train_epochs=2"),
    *("--per_device_train_batch_size=16", "--learning_rate=1e-3", "--save_strategy=epoch", "--eval_strategy=epoch"),
    *("--report_to=none", "--use_cpu=true", "--disable_tqdm=true", "--save_total_limit=1"),
]
CUT = "--passages=lse,tokens=8"
SMALL = {"static_dim": 8, "static_buckets": 2**8, "batch_size": 32, "epochs": 2}


@dataclass(frozen=True)
class Command:
    """A command and its output.

    Args:
        name: of the row in the table.
        run: the command: what follows `hf-xmc`, with {given} and {work} for the folders, or a function of both.
        see: what a reader of the output sees, as JSON, given the folder {work}. It raises where there is no output.
        start: parts of {given} that are copied into {work} before: source -> target.
        again: what is run after a kill; by default the same command.
        needs: parts of {given} that a function reads; a command names them itself.
    """

    name: str
    run: Sequence[str] | Callable[[Path, Path], Any]
    see: Callable[[Path], Any]
    start: tuple[tuple[str, str], ...] = ()
    again: Sequence[str] | None = None
    needs: tuple[str, ...] = ()

    def __call__(self, given: Path, work: Path, again: bool = False) -> None:
        """Run it in this process, as the shell would."""
        if callable(self.run):
            from hf_xmc.cli.errors import user_errors

            with user_errors():
                self.run(given, work)
            return
        from hf_xmc.cli.main import main

        line = self.again if again and self.again is not None else self.run
        sys.argv = ["hf-xmc", *(part.format(given=given, work=work) for part in line)]
        try:
            main()
        except SystemExit as end:  # as typer ends
            if end.code:
                raise

    def prepare(self, given: Path, work: Path) -> None:
        """Make {work} as it is before the command."""
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for source, target in self.start:
            copy = shutil.copytree if (given / source).is_dir() else shutil.copy2
            copy(given / source, work / target)


# ---- What a reader sees ----


def see_tagger(work: Path, backend: str | None = None, name: str = "tagger") -> Any:
    """Answers, labels, and which parts are there."""
    from hf_xmc import XMCPipeline
    from hf_xmc.data.checksums import check_manifest
    from hf_xmc.hub.run import read_json

    folder = work / name
    tagger = XMCPipeline.from_pretrained(folder, **({} if backend is None else {"backend": backend}))
    check_manifest(folder)
    metrics = read_json(folder / "metrics.json").get("metrics") if (folder / "metrics.json").is_file() else None
    return {
        "answers": tagger(TEXTS, top_k=4),
        "labels": [tagger.index.labels[column][:] for column in ("uid", "text")],
        "channels": sorted(channel.name for channel in tagger.channels) or None,
        "confidence": None if tagger.confidence is None else type(tagger.confidence).__name__,
        "fusion": None if tagger.fusion is None else type(tagger.fusion).__name__,
        "reranker": None if tagger.reranker is None else len(tagger.predict(TEXTS, 4, rerank=4)),
        "metrics": metrics,
    }


def see_data(work: Path, name: str = "data") -> Any:
    """All rows of a prepared set."""
    from hf_xmc.data.dataset import load_xmc_dataset

    data = load_xmc_dataset(work / name)
    splits = {split: [rows["uid"][:], rows["text"][:], rows["labels"][:]] for split, rows in data.queries.items()}
    return {"splits": splits, "labels": data.labels["text"][:], "soft": len(data.soft) if data.soft else 0}


def see_files(work: Path, *names: str) -> Any:
    """Files that are read whole: the text of each."""
    return {name: (work / name).read_text(encoding="utf-8-sig") for name in names}


def see_page(work: Path, *names: str) -> Any:
    """Pages, which end as they should."""
    found = {name: (work / name).read_text(encoding="utf-8").rstrip().endswith("</html>") for name in names}
    assert all(found.values()), found
    return found


def see_evaluation(work: Path) -> Any:
    import pyarrow.parquet as pq

    from hf_xmc.data.transaction import finish

    finish(work / "evaluation")
    found = json.loads((work / "evaluation" / "metrics.json").read_text())
    tables = sorted((work / "evaluation").glob("*.parquet"))
    return {"metrics": found["metrics"], "predictions": [pq.read_table(path).to_pylist() for path in tables]}


def see_vectors(work: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(work / "vectors.parquet").to_pylist()


def see_sentence_transformers(work: Path) -> Any:
    """As sentence-transformers loads it, after hf_xmc has put the files in their places."""
    from sentence_transformers import SentenceTransformer

    from hf_xmc.data.transaction import finish

    finish(work / "exported")
    return SentenceTransformer(str(work / "exported"), device="cpu").encode(TEXTS).tolist()


def see_audit(work: Path, name: str = "audit") -> Any:
    from hf_xmc.data.transaction import finish

    folder = work / name
    finish(folder)
    return {**see_files(folder, "missing.csv", "wrong.csv"), **see_page(folder, "audit.html")}


# ---- Commands that have no line of their own ----


def add_by_service(given: Path, work: Path) -> None:
    """What `hf-xmc serve --save` does when somebody adds a label."""
    from hf_xmc.serving.service import TaggingService

    service = TaggingService.from_pretrained(work / "tagger")
    if all(label.name != "the violet" for label in service.search_labels("violet").labels):
        service.add_label("the violet", uid="violet")
    service.save(work / "tagger")


def write_card(given: Path, work: Path) -> None:
    from hf_xmc.hub import write_model_card

    write_model_card(work / "tagger")


def fit_fast(given: Path, work: Path) -> None:
    """`hf-xmc fit` with settings that make it small."""
    from hf_xmc.fit.fit import fit_tagger

    fit_tagger(given / "table.csv", work / "tagger", "fast", test=0.2, config=SMALL)


def fit_further(given: Path, work: Path) -> None:
    """`hf-xmc fit --from` an earlier tagger."""
    from hf_xmc.fit.fit import fit_tagger

    fit_tagger(given / "more.csv", work / "tagger", "fast", config=SMALL, from_tagger=given / "fitted" / "tagger")


TAGGER = (("tagger", "tagger"),)
DATASET = "--dataset={given}/data"
COMMANDS = (
    Command(
        "train",
        ["train", DATASET, "--model_name_or_path={given}/encoder", "--output_dir={work}/tagger", *TRAINING, CUT],
        see_tagger,
        again=[
            "train",
            DATASET,
            "--model_name_or_path={given}/encoder",
            "--output_dir={work}/tagger",
            *TRAINING,
            CUT,
            "--resume_from_checkpoint=auto",
        ],
    ),
    Command("fit --preset fast", fit_fast, see_tagger, needs=("table.csv",)),
    Command("fit --from", fit_further, see_tagger, needs=("more.csv", "fitted")),
    Command(
        "demo",
        ["demo", DATASET, "--output_dir={work}", "--model_name_or_path={given}/encoder", "--max_steps=2"],
        partial(see_tagger, name="model"),
    ),
    Command("index an encoder", ["index", "{given}/encoder", DATASET, "--output_dir={work}/tagger"], see_tagger),
    Command("index --dataset", ["index", "{work}/tagger", "--dataset={given}/other"], see_tagger, TAGGER),
    Command("index --factory", ["index", "{work}/tagger", "--factory=hnsw"], see_tagger, TAGGER),
    Command("index --texts rich", ["index", "{work}/tagger", "--texts=rich"], see_tagger, (("described", "tagger"),)),
    Command("calibrate", ["calibrate", "{work}/tagger", DATASET], see_tagger, (("plain", "tagger"),)),
    Command(
        "calibrate again",
        ["calibrate", "{work}/tagger", DATASET, "--method=platt", "--channels=memory,names", "--seed=7"],
        see_tagger,
        TAGGER,
    ),
    Command("fuse", ["fuse", "{work}/tagger", DATASET], see_tagger, (("classifier", "tagger"),)),
    Command(
        "rerank",
        [
            *("rerank", "{work}/tagger", DATASET, "--kind=cross_encoder", "--encoder={given}/encoder"),
            *("--k=4", "--num_train_epochs=1", "--max_length=12", "--batch_size=16"),
        ],
        see_tagger,
        TAGGER,
    ),
    Command(
        "rerank --kind late_interaction",
        [
            *("rerank", "{work}/tagger", DATASET, "--kind=late_interaction", "--k=4"),
            *("--num_train_epochs=1", "--dim=4", "--batch_size=16"),
        ],
        see_tagger,
        TAGGER,
    ),
    Command("labels --add", ["labels", "{work}/tagger", "--add={given}/new.csv"], see_tagger, TAGGER),
    Command("labels --update", ["labels", "{work}/tagger", "--update={given}/texts.csv"], see_tagger, TAGGER),
    Command("labels --remove", ["labels", "{work}/tagger", "--remove=red"], see_tagger, TAGGER),
    Command("describe --texts", ["describe", "{work}/tagger", "--texts={given}/kinds.csv"], see_tagger, TAGGER),
    Command(
        "describe --answers", ["describe", "{work}/tagger", "--answers={given}/answers.jsonl"], see_tagger, TAGGER
    ),
    Command(
        "describe --prompts",
        ["describe", "{given}/tagger", "--prompts={work}/prompts.jsonl"],
        lambda work: see_files(work, "prompts.jsonl"),
    ),
    Command("serve --save", add_by_service, see_tagger, TAGGER),
    Command("card", write_card, lambda work: see_files(work, "tagger/README.md"), TAGGER),
    Command("export --to onnx", ["export", "{work}/tagger", "--to=onnx"], partial(see_tagger, backend="onnx"), TAGGER),
    Command(
        "export --to onnx --int8",
        ["export", "{work}/tagger", "--to=onnx", "--int8", DATASET],
        partial(see_tagger, backend="onnx"),
        TAGGER,
    ),
    Command(
        "export --to vectors",
        ["export", "{given}/tagger", "--to=vectors", "--output={work}/vectors.parquet"],
        see_vectors,
    ),
    Command(
        "export --to sentence-transformers",
        ["export", "{given}/tagger", "--to=sentence-transformers", "--output={work}/exported"],
        see_sentence_transformers,
    ),
    Command(
        "export --to static",
        ["export", "{given}/tagger", "--to=static", DATASET, "--output={work}/tagger"],
        see_tagger,
    ),
    Command(
        "map", ["map", "{work}/tagger", "--output={work}/map.html"], lambda work: see_page(work, "map.html"), TAGGER
    ),
    Command(
        "evaluate",
        ["evaluate", "{given}/tagger", DATASET, "--output_dir={work}/evaluation", "--no_baselines"],
        see_evaluation,
    ),
    Command(
        "evaluate over another",
        ["evaluate", "{given}/tagger", DATASET, "--output_dir={work}/evaluation", "--no_baselines", "--k=3"],
        see_evaluation,
        (("evaluated", "evaluation"),),
    ),
    Command(
        "evaluate into the folder",
        ["evaluate", "{work}/tagger", DATASET, "--output_dir={work}/tagger", "--no_baselines"],
        see_tagger,
        TAGGER,
    ),
    Command(
        "explain --output",
        ["explain", "{given}/tagger", "--text=a red car", "--k=2", "--output={work}/why.json"],
        lambda work: see_files(work, "why.json"),
    ),
    Command(
        "explain --output page",
        ["explain", "{given}/tagger", "--text=a red car", "--k=2", "--output={work}/why.html"],
        lambda work: see_page(work, "why.html"),
    ),
    Command("audit", ["audit", "{given}/data", "--output_dir={work}/audit"], see_audit),
    Command(
        "audit over another",
        ["audit", "{given}/other", "--output_dir={work}/audit", "--most=5"],
        see_audit,
        (("audited", "audit"),),
    ),
    Command(
        "audit --accept",
        ["audit", "{given}/data", "--accept", "--set_aside=0.05", "--output_dir={work}"],
        lambda work: {**see_audit(work, "."), **see_data(work)},  # the lists as one, then the data set
    ),
    Command(
        "audit --drop",
        ["audit", "{given}/reviewed", "--drop=corrected", "--output_dir={work}"],
        see_data,
    ),
    Command(
        "audit --apply",
        ["audit", "{given}/data", "--apply={given}/reviewed.csv", "--output_dir={work}"],
        see_data,
    ),
    Command("prepare", ["prepare", "{given}/data", "--output_dir={work}/data"], see_data),
    Command(
        "prepare over a set",
        ["prepare", "{given}/other", "--output_dir={work}/data"],
        see_data,
        (("prepared", "data"),),
    ),
    Command("prepare an archive", ["prepare", "{given}/data.zip", "--output_dir={work}/data"], see_data),
    Command(
        "predict --output",
        [
            *("predict", "{given}/tagger", "--input={given}/queries.csv", "--output={work}/tagged.csv"),
            *("--window=20",),
        ],
        lambda work: see_files(work, "tagged.csv"),
    ),
    Command(
        "predict --overwrite",
        [
            *("predict", "{given}/tagger", "--input={given}/queries.csv", "--output={work}/tagged.csv"),
            *("--window=20", "--overwrite"),
        ],
        lambda work: see_files(work, "tagged.csv"),
        (("texts.csv", "tagged.csv"),),
    ),
)
# What writes and has no row, by the words on the command line, and why.
ELSEWHERE = {
    "push": "it uploads; what it writes before is the row card",
    "export --to openvino": "it needs another library; onnx is written by the same lines",
    "export --to postgresql": "a database, whose transactions are used",
    "export --to qdrant": "a database, whose labels count from when its collection is named",
}


# ---- Inputs, made once ----


def make_inputs(given: Path, commands: Sequence[Command]) -> None:
    """Write what these commands start from; in a fork, since it computes."""
    given.mkdir(parents=True, exist_ok=True)
    for command in commands:
        named = () if callable(command.run) else re.findall(r"{given}/([\w.]+)", " ".join(command.run))
        for name in (*named, *command.needs, *(source for source, _ in command.start)):
            make_input(given, name)


def make_input(given: Path, name: str) -> None:
    """Write one of the inputs, and before it those that it is made from."""
    if (given / name).exists():
        return
    needs, make = INPUTS[name]
    for other in needs:
        make_input(given, other)
    make(given)


def run_line(given: Path, *line: str) -> None:
    Command("", line, see_tagger)(given, given)
    for path in given.glob("*/checkpoint-*"):
        shutil.rmtree(path)


def make_encoder(given: Path) -> None:
    (given / "encoder").mkdir()
    make_tiny_encoder(given / "encoder")


def make_classifier(given: Path) -> None:
    encoder, output = "--model_name_or_path={given}/encoder", "--output_dir={given}/classifier"
    run_line(given, "train", DATASET, encoder, *TRAINING, output, "--label_head=classifier")


def make_plain(given: Path) -> None:
    """A tagger that was not trained: what the folder is made of is what matters."""
    from hf_xmc import XMCDualEncoderModel, XMCPipeline, load_xmc_dataset

    model = XMCDualEncoderModel.from_encoder(str(given / "encoder"), max_query_length=12, max_label_length=8)
    tagger = XMCPipeline.build(model, load_xmc_dataset(given / "data").labels)
    tagger.save_pretrained(given / "plain")


def make_tagger(given: Path) -> None:
    shutil.copytree(given / "plain", given / "tagger")
    run_line(given, "calibrate", "{given}/tagger", DATASET, "--channels=memory,lexical")


def make_archive(given: Path) -> None:
    with zipfile.ZipFile(given / "data.zip", "w") as archive:
        for path in sorted((given / "data").iterdir()):
            archive.write(path, path.name)


def make_table(given: Path) -> None:
    lines = [f"{row['text']},{COLOURS[row['labels'][0]]}" for row in rows_of(80, 3)]
    (given / "table.csv").write_text("\n".join(["text,labels", *lines]) + "\n")


def make_queries(given: Path) -> None:
    (given / "queries.csv").write_text("\n".join(["text", *(row["text"] for row in rows_of(60, 4))]) + "\n")


def make_more(given: Path) -> None:
    lines = [f"{row['text']} again,{COLOURS[row['labels'][0]]}" for row in rows_of(60, 5)]
    (given / "more.csv").write_text("\n".join(["text,labels", *lines, "a violet car,violet"]) + "\n")


def make_kinds(given: Path) -> None:
    lines = ["uid,text,kind", "red,scarlet,synonym", "blue,the colour of the sky,definition", "car,has four wheels,"]
    (given / "kinds.csv").write_text("\n".join(lines) + "\n")


def make_answers(given: Path) -> None:
    write_lines(given / "answers.jsonl", [{"uid": "red", "answer": '["scarlet", "like blood"]'}])


def make_described(given: Path) -> None:
    shutil.copytree(given / "tagger", given / "described")
    run_line(given, "describe", "{given}/described", "--texts={given}/kinds.csv")


def make_soft(given: Path) -> None:
    run_line(given, "audit", "{given}/data", "--apply={given}/reviewed.csv", "--output_dir={given}/made")
    (given / "made" / "data").rename(given / "reviewed")


def make_evaluated(given: Path) -> None:
    run_line(given, "evaluate", "{given}/tagger", DATASET, "--output_dir={given}/evaluated", "--no_baselines")


def make_reviewed(given: Path) -> None:
    lines = [f"trn{i},white,0.9,yes" for i in range(3)]
    (given / "reviewed.csv").write_text("\n".join(["query_uid,label_uid,score,accept", *lines]) + "\n")


# What it is made from, and how.
INPUTS: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
    "encoder": ((), make_encoder),
    "data": ((), lambda given: write_set(given / "data", seed=0, words="the {}")),
    "other": ((), lambda given: write_set(given / "other", seed=1, words="something {}")),
    "data.zip": (("data",), make_archive),
    "prepared": (("data",), lambda given: run_line(given, "prepare", "{given}/data", "--output_dir={given}/prepared")),
    "table.csv": ((), make_table),
    "more.csv": ((), make_more),
    "fitted": (("table.csv",), lambda given: fit_fast(given, given / "fitted")),
    "queries.csv": ((), make_queries),
    "texts.csv": ((), lambda given: (given / "texts.csv").write_text("uid,text\nred,scarlet\nblue,azure\n")),
    "new.csv": ((), lambda given: (given / "new.csv").write_text("uid,text\nviolet,the violet\n")),
    "kinds.csv": ((), make_kinds),
    "answers.jsonl": ((), make_answers),
    "reviewed.csv": ((), make_reviewed),
    "reviewed": (("data", "reviewed.csv"), make_soft),
    "audited": (("data",), lambda given: run_line(given, "audit", "{given}/data", "--output_dir={given}/audited")),
    "plain": (("encoder", "data"), make_plain),
    "classifier": (("encoder", "data"), make_classifier),
    "tagger": (("plain",), make_tagger),
    "described": (("tagger", "kinds.csv"), make_described),
    "evaluated": (("tagger",), make_evaluated),
}


def rows_of(count: int, seed: int, stem: str = "row") -> list[dict[str, Any]]:
    draw, made = random.Random(seed), []
    for i in range(count):
        colour, thing = draw.randrange(len(COLOURS)), draw.randrange(len(THINGS))
        text = f"a {COLOURS[colour]} {THINGS[thing]}" + (" is here" if i % 3 else f" number {i}")
        made.append({"uid": f"{stem}{i}", "text": text, "labels": [colour, len(COLOURS) + thing]})
    return made


def write_set(folder: Path, seed: int, words: str) -> None:
    folder.mkdir()
    write_lines(folder / "lbl.jsonl", [{"uid": name, "text": words.format(name)} for name in [*COLOURS, *THINGS]])
    for i, (stem, count) in enumerate((("trn", 64), ("val", 60), ("tst", 20))):
        write_lines(folder / f"{stem}.jsonl", rows_of(count, seed + 10 * i, stem))
