"""What `test_finite` launches: a training whose loss is NaN on the last process from the fourth step on."""

from __future__ import annotations

import sys
from pathlib import Path

from hf_xmc import load_xmc_dataset
from hf_xmc.errors import DivergenceError
from tests.training.made import make_trainer
from tests.training.test_finite import FAST, poisoned

if __name__ == "__main__":
    encoder, folder, out = sys.argv[1:]
    trainer = make_trainer(encoder, load_xmc_dataset(folder), Path(out, "run"), **FAST)
    poisoned(trainer, 3 if trainer.ranks.rank == 1 else 1000)
    try:
        trainer.train()
    except DivergenceError as error:
        Path(out, f"said-{trainer.ranks.rank}.txt").write_text(str(error))
