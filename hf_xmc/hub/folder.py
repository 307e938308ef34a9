"""The trained folder: which parts it has, how they depend on each other, and everything that is done with them.

`parts()` is the table. All commands and fits write through `save_parts`, which removes what a change makes untrue and
rewrites the card; `load_parts` reads a folder, and `files_to_push` lists what belongs to it. A new part needs one
entry in the table and its own `save_pretrained` and `from_pretrained`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hf_xmc.retrieval.late_interaction  # noqa: F401  # makes its kind of rerankers known
from hf_xmc import modeling
from hf_xmc.data.checksums import MANIFEST, check_manifest, checksums, read_manifest, write_manifest
from hf_xmc.data.damage import first_damage
from hf_xmc.data.documents import read_document
from hf_xmc.data.files import file_fingerprint, replacing
from hf_xmc.data.transaction import read_whole, transaction, unshare
from hf_xmc.errors import ModelFolderError
from hf_xmc.hub.plain_encoder import is_plain_encoder, load_plain_encoder
from hf_xmc.hub.run import CARD, METRICS, RUN, read_json, write_json
from hf_xmc.hub.sentence_layout import LAYOUT, custom_code, layout_files, write_sentence_layout
from hf_xmc.modeling.settings_xmc import EMBEDDING_SETTINGS, LABEL_HEAD, STATIC_SETTINGS
from hf_xmc.retrieval.channels import CHANNELS
from hf_xmc.retrieval.confidence import CONFIDENCE_FILES, Confidence
from hf_xmc.retrieval.engines.index import EngineIndex
from hf_xmc.retrieval.folder import check_before_writing, check_weights, loading_weights, no_such_folder
from hf_xmc.retrieval.index import ABOUT, INDEX, LABELS, VECTORS, LabelIndex
from hf_xmc.retrieval.knowledge import KNOWLEDGE, Knowledge
from hf_xmc.retrieval.learned_fusion import COUNTS, FUSION, LearnedFusion
from hf_xmc.retrieval.passages import PASSAGES, Passages
from hf_xmc.retrieval.rerank import RERANKER, load_reranker, save_reranker

if TYPE_CHECKING:
    from hf_xmc.modeling import XMCDualEncoderModel

CONFIG, WEIGHTS, WEIGHT_MAP = "config.json", "model.safetensors", "model.safetensors.index.json"
MODEL = (CONFIG, WEIGHTS, WEIGHT_MAP, "model-*-of-*.safetensors")
TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "*.spm", "*.bpe.model", "spiece.model")
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "*.jinja")
PICKLED = "training_args.bin"  # written by the Trainer; run.json holds the same settings as text

TRAIN = "run hf-xmc train with --output_dir {folder}"
BUILD_INDEX = "run hf-xmc index {folder} --dataset NAME"
FIT = "run hf-xmc fit with --output_dir {folder}"
CALIBRATE = "run hf-xmc calibrate {folder} --dataset NAME"
# The encoder as a graph, with what it needs to run without torch.
GRAPHS = {
    "onnx": ("onnx/*.onnx", "onnx/*.onnx.data", "onnx/requirements.txt", "onnx/words.safetensors"),
    "openvino": ("openvino/*.xml", "openvino/*.bin", "openvino/words.safetensors"),
}
UNCHECKED = ("run", "metrics", "card", "manifest")
SEARCH = ("model", "knowledge", "label_head", "labels", "index")  # the parts that rank, channels aside


@dataclass(frozen=True)
class Part:
    """One part of a trained folder.

    Args:
        name: its key in `save_parts` and `load_parts`.
        files: the files that belong to it, as patterns relative to the folder.
        made_by: how a user makes it, with `{folder}` for the folder.
        depends_on: parts that it was made from or fitted to. If one of these changes, it is no longer true.
        needed: files without which the folder is not complete.
        writes: other parts that its `save` writes as well.
        survives_edits: it stays true if single labels are added, changed or removed.
        save: writes a value into the folder.
        load: reads the value from a folder that has the part.
    """

    name: str
    files: tuple[str, ...]
    made_by: str
    depends_on: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    survives_edits: bool = False
    save: Callable[[Any, Path], Any] | None = None
    load: Callable[[Path], Any] | None = None

    def files_in(self, folder: Path) -> list[str]:
        """Its files that are in the folder, relative to it."""
        found = {path for pattern in self.files for path in folder.glob(pattern) if path.is_file()}
        return sorted(path.relative_to(folder).as_posix() for path in found)

    def is_in(self, folder: Path) -> bool:
        """Whether the folder has it: the first of its files is there."""
        return any(folder.glob(self.files[0]))

    def owns(self, name: str) -> bool:
        """Whether a file, relative to its folder, is one of this part's."""
        return any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in self.files)

    def remove(self, folder: Path) -> list[str]:
        """Delete its files, and the directory that holds them alone; returns their names."""
        gone = self.files_in(folder)
        for name in gone:
            (folder / name).unlink()
        for directory in {pattern.split("/")[0] for pattern in self.files if "/" in pattern}:
            shutil.rmtree(folder / directory, ignore_errors=True)
        return gone

    def digest(self, folder: Path, sums: Mapping[str, str] | None = None, absent: bool = False) -> str:
        """A hash of its files. Of `config.json` only the settings that embeddings depend on: transformers rewrites
        others, such as its own version.

        Args:
            sums: checksums that are known, file -> SHA-256.
            absent: `sums` also has files that are not here, as of a repository of which some were not downloaded.
        """
        known = sums or {}
        found = [
            repr([read_json(folder / CONFIG).get(key) for key in (*EMBEDDING_SETTINGS, *STATIC_SETTINGS)])
            if name == CONFIG
            else f"{name} {known.get(name) or file_fingerprint(folder / name)}"
            for name in sorted({*self.files_in(folder), *(filter(self.owns, known) if absent else ())})
        ]
        return sha256("\n".join(found).encode()).hexdigest()


