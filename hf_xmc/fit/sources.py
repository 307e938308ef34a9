"""From what the user has to a data set on disk: read, checked, split, and joined with that of an earlier tagger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_xmc.data.arrow import read_parquet
from hf_xmc.data.dataset import XMCDataset, load_xmc_dataset, local_path, positives_of, prepare_xmc_dataset
from hf_xmc.data.files import plain_suffix
from hf_xmc.data.formats.fields import SPLIT_NAMES
from hf_xmc.data.formats.source import Options
from hf_xmc.data.growing import grow_catalogue
from hf_xmc.data.ingest.splits import SplitOptions, suited_to
from hf_xmc.data.parquet_folder import detect as is_prepared
from hf_xmc.data.summary.report import write_report
from hf_xmc.data.summary.statistics import statistics
from hf_xmc.data.transaction import transaction
from hf_xmc.data.writing import scratch_beside
from hf_xmc.errors import DataError, ModelFolderError, Problems, SettingsError
from hf_xmc.retrieval.index import LABELS

WORK, DATA = "fit", "data"  # in the folder of a tagger: the data that it was made from
REPORT = "report.html"
EARLIER = "earlier-"  # of the uids of texts that an earlier tagger was made from


def read_source(
    source: str,
    folder: Path,
    test: str | None = None,
    options: Options | None = None,
    earlier: str | Path | None = None,
) -> tuple[XMCDataset, Problems]:
    """Read, check and split a data set, and write it into a folder with a report.

    Rows that cannot be used are left out, and counted.

    Args:
        source: anything that `hf-xmc prepare` reads.
        folder: where the prepared set is written.
        test: a file of texts with labels in the form of the source, or a share such as `"0.1"`, that becomes the test
            split.
        options: how to read the source, where it does not say so itself.
        earlier: a tagger whose catalogue the set is to have, with new labels after it, and whose training texts are
            kept beside the new ones if its folder still has them.

    Raises:
        DataError: there is no such source, or nothing in it can be used.
    """
    problems = Problems(stop=False)
    share = share_of(test)
    cut = suited_to(source)
    splitting = SplitOptions(validation=cut) if share is None else SplitOptions("random", share, cut)
    with (
        scratch_beside(folder) as scratch,
        with_test_file(source, None if share is not None else test, scratch) as joined,
    ):
        target = scratch / "arrow"
        target.mkdir()
        if is_prepared(Path(joined)):
            data = load_xmc_dataset(joined)
        else:
            data = prepare_xmc_dataset(joined, target, problems, options, splitting)
        data.name = Path(source).resolve().name.split(".")[0] if local_path(source) else data.name
        if earlier is not None:
            data = join_with_earlier(data, Path(earlier))
        with transaction(folder) as staging:
            data.save(folder)
            write_report(data, statistics(data), problems, staging / REPORT)
    made = load_xmc_dataset(folder)
    made.format, made.reason = data.format, data.reason
    return made, problems


def share_of(test: str | None) -> float | None:
    """The share that `--test` gives, if it is a number.

    Raises:
        SettingsError: a number that is no share.
    """
    try:
        share = None if test is None else float(test)
    except ValueError:
        return None
    if share is not None and not 0 < share < 1:
        raise SettingsError(f"test is {test}", hint="give a share between 0 and 1, such as 0.1, or a file")
    return share


@contextmanager
def with_test_file(source: str, test: str | None, scratch: Path) -> Iterator[str]:
    """The source with another file as its test split: a folder of links to both, in `scratch`.

    Raises:
        DataError: there is no such file, or the source has a test split already.
    """
    if test is None:
        yield source
        return
    path, other = local_path(source), Path(test)
    if not other.is_file():
        raise DataError(f"no test file {test!r}", hint="give a file of texts with labels, or a share such as 0.1")
    if path is None:
        raise DataError(f"{source!r} is not on this machine", hint="a test file needs a file or folder to go with")
    folder = scratch / "joined"
    folder.mkdir()
    if path.is_dir():
        for inside in sorted(path.iterdir()):
            if inside.name.split(".")[0].lower() in SPLIT_NAMES["test"]:
                raise DataError("has a test split already", inside, hint="leave --test out")
            os.symlink(inside.resolve(), folder / inside.name)
    else:
        os.symlink(path.resolve(), folder / f"train{plain_suffix(path)}")
    os.symlink(other.resolve(), folder / f"test{plain_suffix(other)}")
    yield str(folder)


def join_with_earlier(data: XMCDataset, tagger: Path) -> XMCDataset:
    """The set over the catalogue of an earlier tagger, with its texts if they are still there. A text that both have
    keeps its new labels.

    Raises:
        ModelFolderError: the folder has no label table.
    """
    if not (tagger / LABELS).is_file():
        raise ModelFolderError(f"no {LABELS}", tagger, hint="give --from a folder that hf-xmc fit or train wrote")
    grown = grow_catalogue(read_parquet(tagger / LABELS), data)
    before = tagger / WORK / DATA
    if not is_prepared(before):
        return grown
    old = grow_catalogue(grown.labels, load_xmc_dataset(before))
    new_texts = {text for queries in grown.queries.values() for text in queries["text"][:]}
    joined = DatasetDict(
        {
            split: with_older(grown.queries.get(split), old.queries.get(split), new_texts)
            for split in {*grown.queries, *old.queries}
        }
    )
    each = [positives_of(joined[split]).label_counts(grown.num_labels) for split in ("train", "validation")]
    size = len(joined["train"]) + len(joined["validation"])
    soft = grown.soft
    if soft is not None:  # the new queries stand after the older ones
        soft = replace(soft, rows=soft.rows + len(joined["train"]) - len(grown.queries["train"]))
    counts = each[0] + each[1]
    return replace(grown, queries=joined, train_label_counts=counts, num_train_queries=size, filters={}, soft=soft)


def with_older(new: Dataset | None, old: Dataset | None, new_texts: set[str]) -> Dataset:
    """The queries of a split, those of an earlier data set first, without the texts that are among the new ones. The
    uids of older queries say so, since many tables number their rows."""
    columns = ["uid", "text", "labels"]
    parts = []
    if old is not None:
        kept = old.select_columns(columns).select(
            [i for i, text in enumerate(old["text"][:]) if text not in new_texts]
        )
        uids = [uid if uid.startswith(EARLIER) else f"{EARLIER}{uid}" for uid in kept["uid"][:]]
        parts.append(kept.remove_columns("uid").add_column("uid", uids).select_columns(columns))
    if new is not None:
        parts.append(new.select_columns(columns))
    return concatenate_datasets(parts)
