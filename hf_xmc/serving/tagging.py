"""Tagging, explaining and reading the catalogue, for many threads at a time: the half of the service that changes
nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from hf_xmc.inference.explain.passages import add_passages
from hf_xmc.inference.explain.texts import add_matched
from hf_xmc.inference.graph_encoder import GraphEncoder
from hf_xmc.inference.options import SelectionOptions
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.inference.selection import check_threshold
from hf_xmc.serving.answers import (
    Explained,
    LabelList,
    MatchedText,
    NearText,
    Reason,
    SpokenPassage,
    Tag,
    Tagged,
    Word,
)
from hf_xmc.serving.facts import count_tokens, max_tokens
from hf_xmc.serving.limits import Limits, RequestRefused
from hf_xmc.serving.locks import ReadWriteLock, Turn
from hf_xmc.serving.training_texts import TrainingTexts
from hf_xmc.serving.vocabulary import Label, Vocabulary

CERTAINTIES = ((0.8, "very_likely"), (0.5, "likely"), (0.2, "possible"), (0.0, "unlikely"))
MOST_WORDS = 150  # of a text that is explained word by word; longer ones are explained sentence by sentence
NEAREST = 3  # training texts that an explanation shows for each label


@dataclass(frozen=True)
class TagOptions:
    """What to return of the labels of a text; see `TaggingService.tag`."""

    k: int = 5
    threshold: float | str | None = None
    conformal: bool | float = False
    evidence: bool = False

    @property
    def selection(self) -> SelectionOptions:
        """The options of the pipeline."""
        return SelectionOptions(self.k, self.threshold, self.conformal)


class Encoded(NamedTuple):
    """Texts that the encoder has read: texts, embeddings `[N, D]`, and numbers of tokens."""

    texts: list[str]
    embeddings: Any
    tokens: list[int]

    def take(self, rows: Sequence[int]) -> Encoded:
        """Some of the texts."""
        places = list(rows)
        return Encoded([self.texts[i] for i in places], self.embeddings[places], [self.tokens[i] for i in places])


@dataclass(frozen=True)
class View:
    """A pipeline and its labels at one moment."""

    pipeline: XMCPipeline
    vocabulary: Vocabulary


class Tagging:
    """What a service answers without a change of the labels.

    Attributes:
        pipeline, vocabulary: the tagger and its labels as they are now.
        limits: what is accepted.
        training: its training texts, if they are known.
        label_counts: training texts of each label, int `[L]`; None if they are not known.
        lock: held while labels are read or changed.
        encoder: the turn of those who use the encoder.
    """

    pipeline: XMCPipeline
    vocabulary: Vocabulary
    limits: Limits
    training: TrainingTexts
    label_counts: np.ndarray | None
    lock: ReadWriteLock
    encoder: Turn

    def view(self) -> View:
        """The labels as they are now; to be called, and used, while the lock is held."""
        return View(self.pipeline, self.vocabulary)

    def tag(
        self,
        texts: Sequence[str],
        k: int = 5,
        threshold: float | str | None = None,
        conformal: bool | float = False,
        evidence: bool = False,
    ) -> list[Tagged]:
        """The best labels of each text, best first.

        Args:
            texts: at most `limits.texts`, each of at most `limits.text_characters`.
            k: labels per text, at most.
            threshold: leave out labels below this probability (without calibration, this score); or `"f1"`,
                `"precision=0.9"`, ... as `hf-xmc calibrate` fitted them.
            conformal: the set of labels that has the coverage that was fitted (True), or another one such as 0.9, in
                place of the best k.
            evidence: say of each tag which channels found it, which passages of a long text speak for it, and which of
                its texts matches best. Nothing is encoded for that.

        Raises:
            RequestRefused: a text, a number or an option outside the limits.
        """
        options = TagOptions(k, threshold, conformal, evidence)
        self.check(texts, options)
        return self.rank(self.encode(texts), options)

    def check(self, texts: Sequence[str], options: TagOptions) -> None:
        """Refuse a request before any work is done.

        Raises:
            RequestRefused: see `tag`.
            SettingsError: a threshold that is none.
        """
        self.limits.check_texts(texts)
        self.limits.check_k(options.k)
        check_threshold(options.threshold)
        if options.conformal is not False and options.threshold is not None:
            raise RequestRefused(
                "threshold_and_set",
                "Both a threshold and a guaranteed set were requested",
                "choose one of them: a threshold would break the guarantee of the set",
            )
        if not isinstance(options.conformal, bool) and not 0 < options.conformal < 1:
            found = f"conformal is {options.conformal}, the coverage of the set"
            raise RequestRefused("coverage_out_of_range", found, "give a number between 0 and 1, such as 0.9")
        fitted = options.conformal is not False or isinstance(options.threshold, str)
        if fitted and not self.calibrated:
            raise RequestRefused(
                "not_calibrated",
                "The tagger is not calibrated, so there are no guaranteed sets and no fitted thresholds",
                "run hf-xmc calibrate on its folder, or give a number as the threshold",
            )

    @property
    def calibrated(self) -> bool:
        """Whether tags have probabilities."""
        return self.pipeline.confidence_for() is not None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Let the encoder read texts, which were checked. One caller at a time.

        Raises:
            RequestRefused: others kept the encoder busy for too long.
        """
        rows = list(texts)
        with self.encoder:
            tokens = count_tokens(self.pipeline.model, rows)
            return Encoded(rows, self.pipeline.encode(rows), tokens)

    def rank(self, encoded: Encoded, options: TagOptions) -> list[Tagged]:
        """The labels of texts that the encoder has read."""
        with self.lock.reading():
            view = self.view()
            texts, embeddings, tokens = encoded
            tagged = view.pipeline.tag(texts, embeddings, selection=options.selection)
            said: Any = None
            if options.evidence:
                ids = [[tag["id"] for tag in tags] for tags in tagged]
                said = view.pipeline.channel_evidence(texts, embeddings, ids)
                add_passages(view.pipeline.index, texts, embeddings, tagged)
                add_matched(view.pipeline.index, embeddings, tagged)
            most = max_tokens(view.pipeline.model)
            return [
                Tagged(
                    tags=described(view.vocabulary, tags, None if said is None else said[row]),
                    tokens=count,
                    max_tokens=most,
                    truncated=most is not None and count > most and view.pipeline.passages is None,
                )
                for row, (tags, count) in enumerate(zip(tagged, tokens, strict=True))
            ]

    def explain(self, text: str, k: int = 3, labels: Sequence[str] | None = None) -> Explained:
        """The best labels of a text, or the given ones, with the words, channels and training texts that speak for
        each. The encoder reads the text once for each of its words, so that a long text is explained sentence by
        sentence: the best passage for each label if the tagger cuts texts into passages, else the beginning.

        Args:
            k: labels, at most.
            labels: uids of labels to explain in place of the best ones.

        Raises:
            RequestRefused: a text or number outside the limits, an unknown label, or a tagger that runs as a graph.
        """
        from hf_xmc.inference.explain.attribution import units  # slow to import
        from hf_xmc.inference.explain.explanations import explain_text

        self.limits.check_text(text)
        self.limits.check_k(len(labels) if labels else k, self.limits.explained_labels)
        if isinstance(self.pipeline.model, GraphEncoder):
            found = "The tagger runs as an exported graph, which cannot be explained"
            raise RequestRefused("cannot_explain", found, "serve it without --backend", 501)
        part = text if self.pipeline.passages is not None else text[: self.limits.explained_characters]
        unit = "word" if len(units(part[: self.limits.explained_characters])) <= MOST_WORDS else "sentence"
        with self.encoder, self.lock.reading():
            view = self.view()
            pipeline = view.pipeline
            ids = [self.row_of(view, uid) for uid in labels or ()]
            wanted: dict[str, Any] = {"allowed": ids, "k": len(ids)} if labels else {"k": k}
            given = pipeline.encode([part])
            [tags] = pipeline.tag([part], given, **wanted)
            add_passages(pipeline.index, [part], given, [tags])
            add_matched(pipeline.index, given, [tags])
            memory = pipeline.memory
            train = None if memory is None else self.training.matching(len(memory))
            ids = [tag["id"] for tag in tags]
            found_by = explain_text(
                pipeline,
                part,
                label_ids=ids,
                unit=unit,
                num_neighbours=NEAREST,
                train_queries=train,
                embeddings=given,
            )
            shown = described(view.vocabulary, tags, [one.channels for one in found_by])
            reasons = [
                Reason(
                    tag=tag,
                    words=tuple(Word(w.text, w.start, w.end, w.attribution) for w in one.words),
                    label_words=tuple(Word(w.text, w.start, w.end, w.attribution) for w in one.label_words),
                    near=tuple(NearText(n.row, n.similarity, n.text) for n in one.neighbours),
                    label_texts=tuple(MatchedText(its.text, its.kind, its.score) for its in one.label_texts),
                )
                for tag, one in zip(shown, found_by, strict=True)
            ]
        return Explained(part, len(part) < len(text), unit, tuple(reasons))

    def search_labels(self, words: str = "", limit: int = 20, offset: int = 0) -> LabelList:
        """Labels that have all the words in their name, other names or uid; all labels if there are no words.

        Raises:
            RequestRefused: words that are too long, or an impossible page of the list.
        """
        self.limits.check_words("search", words, self.limits.name_characters)
        self.limits.check_page(limit, offset)
        with self.lock.reading():
            total, found = self.view().vocabulary.search(words, limit, offset)
            return LabelList(total, tuple(self.counted(found)))

    def describe_label(self, uid: str) -> Label:
        """Everything that is known of a label.

        Raises:
            RequestRefused: `"unknown_label"`.
        """
        with self.lock.reading():
            view = self.view()
            return self.counted([view.vocabulary.label(self.row_of(view, uid))])[0]

    def roots(self, limit: int = 100, offset: int = 0) -> LabelList:
        """Labels without a broader label; all labels if there is no hierarchy."""
        self.limits.check_page(limit, offset)
        with self.lock.reading():
            vocabulary = self.view().vocabulary
            rows = vocabulary.top
            return LabelList(len(rows), tuple(self.counted(vocabulary.labels(rows[offset : offset + limit]))))

    def children(self, uid: str, limit: int = 100, offset: int = 0) -> LabelList:
        """The narrower labels of a label.

        Raises:
            RequestRefused: `"unknown_label"`.
        """
        self.limits.check_page(limit, offset)
        with self.lock.reading():
            view = self.view()
            self.row_of(view, uid)
            rows = view.vocabulary.below(uid)
            return LabelList(len(rows), tuple(self.counted(view.vocabulary.labels(rows[offset : offset + limit]))))

    # What the methods above share

    @staticmethod
    def row_of(view: View, uid: str) -> int:
        """The row of a label.

        Raises:
            RequestRefused: `"unknown_label"`.
        """
        row = view.vocabulary.row(uid)
        if row is None:
            raise RequestRefused("unknown_label", f"There is no label {uid!r:.80}", "search for it", 404, uid=uid[:80])
        return row

    def counted(self, labels: Sequence[Label]) -> list[Label]:
        """Labels with their numbers of training texts."""
        counts = self.label_counts
        if counts is None:
            return list(labels)
        known = len(counts)
        return [replace(one, num_examples=int(counts[one.id]) if one.id < known else 0) for one in labels]