def parts() -> tuple[Part, ...]:
    """The table of parts, each after those that it depends on.

    >>> [part.name for part in parts() if part.needed]
    ['model', 'labels', 'index']
    """
    save: Callable[[Any, Path], Any] = lambda value, folder: value.save_pretrained(folder)  # noqa: E731
    channels = [
        Part(cls.name, cls.files, CALIBRATE, SEARCH, survives_edits=True, save=save, load=cls.from_pretrained)
        for cls in CHANNELS
    ]
    ranking = (*SEARCH, "passages", *(channel.name for channel in channels), "fusion")
    return (
        Part("model", MODEL, TRAIN, (), (CONFIG,), ("tokenizer", "label_head"), save=save_model, load=load_model),
        Part("sentence_transformers", LAYOUT, TRAIN),
        Part("tokenizer", (*TOKENIZER, *TOKENIZER_EXTRAS), "load one with AutoTokenizer and save it into {folder}"),
        Part("label_head", (LABEL_HEAD,), TRAIN, ("model",), save=lambda head, folder: head.save(folder)),
        Part("knowledge", (KNOWLEDGE,), TRAIN, save=save, load=Knowledge.from_pretrained),
        Part("passages", (PASSAGES,), CALIBRATE, save=save, load=Passages.from_pretrained),
        Part("labels", (LABELS,), BUILD_INDEX, needed=(LABELS,)),
        Part(
            "index",
            ("index/*.faiss", "index/*.json"),
            BUILD_INDEX,
            ("model", "label_head", "labels"),
            needed=(INDEX, ABOUT),
            writes=("labels",),
            save=save,
            load=LabelIndex.from_pretrained,
        ),
        Part(
            "vectors", (VECTORS,), "run hf-xmc export {folder} --to vectors --output {folder}/" + VECTORS, ("index",)
        ),
        *channels,
        Part(
            "fusion",
            (FUSION, COUNTS),
            CALIBRATE,
            ranking[:-1],
            survives_edits=True,
            save=save,
            load=LearnedFusion.from_pretrained,
        ),
        Part(
            "confidence",
            CONFIDENCE_FILES,
            CALIBRATE,
            ranking,
            survives_edits=True,
            save=save,
            load=Confidence.from_pretrained,
        ),
        Part(
            "reranker",
            tuple(f"{RERANKER}/{name}" for name in ("*.json", "*.safetensors", *TOKENIZER, *TOKENIZER_EXTRAS)),
            "run hf-xmc rerank {folder} --dataset NAME",
            ("model",),
            save=save_reranker,
            load=load_reranker,
        ),
        *(
            Part(name, (f"{name}/{name}.json", *files), f"run hf-xmc export {{folder}} --to {name}", ("model",))
            for name, files in GRAPHS.items()
        ),
        Part("map", ("map/positions.safetensors",), "run hf-xmc map {folder}", SEARCH, save=save),
        Part("run", (RUN,), TRAIN, save=lambda record, folder: write_json(record, folder / RUN)),
        Part(
            "metrics",
            (METRICS,),
            "run hf-xmc evaluate {folder} --dataset NAME --output_dir {folder}",
            ranking,
            save=lambda document, folder: write_json(document, folder / METRICS),
        ),
        Part("report", ("fit.json", "fit.html"), FIT, ranking, save=save),
        Part("card", (CARD,), 'call hf_xmc.hub.write_model_card("{folder}")'),
        Part("manifest", (MANIFEST,), 'call hf_xmc.hub.refresh("{folder}")'),
    )


