"""The model card: a trained folder's README.md, made from the record of its run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import jinja2
from datasets import Dataset
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from hf_xmc.data.arrow import read_parquet
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import transaction
from hf_xmc.hub.papers import cited
from hf_xmc.hub.run import CARD as CARD
from hf_xmc.hub.run import METRICS as METRICS
from hf_xmc.hub.run import RUN, read_json
from hf_xmc.hub.sentence_layout import CUSTOM, MODULES, TRANSFORMER
from hf_xmc.modeling import LabelHead
from hf_xmc.modeling.label_head_xmc import COEFFICIENTS, LABEL_HEAD
from hf_xmc.retrieval.channels import load_channels
from hf_xmc.retrieval.channels.query_memory import MEMORY, QueryMemory
from hf_xmc.retrieval.confidence import CONFIDENCE
from hf_xmc.retrieval.index import ABOUT, LABELS
from hf_xmc.retrieval.learned_fusion import FUSION
from hf_xmc.retrieval.rerank import RERANKER

logger = logging.get_logger(__name__)

KEPT = "README.old.md"
SIGNATURE = re.compile(r"\n<!-- written by hf_xmc, (\w+) -->\n$")
SECTIONS_0_1 = ("\n## Use\n", "\n## Limits\n", "\n## Licence and attribution\n", "\n## Papers\n", "`hf_xmc`")
TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
COLUMNS = ("P@1", "P@3", "P@5", "nDCG@5", "R@5", "PSP@1", "PSP@5")
# What a ranking channel is, for those that have a name of their own.
ABOUT_CHANNELS = {
    "names": "Names: labels whose name or synonym stands in the text, labels that are added later included",
    "lexical": "Exact words: a sparse linear classifier for each label that occurs at least twice in training",
}
# Arguments that describe the machine or the account, not the model.
LOCAL = re.compile(r"_dir$|hub|token|logging|log_|^save_|report_to|run_name|tqdm|dataloader|use_cpu|project|trackio")
METRIC_NAMES = {"P": "precision", "R": "recall"}


def model_card(
    name: str,
    run: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    labels: Dataset | None = None,
    config: Mapping[str, Any] | None = None,
    license: str | None = None,
    memory: Mapping[str, Any] | None = None,
    confidence: Mapping[str, Any] | None = None,
    label_head: Mapping[str, Any] | None = None,
    removed: Collection[int] = (),
    reranker: bool = False,
    channels: Mapping[str, Mapping[str, Any]] | None = None,
    fusion: Mapping[str, Any] | None = None,
    loads: Collection[str] = ("transformers",),
) -> str:
    """The text of a README.md: metadata that the Hub reads, and a description for people.

    Args:
        name: Hub id or folder; what the example code loads.
        run: the content of `run.json`; any part may be missing. Read are `encoder`, `arguments`, `first_stage`, `data`
            (`name`, `licence`, `source`, `counts`, `fingerprint`, `example`), `validation`, `train_seconds`,
            `versions`, `paper` and `license`.
        metrics: the content of `metrics.json`; its `baselines` become rows of the results table.
        labels: the label table.
        config: the model's configuration as a dict (`config.json`).
        license: of the model, as the Hub names it (`"apache-2.0"`); by default `run["license"]`.
        memory, confidence: the content of `memory/memory.json` and `confidence.json`.
        label_head: `kind`, `num_labels` and `fusion` of per-label vectors, if there are any.
        removed: rows of the label table whose labels were removed.
        reranker: whether there is one.
        channels: name -> description of further ranking channels.
        fusion: the content of `fusion.json`, if how channels are combined was learned.
        loads: what else loads the folder, for which there is example code: `"transformers"`,
            `"sentence-transformers"` (`"sentence_xmc"` by the folder's code), `"onnx"`, `"openvino"`.

    >>> card = ModelCard(model_card("me/tagger", metrics={"split": "test", "metrics": {"P@1": 0.5}}))
    >>> card.data.library_name, card.data.eval_results[0].metric_type, card.data.eval_results[0].metric_value
    ('hf_xmc', 'precision@1', 0.5)
    """
    run, metrics, config = run or {}, metrics or {}, config or {}
    data = run.get("data") or {}
    license = license or run.get("license")
    encoder, dataset = str(run.get("encoder") or ""), str(data.get("name") or "")
    metadata = ModelCardData(
        model_name=Path(name).name,
        # What the Hub shows code for: that of sentence-transformers runs where the folder has its files.
        library_name="sentence-transformers" if "sentence-transformers" in loads else "hf_xmc",
        pipeline_tag="feature-extraction" if "sentence-transformers" in loads else None,
        language=languages(data.get("language")),
        tags=["hf_xmc", "extreme-multi-label-classification", "multi-label-classification", "dual-encoder", "tagging"],
        base_model=encoder if is_hub_id(encoder) else None,
        datasets=[dataset] if is_hub_id(dataset, namespace=True) else None,
        license=license,
        eval_results=eval_results(metrics, dataset) or None,
    )
    shared = bool(config.get("share_encoders", True))
    body = environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = body.render(
        title=f"{dataset} tagger" if dataset else Path(name).name,
        name=json.dumps(name),
        example=json.dumps(data.get("example") or "Paste a text here", ensure_ascii=False),
        towers=towers(shared, encoder if is_hub_id(encoder) else "", student := run.get("student") or {}),
        shared=shared,
        student=student,
        dimension=dimension(config),
        # The vector of a label whose text is fused with a classifier is not of unit length.
        normalize=config.get("normalize", True) and (label_head or {}).get("kind") != "classifier",
        max_length=None if is_static(config) else config.get("max_query_length"),
        loads=loads,
        parts=fitted_parts(memory or {}, confidence or {}, label_head, reranker, channels, fusion),
        fitted={"num_queries": 0, "data": "", **settings} if (settings := (confidence or {}).get("settings")) else {},
        measured=measured(metrics, dataset),
        columns=columns(metrics),
        results=results(metrics),
        settings=listed(metrics.get("settings") or {}),
        training=training_facts(run, metrics, data),
        stages=stages(run),
        versions=listed(run.get("versions") or metrics.get("versions") or {}),
        num_labels=0 if labels is None else len(labels) - len(removed),
        num_removed=len(removed),
        labels=label_examples(labels, removed),
        data={"name": "", "source": "", **data, "licence": linked(str(data.get("licence") or ""))},
        license=license,
        papers=cited(run.get("paper")),
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{tidy(text)}"


def write_model_card(
    folder: str | os.PathLike[str],
    metrics: Mapping[str, Any] | None = None,
    name: str | None = None,
    license: str | None = None,
) -> Path:
    """Write `README.md` into a trained folder, from the files that the folder has.

    A card that was edited by hand is kept as `README.old.md`, with a warning.

    Args:
        folder: the trained folder.
        metrics: the content of `metrics.json`; by default the folder's own, if it has one.
        name: what the example code loads; by default the folder, and the repository once it is pushed.
        license: of the model, as the Hub names it; by default that of the present card.
    """
    name = name or Path(folder).as_posix()
    with transaction(folder) as staging:
        write_card(staging, name, metrics, license)
    return Path(folder, CARD)


def write_card(folder: Path, name: str, metrics: Mapping[str, Any] | None, license: str | None) -> None:
    """`write_model_card`, into the staging folder of a transaction."""
    table, path = folder / LABELS, folder / CARD
    present = path.read_text(encoding="utf-8") if path.is_file() else ""
    text = model_card(
        name,
        run=read_json(folder / RUN),
        metrics=metrics or read_json(folder / METRICS),
        labels=read_parquet(table) if table.is_file() else None,
        config=read_json(folder / "config.json"),
        license=license or license_of(present),
        memory=read_json(folder / MEMORY),
        confidence=read_json(folder / CONFIDENCE),
        label_head=read_label_head(folder),
        removed=read_json(folder / ABOUT).get("removed") or (),
        reranker=(folder / RERANKER).is_dir(),
        channels={c.name: c.describe() for c in load_channels(folder) if not isinstance(c, QueryMemory)},
        fusion=read_json(folder / FUSION),
        loads=loaders(folder),
    )
    if present and not is_generated(present):
        logger.warning(f"{CARD} of {name} was edited by hand; it is kept as {KEPT}, and a new card is written.")
        os.replace(path, folder / KEPT)
    with replacing(path) as temporary:
        temporary.write_text(signed(text), encoding="utf-8")


def loaders(folder: Path) -> list[str]:
    """What loads a trained folder beside this package; see `loads` of `model_card`."""
    # The module of sentence-transformers that reads the encoder has a file of its own; the custom one has none.
    by_modules = "sentence-transformers" if (folder / TRANSFORMER).is_file() else CUSTOM
    files = {
        "transformers": "modeling_xmc.py",
        by_modules: MODULES,
        **{name: f"{name}/{name}.json" for name in ("onnx", "openvino")},
    }
    return [name for name, file in files.items() if (folder / file).is_file()]


def languages(given: Any) -> Any:
    """The languages of the data as the Hub names them: codes of two or three letters; None if there are others.

    >>> languages("en"), languages(["en", "fi"]), languages("English")
    ('en', ['en', 'fi'], None)
    """
    codes = [given] if isinstance(given, str) else list(given or [])
    return given if codes and all(re.fullmatch("[a-z]{2,3}", str(code)) for code in codes) else None


def signed(text: str) -> str:
    """A card with a comment at its end by which changes made by hand are noticed.

    >>> is_generated(signed("a card")), is_generated(signed("a card").replace("a", "my"))
    (True, False)
    """
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{text}\n<!-- written by hf_xmc, {digest} -->\n"


def is_generated(card: str) -> bool:
    """Whether a card is as `write_model_card` wrote it. Cards of version 0.1.0 have no signature; they count as
    generated if they have the sections that were always written."""
    if SIGNATURE.search(card):
        return signed(SIGNATURE.sub("", card)) == card
    return all(section in card for section in SECTIONS_0_1)


def license_of(card: str) -> str | None:
    """The license in a card's metadata, if it has any."""
    if not card.startswith("---"):
        return None
    try:
        return ModelCard(card, ignore_metadata_errors=True).data.get("license")
    except (ValueError, RecursionError):  # the metadata is not YAML
        return None


def readdress(card: str, repo_id: str) -> str:
    """A card whose example code and metadata name another repository. Text written by hand is not changed.

    >>> text = model_card("outputs/model", metrics={"metrics": {"P@1": 0.5}})
    >>> 'XMCPipeline.from_pretrained("me/tagger")' in readdress(text, "me/tagger")
    True
    """
    generated = SIGNATURE.search(card) is not None and is_generated(card)
    text = SIGNATURE.sub("", card) if generated else card
    if found := re.search(r'XMCPipeline\.from_pretrained\(("[^"\n]*")\)', text):
        for call in ("from_pretrained({}", "SentenceTransformer({}", "model={}"):
            text = text.replace(call.format(found[1]), call.format(json.dumps(repo_id)))
    parsed = ModelCard(text)
    metadata: Any = parsed.data
    if metadata.eval_results:
        metadata.model_name = repo_id.split("/")[-1]
        text = str(parsed)
    return signed(text) if generated else text


def fitted_parts(
    memory: Mapping[str, Any],
    confidence: Mapping[str, Any],
    label_head: Mapping[str, Any] | None = None,
    reranker: bool = False,
    channels: Mapping[str, Mapping[str, Any]] | None = None,
    fusion: Mapping[str, Any] | None = None,
) -> list[str]:
    """What the folder has in addition to encoder and index, and how it is used.

    >>> fitted_parts({}, {"settings": {"level": 0.9, "num_queries": 500}})[0][:46]
    'Fitted on 500 held-out queries: probabilities,'
    """
    facts = head_facts(label_head) if label_head else []
    if memory:
        weight = (memory.get("settings") or {}).get("weight")
        facts.append(
            f"Query memory: {memory.get('num_queries', 0):,} training queries vote with their labels"
            + (f" (weight {weight:g})" if weight is not None and not fusion else "")
            + "; `tagger(text, memory=False)` ranks by the labels alone."
        )
    for name, about in (channels or {}).items():
        about = {key: value for key, value in about.items() if key != "weight" or not fusion}
        facts.append(f"{ABOUT_CHANNELS.get(name, f'Ranking channel `{cell(name)}`')}: {listed(about)}.")
    if fusion:
        facts.append(fusion_facts(fusion))
    if settings := confidence.get("settings"):
        facts.append(
            f"Fitted on {settings.get('num_queries', 0):,} held-out queries: probabilities, thresholds "
            f'(`tagger(text, threshold="f1")`), and label sets that keep {settings.get("level", 0.9):.0%} of the true '
            "labels on average (`tagger(text, conformal=True)`)."
        )
    if reranker:
        facts.append("Reranker: reorders the best labels of a text on request, `tagger(text, rerank=20)`.")
    return facts


def fusion_facts(fusion: Mapping[str, Any]) -> str:
    """How channels are combined.

    >>> fusion_facts({"channels": ["labels", "names"], "about": {"queries": 700, "prefer": "tail"}})[:76]
    'Fusion: a linear model over scores and ranks of the channels `labels`, `name'
    """
    names, about = ", ".join(f"`{cell(name)}`" for name in fusion.get("channels", ())), fusion.get("about") or {}
    chosen = {"head": ", for the first label above all", "tail": ", with more weight on rare labels"}
    return (
        f"Fusion: a linear model over scores and ranks of the channels {names}, learned on "
        f"{about.get('queries', 0):,} held-out queries{chosen.get(str(about.get('prefer')), '')}; "
        '`tagger(text, explain="channels")` shows what each of them says of a label.'
    )


def head_facts(head: Mapping[str, Any]) -> list[str]:
    """Which head there is, how many labels have a vector, and how labels added later are scored.

    >>> head_facts({"kind": "residual", "num_labels": 1559})[0][:48]
    'Label head: 1,559 labels have a learned vector, '
    """
    text = f"Label head: {head['num_labels']:,} labels have a learned vector, "
    if head["kind"] == "residual":
        text += "which is added to the embedding of their text. "
    elif fusion := head.get("fusion"):
        a, b, more_a, more_b = (fusion.get(name, 0.0) for name in COEFFICIENTS)
        text += f"a classifier, whose score is fused with that of their text: {a:.2f} text and {b:.2f} classifier"
        if more_a or more_b:
            text += f" for the rarest labels, {a + more_a:.2f} and {b + more_b:.2f} for the most frequent one"
        text += " (learned on validation queries). "
    else:
        text += "a classifier, whose score is fused with that of their text in equal parts. "
    return [text + "Labels that are added later are scored by their text alone."]


def read_label_head(folder: Path) -> dict[str, Any]:
    """What `head_facts` says about the label head of a folder; empty if there is none."""
    if not (folder / LABEL_HEAD).is_file():
        return {}
    head = LabelHead.load(folder)
    return {"kind": head.kind, "num_labels": len(head), "fusion": head.fusion}


def is_hub_id(name: str, namespace: bool = False) -> bool:
    """Whether a name can be that of a repository on the Hub, and is no path on this machine.

    >>> [is_hub_id(name) for name in ("sentence-transformers/all-MiniLM-L6-v2", "bert-base-uncased", "/tmp/x", "../x")]
    [True, True, False, False]
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(name) and not Path(name).exists() and ("/" in name or not namespace)


def eval_results(metrics: Mapping[str, Any], dataset: str) -> list[EvalResult]:
    """The measured values in the Hub's form (model-index)."""
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Extreme multi-label classification",
            dataset_type=dataset or "unknown",
            dataset_name=dataset or "unknown",
            dataset_split=metrics.get("split"),
            metric_type=metric_type(key),
            metric_name=key,
            metric_value=round(float(value), 6),
        )
        for key, value in (metrics.get("metrics") or {}).items()
    ]


