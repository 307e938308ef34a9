"""`fit_tagger`: from a file of texts and labels to a calibrated tagger with a report."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from shlex import quote
from typing import Any

from transformers.utils import logging

from hf_xmc.data.arrow import file_key
from hf_xmc.data.dataset import XMCDataset, load_xmc_dataset, local_path
from hf_xmc.data.formats.source import Options
from hf_xmc.data.labelled import check_labelled
from hf_xmc.data.transaction import locked, transaction
from hf_xmc.errors import DataError, ModelFolderError
from hf_xmc.fit import stages
from hf_xmc.fit.journal import Journal
from hf_xmc.fit.machine import Machine, seconds_a_token, this_machine
from hf_xmc.fit.measure import BASELINES, KS, TAGGER, folder_bytes, measure, metrics_of
from hf_xmc.fit.plan import Plan, make_plan, measure_speed
from hf_xmc.fit.report import FIGURES, Report, labels_in_words, main_split
from hf_xmc.fit.settings import FitSettings, settings_from
from hf_xmc.fit.sources import DATA, WORK, read_source
from hf_xmc.fit.survey import Survey, survey
from hf_xmc.fit.watcher import Silent, Watcher
from hf_xmc.hub.folder import CONFIG, files_to_push, pipeline_parts, save_parts
from hf_xmc.hub.run import read_json
from hf_xmc.inference.evaluation.evaluate import metrics_document
from hf_xmc.inference.fitting.confidence import FEWEST, Fit
from hf_xmc.inference.fitting.passages import passages_in_words
from hf_xmc.inference.fitting.tagger import knowledge_for
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.packaged import NAME, default_encoder
from hf_xmc.retrieval.pooling_learning import PoolingFit

HUB_NAME = re.compile(r"[^\w.-]+")  # characters that the name of a repository may not have
CHARACTERS_SAMPLE = 50  # texts that say how many characters a token has
TOKENS_SAMPLE = 1000  # texts whose token counts the plan looks at


@dataclass(frozen=True)
class Fitted:
    """What `fit_tagger` made.

    Args:
        tagger: the tagger, ready for use.
        folder: where it is.
        figures: the content of `fit.json`: what was measured, planned and chosen.
    """

    tagger: XMCPipeline
    folder: Path
    figures: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the tagger, as fractions: on test if there is a test split, else on validation."""
        return metrics_of(self.figures, main_split(self.figures), TAGGER)


def fit_tagger(
    source: str | Path,
    output_dir: str | Path,
    preset: str = "default",
    minutes: float | None = None,
    memory: str | int | None = None,
    encoder: str | None = None,
    test: str | Path | float | None = None,
    seed: int | None = None,
    from_tagger: str | Path | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    options: Options | None = None,
    watcher: Watcher | None = None,
    enrich: str | Path | None = None,
    **settings: Any,
) -> Fitted:
    """Make the best tagger that the budget allows, and write its folder: model, labels, index, channels, confidence,
    card and report.

    This is what `hf-xmc fit` runs. The same call goes on from where it was if it was killed.

    Args:
        source: anything that `hf-xmc prepare` reads: a table with texts and labels, a folder, an archive, `"sample"`.
        output_dir: the folder to write.
        preset: `"fast"` (no transformer), `"default"` or `"best"`.
        minutes: time that the run may take; by default 10, 30 and 120 for the presets.
        memory: what the run may use, as `"8GB"`; by default what is free.
        encoder: Hub id or folder of the encoder; by default all-MiniLM-L6-v2.
        test: a file of texts with labels in the form of the source, or the share of the texts to test on. By default
            the test split of the source, if it has one.
        seed: of all random choices.
        from_tagger: an earlier tagger to go on from: its labels are kept, new ones are added, and training starts from
            its weights.
        config: a YAML file or mapping with fields of [`FitSettings`].
        options: how to read the source, where it does not say so itself.
        watcher: is told what happens.
        enrich: a table of strings and texts ([`Knowledge.read`]): the texts of the strings that stand in a text are
            read behind it. An earlier tagger keeps its own.
        **settings: fields of [`FitSettings`] by name.

    Raises:
        SettingsError: a setting that is not possible, or too little memory for any preset.
        DataError: the source cannot be read.
        ModelFolderError: the folder holds something else.

    Example:

        fitted = fit_tagger("sample", "outputs/tagger", preset="fast")
        fitted.tagger("Aligns short reads to a reference genome")
    """
    chosen = settings_from(preset, config, minutes=minutes, memory=memory, encoder=encoder, seed=seed, **settings)
    run = Run(Path(output_dir), chosen, watcher or Silent(), enrich)
    return run(str(source), None if test is None else str(test), from_tagger, options)