def save_parts(
    folder: str | os.PathLike[str], given: Mapping[str, Any], edited: Collection[str] = (), card: bool = True
) -> list[str]:
    """Write parts into a trained folder, remove what they make untrue, and rewrite the card: all of it, or nothing if
    that fails or is killed.

    A part counts as changed if its files did, so saving a folder again as it was keeps its metrics.

    Args:
        given: name -> the part; None removes the part. Parts that are not named stay, if they are still true.
        edited: parts in which at most single labels were added, changed or removed.
        card: whether to write `README.md`.

    Returns:
        The files that were removed, relative to the folder.

    Raises:
        ModelFolderError: somebody else writes into the folder.
    """
    with transaction(folder) as staging:
        manifest = read_manifest(staging)
        gone, sums, made_from = change_parts(staging, given, edited, manifest.get("made_from") or {})
        write_rest(staging, sums, made_from, manifest)
        if card:
            from hf_xmc.hub.card import write_model_card  # slow to import

            write_model_card(staging, name=Path(folder).as_posix())  # last: it says what else loads the folder
    return gone


def change_parts(
    folder: Path, given: Mapping[str, Any], edited: Collection[str], made_from: Mapping[str, Mapping[str, str]]
) -> tuple[list[str], dict[str, str], dict[str, dict[str, str]]]:
    """Write parts into the staging folder of a transaction, and remove what they make untrue; see `save_parts`.

    Args:
        made_from: part -> part that it was made from -> the digest of that, before.

    Returns:
        The files that were removed, the checksums of those of all parts, and `made_from` as it is now.
    """
    table = {part.name: part for part in parts()}
    written = {*given, *(name for key, value in given.items() if value is not None for name in table[key].writes)}
    at_stake = [part for part in table.values() if part.name not in written and part.files_in(folder)]
    watched = written & {name for part in at_stake for name in part.depends_on}
    before = {name: table[name].digest(folder) for name in watched}
    gone: list[str] = []
    for part in table.values():
        if part.name not in given:
            continue
        if given[part.name] is None:
            gone += part.remove(folder)
        elif part.save is not None:
            make_room(folder, part.name)
            part.save(given[part.name], folder)
    sums = checksums(folder, part_files(folder))
    changed = {name for name in watched if table[name].digest(folder, sums) != before[name]}
    now = {name: dict(origins) for name, origins in made_from.items()}
    for part in at_stake:
        causes = changed & {*part.depends_on}
        if causes and not (part.survives_edits and causes <= {*edited}):
            gone += part.remove(folder)
            changed.add(part.name)
        elif causes and part.name in now:
            now[part.name] |= {name: table[name].digest(folder, sums) for name in causes}
    for part in table.values():
        if part.name in written and part.depends_on and part.name not in UNCHECKED:
            now[part.name] = {name: table[name].digest(folder, sums) for name in part.depends_on}
    (folder / PICKLED).unlink(missing_ok=True)
    return gone, {name: sums[name] for name in part_files(folder)}, now


def make_room(staging: Path, part: str) -> None:
    """Make sure that no file of a part in a staging folder is a link to that of the folder, since transformers opens
    files for writing: those that are written anew are deleted, and those that may be are copied."""
    table = {row.name: row for row in parts()}
    for name in (PICKLED, *table[part].files_in(staging)):
        (staging / name).unlink(missing_ok=True)
    unshare(staging, [name for other in table[part].writes for name in table[other].files_in(staging)])


