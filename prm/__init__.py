"""nl2sql-prm: train, measure and use process reward models (PRMs) for text-to-SQL.

The names below are loaded on first use, so that `import prm` and the command line stay fast and the rooms
that need no torch (`prm.sql`, `prm.traces`, `prm.labeling.build`, `prm.evaluation`) never import it.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Step": "prm.traces.trace",
    "Trace": "prm.traces.trace",
    "load_traces": "prm.traces.formats",
    "ProcessRewardConfig": "prm.modeling.process_reward_model",
    "ProcessRewardModel": "prm.modeling.process_reward_model",
    "PRMTrainer": "prm.training.trainer",
    "PRMConfig": "prm.recipe",
    "Scorer": "prm.inference.scoring",
    "Ensemble": "prm.inference.scoring",
}
__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from prm.inference.scoring import Ensemble as Ensemble
    from prm.inference.scoring import Scorer as Scorer
    from prm.modeling.process_reward_model import ProcessRewardConfig as ProcessRewardConfig
    from prm.modeling.process_reward_model import ProcessRewardModel as ProcessRewardModel
    from prm.recipe import PRMConfig as PRMConfig
    from prm.traces.formats import load_traces as load_traces
    from prm.traces.trace import Step as Step
    from prm.traces.trace import Trace as Trace
    from prm.training.trainer import PRMTrainer as PRMTrainer


# Without the optional `kernels` package bitsandbytes says so on import, to everyone who has it installed.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