def metric_type(key: str) -> str:
    """`"P@5"` to `"precision@5"`, `"nDCG@5"` to `"ndcg@5"`."""
    kind, at, k = key.partition("@")
    return METRIC_NAMES.get(kind, kind.lower()) + at + k


def columns(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics of the results table: the usual ones, or else the first ones that were measured."""
    found = metrics.get("metrics") or {}
    return [key for key in COLUMNS if key in found] or list(found)[:8]


def results(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Rows of the results table, the model first."""
    rows = {"**this model**": metrics.get("metrics") or {}, **(metrics.get("baselines") or {})}
    shown = columns(metrics)
    if not shown:
        return []
    number = lambda value: f"{value:.3f}" if isinstance(value, int | float) else ""  # noqa: E731
    return [(cell(name), [number(values.get(key)) for key in shown]) for name, values in rows.items()]


def measured(metrics: Mapping[str, Any], dataset: str) -> str:
    split = f"the {metrics['split']} split" if metrics.get("split") else "held-out data"
    queries = f" ({metrics['num_queries']:,} queries)" if metrics.get("num_queries") else ""
    return f"On {split}{f' of `{cell(dataset)}`' if dataset else ''}{queries}, as fractions; higher is better."


def dimension(config: Mapping[str, Any]) -> int:
    """Dimensions of the embeddings, by the model's configuration; 0 if it does not say.

    >>> dimension({"encoder_config": {"hidden_size": 384}, "static_dim": 256}), dimension({"static_dim": 64})
    (640, 64)
    """
    hidden = (config.get("encoder_config") or {}).get("hidden_size")
    dense = 0 if is_static(config) else config.get("projection_dim") or hidden or 0
    return int(dense) + int(config.get("static_dim") or 0)


def is_static(config: Mapping[str, Any]) -> bool:
    """Whether a model is a static tower alone."""
    return config.get("static_dim") is not None and not config.get("encoder_config")


def towers(shared: bool, encoder: str, student: Mapping[str, Any]) -> str:
    """The encoders in words."""
    if student:
        return "a table of vectors of words and word pairs, without a transformer,"
    origin = f" (from [{encoder}](https://huggingface.co/{encoder}))" if encoder else ""
    return f"one encoder{origin}" if shared else f"two encoders, one for texts and one for labels{origin},"


def training_facts(run: Mapping[str, Any], metrics: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    facts = []
    if data.get("name"):
        counts = listed({key: f"{value:,}" for key, value in (data.get("counts") or {}).items()})
        facts.append(f"Data: `{cell(data['name'])}`" + (f" ({counts})" if counts else ""))
    if soft := run.get("soft_positives"):
        counts = listed({str(cell(key)): f"{value:,}" for key, value in soft.items()})
        facts.append(f"Pairs beside the given ones, with weights: {counts}")
    if data.get("fingerprint"):
        facts.append(f"Fingerprint of the data: `{cell(data['fingerprint'])}`")
    if run.get("validation") == "none":
        facts.append("Trained on the validation queries too, to the last step: no weights were chosen by them")
    seconds = metrics.get("train_seconds") or run.get("train_seconds")
    if seconds:
        facts.append(f"Time: {seconds:,.0f} seconds" + energy(seconds, run.get("hardware") or {}))
    return facts


def energy(seconds: float, hardware: Mapping[str, Any]) -> str:
    """Where a model was trained, and an estimate of the energy.

    >>> energy(3600, {"device": "NVIDIA A100", "count": 2, "watts": 800})
    ' on 2 x NVIDIA A100, about 0.8 kWh (an estimate, from 800 W)'
    """
    if not hardware:
        return ""
    number = f"{hardware['count']} x " if hardware.get("count", 1) > 1 else ""
    kwh = seconds * float(hardware["watts"]) / 3.6e6
    return f" on {number}{cell(hardware['device'])}, about {kwh:.2g} kWh (an estimate, from {hardware['watts']:g} W)"


def stages(run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The training arguments of each stage, as (title, rows), without what is local to a machine."""
    named = {"First stage": run.get("first_stage"), "Last stage": run.get("arguments")}
    tables = [(title, arguments(given)) for title, given in named.items() if given]
    return [("", table) for _, table in tables] if len(tables) == 1 else tables


def arguments(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    local = lambda key, value: LOCAL.search(key) or os.path.isabs(str(value))  # noqa: E731
    return [(key, cell(value)) for key, value in given.items() if value is not None and not local(key, value)]


def label_examples(
    labels: Dataset | None, removed: Collection[int] = (), count: int = 5
) -> list[tuple[int, str, str]]:
    """Labels spread evenly over the table, without those that were removed: (id, uid, text)."""
    if labels is None or not len(labels):
        return []
    rows = sorted({i * len(labels) // count for i in range(count)} - {*removed})
    return [(row, cell(labels[row]["uid"]), cell(labels[row]["text"], 100)) for row in rows]


def linked(licence: str) -> str:
    """A licence in the source's words, Creative Commons names with a link to their text.

    >>> linked("texts CC BY-SA 4.0")
    'texts [CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/)'
    """
    address = lambda m: f"[{m[0]}](https://creativecommons.org/licenses/{m[1].lower()}/{m[2]}/)"  # noqa: E731
    return re.sub(r"CC (BY(?:-(?:NC|ND|SA))*) (\d\.\d)", address, cell(licence))


def listed(values: Mapping[str, Any]) -> str:
    """A dict in one line, nested ones in brackets.

    >>> listed({"k": 5, "propensity": {"a": 0.55, "b": 1.5}, "filter": None})
    'k 5, propensity (a 0.55, b 1.5)'
    """
    parts: Iterable[tuple[str, str]] = (
        (key, f"({listed(value)})" if isinstance(value, Mapping) else cell(value))
        for key, value in values.items()
        if value is not None
    )
    return ", ".join(f"{key} {value}" for key, value in parts)


def cell(value: Any, width: int = 200) -> str:
    """Text for a Markdown table: one line, cut at `width` between words, nothing that opens a column or a tag.

    >>> cell("a | b <i>")
    'a \\\\| b &lt;i>'
    """
    text = " ".join(str(value).split())
    if len(text) > width:
        start = text[: width - 1]
        text = (start if " " not in start or text[width - 1] == " " else start.rpartition(" ")[0]).rstrip() + "…"
    return text.replace("|", "\\|").replace("<", "&lt;")


def environment() -> jinja2.Environment:
    made = jinja2.Environment(  # nosec B701: Markdown, which is not escaped as HTML is
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    made.filters["cell"] = cell
    return made


def tidy(text: str) -> str:
    """At most one blank line in a row."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