def refresh(folder: str | os.PathLike[str]) -> None:
    """Write what follows from the parts of a trained folder: custom code, the files that sentence-transformers reads,
    and the manifest."""
    if Path(folder, CONFIG).is_file():
        with transaction(folder) as staging:
            manifest = read_manifest(staging)
            sums = checksums(staging, part_files(staging))
            write_rest(staging, sums, manifest.get("made_from") or {}, manifest)


def write_rest(
    folder: Path, sums: Mapping[str, str], made_from: Mapping[str, Mapping[str, str]], manifest: Mapping[str, Any]
) -> None:
    """`refresh`, in the staging folder of a transaction.

    Args:
        sums: checksums of the files of all parts.
        made_from: part -> part that it was made from -> the digest of that.
        manifest: as it was before.
    """
    if not (folder / CONFIG).is_file():
        return
    refresh_code(folder)
    has_weights = (folder / weight_files(folder)[0]).is_file()
    if has_weights and read_json(folder / CONFIG).get("model_type") == "xmc_dual_encoder":
        write_sentence_layout(folder)
    there = {part.name for part in parts() if part.files_in(folder)}
    origins = {name: origins for name, origins in made_from.items() if name in there}
    derived = {path.name for path in folder.glob("*_xmc.py")} | {*layout_files(folder)}
    write_manifest(folder, {**sums, **checksums(folder, derived)}, origins, manifest)


def part_files(folder: Path) -> list[str]:
    """The files of the parts of a trained folder whose checksums are kept: all but those that people edit."""
    kept = [part for part in parts() if part.name not in (*UNCHECKED, "sentence_transformers")]
    return [name for part in kept for name in part.files_in(folder)]


def refresh_code(folder: Path) -> None:
    """Write this version's custom code into a folder that has that of an earlier one, or lacks modules of it.

    A folder whose `auto_map` names other code, such as that of a Hub repository, is left alone.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    package = Path(modeling.__file__).parent
    config = read_json(folder / CONFIG)
    references = (config.get("auto_map") or {}).values()
    names = {f"{str(reference).split('.')[0]}.py" for reference in references} | {*custom_code(config)}
    if not names <= {path.name for path in package.glob("*_xmc.py")}:
        return
    entries = {package / name for name in names}
    modules = {*entries, *(Path(file) for entry in entries for file in get_relative_import_files(entry))}
    for module in sorted(modules):
        code, target = module.read_bytes(), folder / module.name
        if not target.is_file() or target.read_bytes() != code:
            with replacing(target) as temporary:
                temporary.write_bytes(code)


def pipeline_parts(pipeline: Any) -> dict[str, Any]:
    """What an `XMCPipeline` consists of, for `save_parts`: a part that it lacks is None, so that one of an earlier
    model is removed."""
    names = ("model", "index", "knowledge", "passages", "fusion", "confidence", "reranker")
    found = {name: getattr(pipeline, name) for name in names}
    found |= {**{cls.name: None for cls in CHANNELS}, **{channel.name: channel for channel in pipeline.channels}}
    return {**found, **({"run": pipeline.run} if pipeline.run else {})}


def load_parts(
    folder: str | os.PathLike[str],
    model: XMCDualEncoderModel | None = None,
    device: Any = None,
    memory_map: bool = False,
    without: Collection[str] = (),
    engine: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The parts of a trained folder that an `XMCPipeline` consists of, as its arguments.

    Args:
        model: the folder's model, if it is loaded already.
        device: where model and reranker compute.
        memory_map: keep the vectors of the index in its file until they change.
        without: names of parts that are left out.
        engine: address of a database that has the labels and their vectors, in the place of the folder's index.
        **options: `dtype`, `attn_implementation` and the like for the model.

    Raises:
        ModelFolderError: a folder that is not complete, or of which a file is not as it was saved.
    """
    folder = Path(folder)
    names = lambda: [name for part in parts() for name in part.files_in(folder)]  # noqa: E731
    return read_whole(folder, lambda: read_parts(folder, model, device, memory_map, without, engine, **options), names)