def described(
    vocabulary: Vocabulary, tags: Sequence[Mapping[str, Any]], said: Sequence[Mapping[str, Any]] | None = None
) -> tuple[Tag, ...]:
    """The tags of a pipeline with name, definition, broader labels and certainty.

    Args:
        said: of each tag what each channel says (`XMCPipeline.channel_evidence`).
    """
    labels = vocabulary.cards([tag["id"] for tag in tags])
    evidence = [tag.get("channels") for tag in tags]
    if said is not None:
        evidence = [{name: its.to_dict() for name, its in one.items()} for one in said]
    return tuple(
        Tag(
            uid=label.uid,
            label=label.name,
            definition=label.definition,
            uri=label.uri,
            id=label.id,
            score=tag["score"],
            probability=tag.get("probability"),
            certainty=None if "probability" not in tag else certainty(tag["probability"]),
            parents=label.parents,
            channels=channels,
            notation=label.notation,
            passages=tuple(SpokenPassage(**one) for one in tag.get("passages", ())),
            matched=MatchedText(**tag["matched"]) if "matched" in tag else None,
        )
        for tag, label, channels in zip(tags, labels, evidence, strict=True)
    )


def certainty(probability: float) -> str:
    """A word for a probability, as a key.

    >>> certainty(0.93), certainty(0.1)
    ('very_likely', 'unlikely')
    """
    return next(word for least, word in CERTAINTIES if probability >= least or not least)