class Run:
    """One run of `hf-xmc fit`.

    Args:
        folder: the output folder.
        settings: what was asked for.
        watcher: is told what happens.
        enrich: a table of strings and texts.
    """

    def __init__(
        self, folder: Path, settings: FitSettings, watcher: Watcher, enrich: str | Path | None = None
    ) -> None:
        self.folder, self.work = folder, folder / WORK
        self.settings, self.watcher = settings, watcher
        self.enrich, self.knowledge = enrich, knowledge_for(enrich, None)
        self.journal: Journal

    def __call__(self, source: str, test: str | None, earlier: str | Path | None, options: Options | None) -> Fitted:
        """Run all stages that are not done yet."""
        with quiet():
            return self.run(source, test, earlier, options)

    def run(self, source: str, test: str | None, earlier: str | Path | None, options: Options | None) -> Fitted:
        """`__call__`, while libraries may print."""
        check_folder(self.folder)
        self.knowledge = self.knowledge or knowledge_for(None, earlier)
        known = {} if self.knowledge is None else {"enrich": self.knowledge.fingerprint()}
        with locked(self.folder):
            self.journal = Journal.open(self.work, request(source, self.settings, test, earlier, options) | known)
            data = self.read(source, test, earlier, options)
            if "measure" in self.journal.done:
                self.watcher.note("This run is complete; nothing is left to do.")
                return Fitted(XMCPipeline.from_pretrained(self.folder), self.folder, read_json(self.folder / FIGURES))
            found, machine = survey(data), this_machine(self.settings.memory)
            plan = self.plan(data, found, machine, earlier)
            self.watcher.planned(found, machine, plan)
            trained = self.train(plan, data, earlier)
            if texts := label_texts_json(trained.pooling):
                self.watcher.note(labels_in_words(texts))
            trained = self.with_passages(trained, plan, data)
            with self.stage("combine"):
                fitted = stages.combine(trained, plan, data)
            if tried := fitted.summary.get("passages"):
                self.watcher.note(passages_in_words(tried))
            with self.stage("measure"):
                figures = self.finish(fitted, trained, plan, data, found, machine)
            return Fitted(fitted.pipeline, self.folder, figures)

    def read(self, source: str, test: str | None, earlier: str | Path | None, options: Options | None) -> XMCDataset:
        """Read, check and split the data, or map what an earlier attempt wrote."""
        folder = self.work / DATA
        if "read" in self.journal.done:
            return load_xmc_dataset(folder)
        start = time.perf_counter()
        data, problems = read_source(source, folder, test, options, earlier)
        self.journal.spend("read", start)
        self.journal.finish("read")
        self.watcher.read(data, problems)
        if data.num_labels < 2:  # nobody wants what the rule for training allows
            hint = "a tagger chooses among labels; are they in another column?"
            raise DataError("there is only one label, which every text gets", source, hint=hint)
        hint = f"see hf-xmc prepare {source} --check"
        check_labelled(data.positives("train"), data.num_labels, "training query", hint)
        return data

    @property
    def encoder(self) -> str | None:
        """Folder or Hub id of the encoder of a new model; None where there is none."""
        return None if self.settings.preset == "fast" else self.settings.encoder or default_encoder()

    def plan(self, data: XMCDataset, found: Survey, machine: Machine, earlier: str | Path | None) -> Plan:
        """The plan of an earlier attempt, or a new one."""
        if self.journal.plan is not None:
            return Plan.from_json(self.journal.plan)
        start = time.perf_counter()
        token, lengths, hidden = 0.0, [], 0
        if earlier is not None or self.encoder is not None:
            model: Any = stages.untrained(self.encoder, earlier)
            model.to(machine.device)
            hidden = model.width("query", "pooled")
            if hidden:
                rows = range(min(TOKENS_SAMPLE, len(data.queries["train"])))
                texts = data.queries["train"].select(rows)["text"][:]
                lengths = token_lengths(model, texts)
                token = seconds_a_token(model, texts)
        speed = measure_speed(token, self.settings.static_dim)
        self.journal.spend("plan", start)
        spent = sum(self.journal.seconds.values())
        plan = make_plan(self.settings, found, machine, speed, lengths, hidden, spent)
        self.journal.plan = plan.to_json()
        self.journal.save()
        return plan

    def train(self, plan: Plan, data: XMCDataset, earlier: str | Path | None) -> stages.Trained:
        """Encode all texts and train, or load what an earlier attempt trained."""
        encoder = self.encoder if plan.hidden else None
        if plan.settings.fine_tune_epochs and encoder is not None:
            if "fine_tune" not in self.journal.done:
                with self.stage("fine_tune"):
                    stages.fine_tune(plan, data, encoder, self.work, self.watcher.advance, self.knowledge)
            encoder = str(self.work / "encoder")
        if plan.hidden and "encode" not in self.journal.done:
            model = stages.first_model(plan, encoder, earlier, plan.weights[0], self.knowledge)
            trainer = stages.trainer_for(model, plan, data, self.work, stages.ShareDone(self.watcher.advance))
            with self.stage("encode"):
                stages.encode(trainer, data, self.watcher.advance)
        if "train" not in self.journal.done:
            with self.stage("train"):
                self.try_weights(plan, data, encoder, earlier)
        model = XMCDualEncoderModel.from_pretrained(self.work / "model", dtype="float32")
        model.knowledge = self.knowledge
        trainer = stages.trainer_for(model, plan, data, self.work, stages.ShareDone(self.watcher.advance))
        name = (self.settings.encoder or NAME) if plan.hidden else ""
        seconds = self.journal.seconds.get("encode", 0.0) + self.journal.seconds.get("train", 0.0)
        return stages.embed(trainer, data, stages.record(plan, data, trainer.args, name, seconds))

    def with_passages(self, trained: stages.Trained, plan: Plan, data: XMCDataset) -> stages.Trained:
        """The same with the passages of long texts, if they are to be tried: encoded once, and kept in the work
        folder."""
        if not plan.settings.passages or len(data.queries["validation"]) < FEWEST:
            return trained
        if "passages" in self.journal.done:
            return replace(trained, bags=stages.read_bags(self.work / "passages", data))
        with self.stage("passages"):
            bags = stages.encode_passages(trained.tagger, data, self.work / "passages", self.watcher.advance)
        return replace(trained, bags=bags)

    def try_weights(self, plan: Plan, data: XMCDataset, encoder: str | None, earlier: str | Path | None) -> None:
        """Train with each share of the static tower, and keep the model that is best on validation texts."""
        until = time.perf_counter() + self.seconds_left(plan, ("combine", "measure"))
        names = [f"weight-{weight:g}" for weight in plan.weights]
        for number, (weight, name) in enumerate(zip(plan.weights, names, strict=True)):
            if name in self.journal.scores:
                continue
            share_done = stages.ShareDone(
                lambda share, number=number: self.watcher.advance((number + share) / len(names))  # type: ignore[misc]
            )
            model = stages.first_model(plan, encoder, earlier, weight, self.knowledge)
            trainer = stages.trainer_for(model, plan, data, self.work / name, share_done)
            now = time.perf_counter()
            share_done.deadline = now + max(0.0, until - now) / (len(names) - number)
            stages.train(trainer, self.work / name)
            self.journal.scores[name] = trainer.state.best_metric or 0.0
            self.journal.save()
        best = max(names, key=lambda name: self.journal.scores[name])
        if (self.work / best / "model").is_dir():
            shutil.rmtree(self.work / "model", ignore_errors=True)
            (self.work / best / "model").rename(self.work / "model")
        for name in names:
            shutil.rmtree(self.work / name, ignore_errors=True)

    def seconds_left(self, plan: Plan, later: tuple[str, ...]) -> float:
        """Seconds of the budget that are left before the stages `later` have to begin."""
        reserved = sum(60 * stage.minutes for stage in plan.stages if stage.name in later)
        return max(0.0, 60 * plan.settings.budget - sum(self.journal.seconds.values()) - reserved)

    def finish(
        self,
        fitted: Fit,
        trained: stages.Trained,
        plan: Plan,
        data: XMCDataset,
        found: Survey,
        machine: Machine,
    ) -> dict[str, Any]:
        """Measure, and write the folder: the parts of the tagger, `fit.json` and `fit.html`."""
        start = time.perf_counter()
        measured = measure(fitted, trained, data, plan.settings.seed)
        split = main_split(measured)
        baselines = {name: metrics_of(measured, split, name) for name in BASELINES}
        seconds = round(fitted.pipeline.run["train_seconds"], 1)
        found_here = metrics_of(measured, split, TAGGER)
        document = metrics_document(found_here, data, split, max(KS), baselines, plan.settings.seed, seconds)
        document["num_queries"] = measured["queries"][split]
        parts = {**pipeline_parts(fitted.pipeline), "metrics": document}
        seconds_of = {**self.journal.seconds, "measure": time.perf_counter() - start}
        with transaction(self.folder) as staging:
            save_parts(self.folder, parts)
            figures = {
                "data": {"name": data.name, "facts": found.facts()},
                "facts": {"Machine": machine.describe(), "Preset": plan.settings.preset},
                "settings": asdict(plan.settings),
                "stages": [{**asdict(s), "seconds": round(seconds_of.get(s.name, 0.0), 1)} for s in plan.stages],
                "channels": fitted.summary["channels"],
                "passages": fitted.summary.get("passages"),
                "label_texts": label_texts_json(trained.pooling),
                "confidence": confidence_in_words(fitted),
                "bytes": folder_bytes(staging, files_to_push(staging)),
                **measured,
            }
            figures["next"] = next_commands(self.folder, data)
            save_parts(self.folder, {"report": Report(figures)})
        for name in ("checkpoints", "model", "encoder", "passages"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        return figures

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage of the plan: it is timed, shown, and written down when it is complete."""
        self.watcher.begin(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.journal.spend(name, start)
            self.journal.save()
        self.journal.finish(name)
        self.watcher.end(name, self.journal.seconds[name])


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notices and bars of transformers: the watcher is told what matters."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds a tagger that `fit` did not make.

    Raises:
        ModelFolderError: it does.
    """
    if (folder / CONFIG).exists() and not (folder / WORK).is_dir():
        raise ModelFolderError("holds a model that hf-xmc fit did not make", folder, hint="give another --output_dir")


def request(
    source: str, settings: FitSettings, test: str | None, earlier: str | Path | None, options: Options | None
) -> dict[str, Any]:
    """What a run was asked for, so that a repeated command goes on with it, and another one does not."""

    def content(name: str | Path | None) -> str | None:
        path = None if name is None else local_path(str(name))
        return (
            None if name is None else str(name) if path is None else blake2b(file_key(path).encode()).hexdigest()[:16]
        )

    return {
        "data": content(source),
        "settings": json.loads(json.dumps(asdict(settings))),
        "test": content(test) if test is not None and Path(test).exists() else test,
        "from": None if earlier is None else str(earlier),
        "options": None if options is None else asdict(options),
    }


def token_lengths(model: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, also of those that are longer than the model reads: these by their characters."""
    lengths = [len(ids) for ids in model.tokenize(texts, "query")]
    most = model.config.max_query_length
    some = [text[:most] for text in texts[:CHARACTERS_SAMPLE]]  # a token has a character or more
    tokens = sum(len(ids) for ids in model.tokenize(some, "query"))
    each = tokens / max(sum(map(len, some)), 1)
    return [
        max(found, round(each * len(text))) if found >= most else found
        for found, text in zip(lengths, texts, strict=True)
    ]


def label_texts_json(fitted: PoolingFit | None) -> dict[str, Any] | None:
    """What was tried of the further texts of labels; None if there are none."""
    if fitted is None or not fitted.tried:
        return None
    return {"kept": fitted.gain >= stages.LEAST_GAIN, "gain": fitted.gain, "tried": fitted.tried}


def confidence_in_words(fitted: Fit) -> str:
    """What the probabilities are worth, in a sentence."""
    if not fitted.summary["calibrated_on"]:
        return (
            f"There are too few texts to calibrate, so labels have scores and no probabilities. {10 * FEWEST:,} texts "
            "with labels are enough."
        )
    errors = fitted.summary["calibration"]
    before, after = errors["ECE@5 before"], errors["ECE@5 after"]
    return (
        f"Probabilities were calibrated on {fitted.summary['calibrated_on']:,} texts: on average they are "
        f"{after:.1%} away from the share of right labels ({before:.1%} for the raw scores)."
    )


def next_commands(folder: Path, data: XMCDataset) -> list[str]:
    """Three commands to go on with, as a shell reads them."""
    split = "test" if "test" in data.queries else "validation"
    example = data.queries[split][0]["text"].split("\n")[0][:60]
    return [
        f"hf-xmc predict {quote(str(folder))} --text {quote(example)}",
        f"hf-xmc evaluate {quote(str(folder))} --dataset {quote(str(folder / WORK / DATA))} --split {split}",
        f"hf-xmc push {quote(str(folder))} {quote('my-name/' + HUB_NAME.sub('-', folder.resolve().name))}",
    ]