def read_parts(
    folder: Path,
    model: XMCDualEncoderModel | None,
    device: Any,
    memory_map: bool,
    without: Collection[str],
    engine: str | None,
    **options: Any,
) -> dict[str, Any]:
    """`load_parts`, of a folder that nobody changes."""
    replaced = {*GRAPHS, "sentence_transformers", "map", "run", *(("model",) if model is not None else ())}
    used = [part for part in parts() if part.name not in replaced]
    check_manifest(folder, {name for part in used for name in part.files_in(folder)})
    if is_plain_encoder(folder) and not (folder / INDEX).is_file() and engine is None:
        raise ModelFolderError(
            "a plain encoder, which has no labels to predict",
            folder,
            hint=f"make a tagger of it with hf-xmc index {folder} --dataset NAME --output_dir FOLDER",
        )
    check_origins(folder, {part.name for part in used})
    model = load_model(folder, verify=False, **options) if model is None else model
    model = model if device is None else model.to(device)
    found: dict[str, Any] = {"model": model, "run": read_json(folder / RUN), "channels": []}
    for part in parts():
        if part.load is None or part.name in ("model", *without) or not (part.needed or part.is_in(folder)):
            continue
        value: Any
        if part.name == RERANKER:
            value = load_reranker(folder, getattr(model, "device", None), model)
        elif part.name == "index" and engine is not None:
            value = EngineIndex.connect(engine)
        elif part.name == "index":
            value = LabelIndex.read(folder, memory_map)
        else:
            value = part.load(folder)
        if part.name in {cls.name for cls in CHANNELS}:
            found["channels"].append(value)
        else:
            found[part.name] = value
    return found


def check_origins(folder: Path, names: Set[str]) -> None:
    """Compare what parts of a folder were made from with what is there now, as far as the manifest says it.

    Args:
        names: the parts that will be read.

    Raises:
        ModelFolderError: a part that belongs to another model, label table or index than those of the folder.
    """
    about = read_manifest(folder)
    made_from, sums = about.get("made_from") or {}, about.get("files") or {}
    table = {part.name: part for part in parts()}
    origins = {name for name in names & {*made_from} for name in made_from[name]}
    if unknown := sorted(origins - {*table}):
        raise ModelFolderError(
            f"{MANIFEST} names a part {unknown[0]!r}, which is not known",
            folder,
            hint="download or copy the folder again; if a later version wrote it, upgrade hf_xmc",
        )
    digests = {name: table[name].digest(folder, sums, absent=True) for name in origins}
    for name in sorted(names & {*made_from}):
        other = [origin for origin, digest in made_from[name].items() if digests[origin] != digest]
        if other and table[name].files_in(folder):
            again = table[name].made_by.format(folder=folder)
            raise ModelFolderError(
                f"{name}: made from other files than those of this folder ({', '.join(other)}), by {MANIFEST}",
                folder,
                hint=f"download or copy the folder again, or make this part again: {again}",
            )


def save_model(model: XMCDualEncoderModel, folder: Path) -> None:
    """Write the model and its tokenizer, unless its weights are not finite."""
    check_before_writing(model.state_dict(), "the model")
    model.save_pretrained(folder)


