"""The pipeline: texts in, labels with scores out."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_xmc import hub as sharing
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.hub.folder import GRAPHS, fingerprint, load_parts, pipeline_parts, save_parts
from hf_xmc.inference import labels as changes
from hf_xmc.inference import ranking
from hf_xmc.inference.explain.channels import Evidence, channel_evidence
from hf_xmc.inference.explain.passages import add_passages
from hf_xmc.inference.explain.texts import add_matched
from hf_xmc.inference.given_texts import given_texts
from hf_xmc.inference.graph_encoder import GraphEncoder
from hf_xmc.inference.label_names import IdToLabel, LabelToId
from hf_xmc.inference.options import SearchOptions, SelectionOptions, positive, split_options
from hf_xmc.inference.selection import describe, select
from hf_xmc.retrieval.channels import FusedChannel, QueryMemory
from hf_xmc.retrieval.confidence import Confidence
from hf_xmc.retrieval.cutting import Cutter, Pieces
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, head_fingerprint, same_encoder
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.index import INDEX, LabelIndex
from hf_xmc.retrieval.knowledge import Knowledge
from hf_xmc.retrieval.learned_fusion import LearnedFusion
from hf_xmc.retrieval.passages import Passage, Passages
from hf_xmc.retrieval.rerank import PairScorer
from hf_xmc.types import TopK

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import CommitInfo

    from hf_xmc.inference.labels import NewLabels
    from hf_xmc.modeling import XMCDualEncoderModel

logger = logging.getLogger(__name__)
WEIGHTS = "model*.safetensors*"  # what a graph replaces
CELLS = 2**22  # predictions held at a time


class XMCPipeline:
    """Tags texts with the labels of a catalogue.

    Args:
        model: the dual encoder.
        index: the label index that this model built.
        run: the record of the training run (`run.json`), which the model card quotes.
        memory: training queries, which vote for their labels; one of the `channels`.
        confidence: turns scores into probabilities, thresholds and conformal prediction sets.
        reranker: reorders the best labels on request; any object with `predict(pairs) -> scores`.
        channels: further sources of scores, which are combined with those of the label vectors.
        fusion: how they are combined, if that was learned; without one by the weights of the channels.
        knowledge: what stands behind the texts that the encoder reads; by default what the model has.
        passages: how texts that are longer than the encoder reads are cut, and scored; without it the encoder reads
            the beginning of a text. A change makes a new calibration necessary.

    Example:

        tagger = XMCPipeline.from_pretrained("outputs/demo/model")
        tagger("Aligns short reads to a reference genome", k=3)
        # [{"label": "Sequence alignment", "uid": "operation_0292", "id": 310, "score": 0.71}, ...]
    """

    def __init__(
        self,
        model: XMCDualEncoderModel,
        index: LabelIndex,
        run: Mapping[str, Any] | None = None,
        memory: QueryMemory | None = None,
        confidence: Confidence | None = None,
        reranker: PairScorer | None = None,
        channels: Sequence[FusedChannel] = (),
        fusion: LearnedFusion | None = None,
        knowledge: Knowledge | None = None,
        passages: Passages | None = None,
    ) -> None:
        if knowledge is not None:
            model.knowledge = knowledge
        self.encoder_fingerprint = encoder_fingerprint(model)
        self.head_fingerprint = head_fingerprint(model)
        self.channels = [*([] if memory is None else [memory]), *channels]
        check_parts(model, index, self.memory, self.encoder_fingerprint, self.head_fingerprint)
        for channel in self.channels:
            tie_channel(channel, index, self.encoder_fingerprint)
        self.model = model.eval()
        self.index = index
        self.run = dict(run or {})
        self.confidence = confidence
        self.reranker = reranker
        self.fusion = fusion
        self.passages = passages
        self.cutter: Cutter | None = None  # made when the first text is cut
        self.catalogue: tuple[LabelIndex, int, str] | None = None  # the last fingerprint of the label table

    @property
    def memory(self) -> QueryMemory | None:
        """The query memory, if there is one among the channels."""
        return next((channel for channel in self.channels if isinstance(channel, QueryMemory)), None)

    @memory.setter
    def memory(self, memory: QueryMemory | None) -> None:
        others = [channel for channel in self.channels if not isinstance(channel, QueryMemory)]
        self.channels = [*([] if memory is None else [memory]), *others]

    @property
    def knowledge(self) -> Knowledge | None:
        """What stands behind the texts that the encoder reads (`--enrich`), if anything."""
        known: Knowledge | None = getattr(self.model, "knowledge", None)
        return known

    @property
    def id2label(self) -> Mapping[int, str]:
        """Label id -> text of the labels that can be predicted, as transformers calls it; read from the label table,
        not from `config.json`, which would grow by 58 MB with a million labels."""
        return IdToLabel(self.index.catalogue)

    @property
    def label2id(self) -> Mapping[str, int]:
        """Text -> label id; of labels with the same text the lowest id."""
        return LabelToId(self.index.catalogue)

    @classmethod
    def build(
        cls,
        model: XMCDualEncoderModel,
        labels: Dataset,
        factory: str = "flat",
        batch_size: int = 64,
        texts: str = "alone",
        **index: Any,
    ) -> XMCPipeline:
        """A pipeline over a label table (`uid`, `text`), encoded with the model and its label head, if it has one.

        Args:
            labels: the label table. If the model has a label head, the table that it was trained on, followed by any
                new labels.
            factory: the kind of index, or `"auto"`.
            texts: which texts of labels with alternative names (column `texts`) are indexed: `"alone"`, the text only;
                or all of them, scored by their `"best"` or by their `"mean"`; or `"rich"`, also definitions, parents'
                names and other kinds, scored by the argument `pooling` ([`hf_xmc.Pooling`]).
            **index: `recall_target`, `pooling` and other arguments of `LabelIndex.build`.

        Raises:
            ModelFolderError: the label head of the model belongs to other labels.
            DataError: a label without uid or text, or a uid that two labels have.
        """
        labels = changes.checked_catalogue(labels)
        labels = changes.gathered(labels) if texts == "rich" else labels
        encoded = changes.encode_catalogue(model, labels, texts, batch_size)
        return cls(model, changes.build_index(model, labels, encoded, factory, texts, **index))

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        device: Any = None,
        dtype: Any = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        model: XMCDualEncoderModel | None = None,
        subfolder: str = "",
        memory_map: bool = False,
        backend: str = "torch",
        precision: str | None = None,
        engine: str | None = None,
        trust_index: bool = True,
    ) -> XMCPipeline:
        """Load a trained folder, or a repository of the Hub (`"user/name"`).

        Args:
            device, dtype, attn_implementation: of the model, as in transformers.
            revision, token, cache_dir, subfolder: of the repository.
            model: the folder's model, if it is loaded already.
            memory_map: keep the label vectors in the file until they change; processes then share them.
            backend: `"torch"`, or what `hf-xmc export` wrote: `"onnx"` or `"openvino"`, which need no torch.
            precision: of a backend other than torch: `"float32"` or `"int8"`; by default int8 if it was exported.
            engine: address of the labels and their vectors in a database (`hf-xmc export --to postgresql`), in the
                place of those in the folder; see [`EngineIndex.connect`]. Labels are then changed there.
            trust_index: False reads no FAISS file, which a stranger may have made: the index is built here, from
                `index/vectors.safetensors` if the folder has it, else by encoding the label table with the model.

        Raises:
            SettingsError: an unknown backend, or options of torch for another one.
            EngineError: the engine cannot be reached.
            ModelFolderError: a folder that is not complete, or of which a file is not as it was saved.
        """
        hub: Any = {"revision": revision, "token": token, "cache_dir": cache_dir, "subfolder": subfolder}
        ignored = [] if backend == "torch" else [WEIGHTS]
        ignored += [f"{name}/*" for name in GRAPHS if name != backend]
        ignored += [INDEX] if engine is not None else []
        folder = fetch_folder(name_or_folder, ignore_patterns=ignored, **hub)
        if backend != "torch":
            if device or dtype or attn_implementation or model:
                raise SettingsError("device, dtype, attn_implementation and model are options of the torch backend")
            encoder: Any = GraphEncoder.from_pretrained(folder, backend, precision)
            return load_tagger(cls, folder, trust_index, engine, model=encoder, memory_map=memory_map)
        given = {"dtype": dtype, "attn_implementation": attn_implementation}
        given = {key: value for key, value in given.items() if value is not None}
        return load_tagger(
            cls, folder, trust_index, engine, model=model, device=device, memory_map=memory_map, **given
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write all parts, the record of the run and the card into one folder, and remove what belonged to another
        model or ranking."""
        save_parts(folder, pipeline_parts(self))

    def push_to_hub(self, repo_id: str, metrics: Mapping[str, Any] | None = None, **options: Any) -> CommitInfo:
        """Upload everything that `save_pretrained` writes and a new model card as one commit.

        Args:
            metrics: results that the card reports, in the form of `metrics.json`.
            **options: `private`, `token`, `revision` and `commit_message` of [`hf_xmc.hub.push_to_hub`].
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            sharing.write_model_card(folder, metrics, name=repo_id)
            return sharing.push_to_hub(folder, repo_id, **options)

    def __call__(
        self,
        texts: str | Sequence[str],
        k: int | None = None,
        *,
        batch_size: int = 64,
        explain: bool | str = False,
        search: SearchOptions | None = None,
        selection: SelectionOptions | None = None,
        **options: Any,
    ) -> list[Any]:
        """The best labels of each text, best first.

        Args:
            texts: one text, or several; of each the first million characters are read.
            k: labels per text, at most; 5 by default. `top_k` is another name of it.
            batch_size: texts encoded at a time.
            explain: add to each label `"channels"`, what each ranking channel says of it, and an `"explanation"`, by
                `"occlusion"` (True) or `"gradient"`; `"channels"` adds the first one only, which is quick. Of a text
                that is cut into passages also `"passages"`, those that speak most for the label; of a label with
                several texts also `"matched"`, the one that matches best.
            search, selection: ready-made groups of options.
            **options: single options by name: `threshold`, `conformal` and `set_method` of [`SelectionOptions`];
                `memory`, `channels`, `allowed`, `forbidden`, `where`, `geometry` and `rerank` of [`SearchOptions`].

        Returns:
            For one text a list of `{"label": text, "uid", "id", "score"}`, for several a list of such lists. The score
            is the dot product of the embeddings, fused with the scores of other channels if there are any. If the
            pipeline is calibrated, there is a `"probability"` as well. An empty text has no labels.

        Raises:
            SettingsError: an unknown option, one that needs a confidence, and there is none for this ranking, or a
                text that is no string.
        """
        rows = given_texts([texts] if isinstance(texts, str) else texts)
        batch_size = positive(batch_size, "batch_size")
        found = split_options(options if k is None else {**options, "k": k}, search, selection)
        embeddings = self.encode(rows, batch_size)
        tagged = without_blank(rows, self.tag(rows, embeddings, *found))
        if explain:
            ids = [[tag["id"] for tag in tags] for tags in tagged]
            for tags, known in zip(tagged, self.channel_evidence(rows, embeddings, ids, found[0]), strict=True):
                for tag, evidence in zip(tags, known, strict=True):
                    tag["channels"] = {name: one.to_dict() for name, one in evidence.items()}
            add_passages(self.index, rows, embeddings, tagged)
            add_matched(self.index, embeddings, tagged)
        if explain and explain != "channels":
            from hf_xmc.inference.explain.explanations import add_explanations  # slow to import

            add_explanations(self, rows, tagged, "occlusion" if explain is True else explain)
        return tagged[0] if isinstance(texts, str) else tagged

    def predict(
        self,
        texts: Sequence[str],
        k: int = 5,
        batch_size: int = 64,
        progress: bool = False,
        search: SearchOptions | None = None,
        **options: Any,
    ) -> TopK:
        """The ranking as arrays: label ids and scores, `[N, k]`, of every text, also of an empty one, so that rows are
        those of the texts. Options are those of [`SearchOptions`], and `top_k`."""
        k = positive(k if (top_k := options.pop("top_k", None)) is None else top_k, "k")  # before anything is encoded
        rows = given_texts(texts)
        return self.rank(self.encode(rows, batch_size, progress), k, rows, search, **options)

    def encode(self, texts: Sequence[str], batch_size: int = 64, progress: bool = False) -> Any:
        """Embeddings of texts, float32 `[N, D]`; if long texts are cut, those of their passages ([`Bags`]). The
        passages of all texts share the batches."""
        pieces = self.pieces(given_texts(texts))
        return pieces.embedded(self.model.encode_queries(pieces.texts, batch_size, progress))

    def pieces(self, texts: Sequence[str]) -> Pieces:
        """What the encoder reads of texts: their passages, or the texts themselves."""
        cutter = self.current_cutter()
        return Pieces(list(texts)) if cutter is None else cutter.pieces(texts)

    def passages_of(self, text: str) -> list[Passage]:
        """The passages of a text: `start` and `end` in characters, and what the encoder reads. One, if texts are not
        cut."""
        [text], cutter = given_texts([text]), self.current_cutter()
        return [Passage(0, len(text), text)] if cutter is None else cutter(text)

    def current_cutter(self) -> Cutter | None:
        """What cuts texts by the settings as they are now; None if texts are not cut.

        Raises:
            SettingsError: passages that do not fit the model.
        """
        if self.passages is None:
            return None
        if self.cutter is None or self.cutter.passages != self.passages:
            self.cutter = Cutter(self.model, self.passages)
        return self.cutter

    def tag(
        self,
        texts: Sequence[str],
        embeddings: Any,
        search: SearchOptions | None = None,
        selection: SelectionOptions | None = None,
        **options: Any,
    ) -> list[list[dict[str, Any]]]:
        """`__call__` for several texts whose embeddings exist already, as `encode` returns them."""
        search, selection = split_options(options, search, selection)
        confidence = self.confidence_for(search)
        depth = max(1, min(selection.k, len(self.index)))  # more would be padding
        if confidence is not None:  # as deep as the calibration; for a set, which promises something, no deeper
            depth = confidence.depth if selection.conformal is not False else max(depth, confidence.depth)
        tagged: list[list[dict[str, Any]]] = []
        step = max(1, CELLS // depth)
        for start in range(0, max(len(texts), 1), step):
            some = slice(start, start + step)
            topk = self.rank(embeddings[some], depth, texts=texts[some], search=search)
            keep = select(topk, confidence, **vars(selection))
            probabilities = None if confidence is None else confidence.probabilities(topk)
            tagged += describe(self.index.catalogue.arrow, topk, keep, probabilities)
        return tagged

    def rank(
        self,
        embeddings: Any,
        k: int,
        texts: Sequence[str] | None = None,
        search: SearchOptions | None = None,
        **options: Any,
    ) -> TopK:
        """The k best labels for embeddings of queries, `[N, D]` or [`Bags`].

        Args:
            texts: of the queries, `[N]`; needed by a reranker and by channels that read them.
            search, **options: see [`SearchOptions`].
        """
        with self.index.current():
            search = changes.with_label_ids(self.index, SearchOptions.of(search, options))
            depth = (
                k if not search.rerank else max(k, ranking.RERANK_DEPTH if search.rerank is True else search.rerank)
            )
            temperature = self.model.config.temperature
            fused = (self.channels, texts, embeddings, depth, search, temperature, self.fusion)
            topk = ranking.rank_labels(self.index, *fused)
        return ranking.reorder(self.reranker, texts, topk, self.index.labels, k) if search.rerank else topk

    def channel_evidence(
        self,
        texts: Sequence[str],
        embeddings: Any,
        label_ids: Sequence[Sequence[int]],
        search: SearchOptions | None = None,
    ) -> list[list[dict[str, Evidence]]]:
        """For each text and each of its `label_ids` what each ranking channel says of the label, by its name.

        Args:
            embeddings: of the texts, `[N, D]`.
        """
        given = (self.index, self.channels, self.fusion, texts, embeddings, label_ids)
        return channel_evidence(*given, search or SearchOptions())

    def confidence_for(self, search: SearchOptions | None = None, **options: Any) -> Confidence | None:
        """The confidence, if it was fitted on the ranking that these options give, else None."""
        search = SearchOptions.of(search, options)
        if self.confidence is None:
            return None
        settings = self.confidence.settings
        if "ranking" in settings:
            same = same_encoder(settings["ranking"], self.ranking_fingerprint(search, settings["num_labels"]))
        else:  # fitted by version 0.1.0
            names = [channel.name for channel in ranking.channels_used(self.channels, search)]
            same = not (search.rerank or search.geometry) and ranking.same_settings(
                settings, self.index, names, self.encoder_fingerprint, self.head_fingerprint
            )
        return self.confidence if same else None

    def ranking_fingerprint(self, search: SearchOptions | None = None, num_labels: int | None = None) -> str:
        """A fingerprint of everything that scores depend on, which a confidence is keyed by. It does not change when
        labels are added, changed or removed.

        Args:
            num_labels: rows of the label table that it refers to; by default all. Labels added later are not among
                the rows that a confidence was fitted for.
        """
        num_labels = self.index.catalogue.num_rows if num_labels is None else num_labels
        last = self.catalogue
        if last is None or last[0] is not self.index or last[1] != num_labels:  # it takes a millisecond
            last = (self.index, num_labels, ranking.catalogue_fingerprint(self.index, num_labels))
            self.catalogue = last
        return ranking.ranking_fingerprint(
            self.index,
            self.channels,
            self.encoder_fingerprint,
            self.head_fingerprint,
            self.reranker,
            search,
            last[2],
            self.fusion,
            self.passages,
            self.knowledge,
        )

    def add_labels(self, labels: NewLabels) -> np.ndarray:
        """Add labels, which can be predicted at once, without training; returns their ids.

        Args:
            labels: texts, dicts (`text`; optionally `uid` and other columns of the label table) or a `Dataset`. Labels
                without a uid get a free number.

        Raises:
            DataError: a uid that is in the index already, or a label without text. Nothing is added then.
        """
        return changes.add_labels(self.model, self.index, labels, self.encoder_fingerprint)

    def remove_labels(self, labels: Sequence[str | int]) -> None:
        """Remove labels, given by uid (strings) or id (numbers).

        Raises:
            NotInIndex: a label that is not in the index (also a KeyError); nothing is removed then.
        """
        with self.index.current():
            self.index.remove(changes.label_ids(self.index, labels).tolist())

    def update_labels(self, texts: Mapping[Any, str | Sequence[str]]) -> None:
        """Give labels new texts.

        Args:
            texts: uid or id -> a text, or several, the first of which is displayed.

        Raises:
            NotInIndex: a label that is not in the index (also a KeyError).
        """
        with self.index.current():
            changes.update_labels(self.model, self.index, texts, self.encoder_fingerprint)

    def set_label_texts(self, texts: Mapping[Any, Mapping[str, str | Sequence[str]]]) -> None:
        """Give labels other texts of some kinds (`"name"`, `"synonym"`, `"hidden"`, `"definition"`, `"parent"`,
        `"descriptor"`, `"example"`), which the next prediction uses; their texts of other kinds stay.

        In an index of names alone the labels are then found by the best of their texts.

        Args:
            texts: uid or id -> kind -> a text, several, or an empty list to remove those of the kind.

        Raises:
            NotInIndex: a label that is not in the index (also a KeyError).
            DataError: an unknown kind, or an empty text. Nothing is changed in either case.
        """
        with self.index.current():
            changes.set_label_texts(self.model, self.index, texts, self.encoder_fingerprint)

    def fingerprint(self) -> str:
        """A hash of everything that predictions depend on: encoder, label table, index and all parts saved with
        them."""
        with TemporaryDirectory() as scratch:
            return fingerprint(self, Path(scratch))


def without_blank(texts: Sequence[str], tagged: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """The labels of texts, and none where a text is empty, which is logged: an encoder ranks nothing too."""
    if blank := sum(not text.strip() for text in texts):
        logger.warning("%d of %d texts are empty and get no labels", blank, len(texts))
    return [tags if text.strip() else [] for text, tags in zip(texts, tagged, strict=True)]


def check_parts(
    model: XMCDualEncoderModel, index: LabelIndex, memory: QueryMemory | None, encoder: str, head: str | None
) -> None:
    """Refuse parts that were made with another model, or for other labels.

    Args:
        encoder, head: fingerprints of the model's encoder and of its label head, if it has one.

    Raises:
        ModelFolderError: a part that does not belong to the model; the message says how to rebuild it.
    """
    rebuild = "build it again with this model (hf-xmc index)"
    if model.config.embedding_dim != index.dimension:
        raise ModelFolderError(
            f"The model embeds in {model.config.embedding_dim} dimensions, the index holds {index.dimension}",
            hint=rebuild,
        )
    if not same_encoder(encoder, index.about["encoder_fingerprint"]):
        raise ModelFolderError(
            "The index was built by another encoder, or by this one before it was trained further", hint=rebuild
        )
    built_with = index.about["head_fingerprint"]
    unknown = built_with is None and index.about["encoder_fingerprint"] is None  # made by hand
    if built_with != head and not unknown:
        if head is None:
            what = "with a label head, but the model has none"
        elif built_with is None:
            what = "without the model's label head"
        else:
            what = "with another label head than that of the model, or with this one before it was trained or fused"
        raise ModelFolderError(f"The index was built {what}", hint=rebuild)
    if model.label_head is not None:
        model.label_head.check_catalogue(index.catalogue.arrow["uid"].to_pylist())
    if memory is not None and memory.embeddings.shape[1] != index.dimension:
        raise ModelFolderError(
            f"The memory has {memory.embeddings.shape[1]} dimensions, the index {index.dimension}",
            hint="build it again (hf-xmc calibrate)",
        )
    if memory is not None and memory.num_labels > index.catalogue.num_rows:
        raise ModelFolderError(
            f"The memory votes for {memory.num_labels:,} labels, the index has {index.catalogue.num_rows:,}",
            hint="build it again (hf-xmc calibrate)",
        )


def tie_channel(channel: FusedChannel, index: LabelIndex, encoder: str) -> None:
    """Refuse a channel that was made for other labels or, if it holds embeddings, by another encoder; one that does
    not know, as it was just made or saved by version 0.1, is told.

    Raises:
        ModelFolderError: the channel belongs to another tagger.
    """
    if not hasattr(channel, "made_for"):
        return  # of another package
    made_for = channel.made_for
    rows = index.catalogue.num_rows if made_for is None else made_for["num_labels"]
    now = {"encoder_fingerprint": encoder, "catalogue": ranking.catalogue_fingerprint(index, rows), "num_labels": rows}
    if made_for is None:
        channel.made_for = now
        return
    hint = "copy the folder again, or fit the channel again with hf-xmc calibrate"
    if made_for["catalogue"] != now["catalogue"]:
        raise ModelFolderError(
            f"The channel {channel.name} was made for other labels than those of the index", hint=hint
        )
    if isinstance(channel, QueryMemory) and not same_encoder(made_for["encoder_fingerprint"], encoder):
        raise ModelFolderError("The memory was made by another encoder than that of the model", hint=hint)


def load_tagger(
    cls: type[XMCPipeline], folder: Path, trust_index: bool, engine: str | None, **options: Any
) -> XMCPipeline:
    """A tagger of the parts that `load_parts` reads; with `trust_index=False` its index is built here."""
    if trust_index or engine is not None:
        return cls(**load_parts(folder, engine=engine, **options))
    from hf_xmc.inference.untrusted import untrusted_index

    found = load_parts(folder, without=("index",), **options)
    return cls(**found, index=untrusted_index(folder, found["model"]))
