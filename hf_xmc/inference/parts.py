"""The parts of a file that is being written: what a killed run leaves, and the next one goes on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from hf_xmc.data.files import replacing
from hf_xmc.inference.text_files import changed_type

logger = logging.get_logger(__name__)
MANIFEST = "manifest.json"


class Parts:
    """The folder `<target>.parts`: one file for each window of rows, and a manifest of what they were made from.

    Args:
        target: the file that the parts will make, `.jsonl` or `.parquet`.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(f"{target.name}.parts")

    def open(self, made_from: dict[str, Any]) -> None:
        """Keep the parts of an earlier run where it was made from the same; else begin anew, and say why."""
        manifest = self.folder / MANIFEST
        content = json.dumps(made_from, indent=2, default=lambda array: np.asarray(array).tolist()) + "\n"
        made_from = json.loads(content)
        try:
            earlier = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = None
        if earlier == made_from:
            return
        if earlier is not None:
            changed = [name for name in made_from if earlier.get(name) != made_from[name]]
            logger.warning(f"{self.folder}: {', '.join(changed) or 'the form'} changed since; starting over.")
        self.remove()
        with replacing(manifest) as temporary:
            temporary.write_text(content, encoding="utf-8")

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}{self.target.suffix}"

    def done(self) -> set[int]:
        """The windows whose parts are there."""
        found = self.folder.glob(f"part-*{self.target.suffix}")
        return {int(path.name[len("part-") : -len(self.target.suffix)]) for path in found}

    def merge(self, count: int) -> None:
        """Write `count` parts to the target in their order, and remove them.

        Raises:
            DataError: columns of parts that do not fit together.
        """
        paths = [self.path(number) for number in range(count)]
        with replacing(self.target) as temporary:
            if self.target.suffix == ".parquet":
                merge_parquet(paths, temporary)
            else:
                with temporary.open("wb") as file:
                    for path in paths:
                        with path.open("rb") as part:
                            shutil.copyfileobj(part, file)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def merge_parquet(paths: list[Path], target: Path) -> None:
    """The rows of all, with the columns of all; a column that is null or missing in one has the type of the others."""
    try:
        schema = pa.unify_schemas([pq.read_schema(path) for path in paths])
    except pa.ArrowException as error:
        raise changed_type(error) from error
    with pq.ParquetWriter(target, schema) as writer:
        for path in paths:
            writer.write_table(
                pa.concat_tables([schema.empty_table(), pq.read_table(path)], promote_options="default")
            )