def load_model(folder: Path, verify: bool = True, **options: Any) -> XMCDualEncoderModel:
    """The model of a trained folder.

    Args:
        verify: compare its files with their checksums; False where that was done.

    Raises:
        ModelFolderError: configuration or weights are missing or damaged.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ModelFolderError(
            f"not a trained folder, without {CONFIG}", folder, hint=f"{TRAIN.format(folder=folder)} to make one"
        )
    from hf_xmc.modeling import XMCDualEncoderModel

    if is_plain_encoder(folder):
        return load_plain_encoder(folder, **options)
    check_config(folder)
    with loading_weights(folder, "model"):
        model, info = XMCDualEncoderModel.from_pretrained(folder, verify=verify, output_loading_info=True, **options)
    check_weights(model, info, folder)
    if model.tokenizer is None and (damage := first_damage(folder.glob("tokenizer*.json")))[0]:
        raise ModelFolderError(damage[0], folder, hint=damage[1])
    return cast("XMCDualEncoderModel", model)


def check_config(folder: Path) -> None:
    """Check types and ranges of `config.json`.

    Raises:
        ModelFolderError: names the key, what was found and what was expected.
    """
    from hf_xmc.hub.schemas import ConfigDocument

    read_document(folder / CONFIG, ConfigDocument, hint="copy or download the folder again")


def files_to_push(folder: str | os.PathLike[str]) -> list[str]:
    """The files of a trained folder, relative to it, sorted; without checkpoints, logs or pickled files.

    Raises:
        ModelFolderError: files are missing, or the folder holds something else.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    folder = Path(folder)
    if not folder.is_dir():
        raise no_such_folder(folder, f"{TRAIN.format(folder=folder)} to make one")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if missing := missing_files(folder, present):
        hints = [TRAIN] if TRAIN in missing.values() else list(dict.fromkeys(missing.values()))  # training makes all
        raise ModelFolderError(
            f"not a complete trained folder, without {', '.join(missing)}",
            folder,
            hint=", then ".join(hints).format(folder=folder),
        )
    config = read_json(folder / CONFIG)
    if config.get("model_type") != "xmc_dual_encoder":
        raise ModelFolderError(
            f"config.json says model_type {config.get('model_type')!r}, expected 'xmc_dual_encoder'",
            folder,
            hint="give the folder that XMCDualEncoderModel.save_pretrained wrote",
        )
    # The modules that AutoModel(..., trust_remote_code=True) loads where hf_xmc is not installed.
    references = [str(reference).split("--")[-1] for reference in (config.get("auto_map") or {}).values()]
    code = ({f"{reference.split('.')[0]}.py" for reference in references} | {*custom_code(config)}) & present
    code |= {Path(file).name for name in code for file in get_relative_import_files(str(folder / name))}
    weights = weight_files(folder)
    other_weights = {name for name in present if fnmatch(name, "model*.safetensors") or name == WEIGHT_MAP}
    return sorted({name for name in present if belongs(name)} - other_weights | {*weights} | (code & present))


def missing_files(folder: Path, present: Collection[str]) -> dict[str, str]:
    """The files that a folder needs and does not have, each with what makes it."""
    missing = {name: part.made_by for part in parts() for name in part.needed if name not in present}
    if read_json(folder / ABOUT).get("head_fingerprint") and LABEL_HEAD not in present:
        missing[LABEL_HEAD] = TRAIN
    missing |= {name: TRAIN for name in weight_files(folder) if name not in present}
    has_encoder = read_json(folder / CONFIG).get("encoder_config") is not None
    if has_encoder and not any(fnmatch(name, pattern) for name in present for pattern in TOKENIZER):
        missing["a tokenizer (tokenizer.json)"] = next(p.made_by for p in parts() if p.name == "tokenizer")
    return missing


def belongs(name: str) -> bool:
    """Whether a file, relative to its folder, is one of a trained folder.

    >>> [belongs(name) for name in ("index/index.faiss", "optimizer.pt", "checkpoint-5/config.json")]
    [True, False, False]
    """
    return any(part.owns(name) for part in parts())


def weight_files(folder: Path) -> list[str]:
    """The weights in the order of preference that `from_pretrained` has: one file, or shards with their map."""
    if (folder / WEIGHTS).is_file() or not (folder / WEIGHT_MAP).is_file():
        return [WEIGHTS]
    shards = json.loads((folder / WEIGHT_MAP).read_text(encoding="utf-8"))["weight_map"]
    return [WEIGHT_MAP, *sorted(set(shards.values()))]


def fingerprint(pipeline: Any, scratch: Path) -> str:
    """A hash of everything that predictions of an `XMCPipeline` depend on.

    Args:
        scratch: an empty folder to write into.
    """
    digest = sha256(f"{pipeline.encoder_fingerprint} {pipeline.head_fingerprint}".encode())
    ranked = {name: part for name, part in pipeline_parts(pipeline).items() if name not in ("model", "run")}
    if isinstance(pipeline.index, EngineIndex):  # its vectors stay where they are
        digest.update(ranked.pop("index").state().encode())
    save_parts(scratch, ranked, card=False)
    for path in sorted(scratch.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            digest.update(f"{path.relative_to(scratch)} {file_fingerprint(path)}\n".encode())
    return digest.hexdigest()
