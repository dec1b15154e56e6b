"LoRA fine-tuning, explained in notebooks that are also the library."

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors read; when it runs, `__getattr__` does it
    from tinyforge.adapters.combining import combine as combine
    from tinyforge.adapters.exporting import merge_adapter as merge_adapter
    from tinyforge.adapters.files import read_adapter as read_adapter
    from tinyforge.adapters.folder import list_adapters as list_adapters
    from tinyforge.adapters.store import Adapters as Adapters
    from tinyforge.data.shipped import dataset as dataset
    from tinyforge.errors import TinyforgeError as TinyforgeError
    from tinyforge.exports.export import export_adapter as export_adapter
    from tinyforge.memory.estimate import estimate_memory as estimate_memory
    from tinyforge.memory.measure import measure_memory as measure_memory
    from tinyforge.memory.estimate import what_fits as what_fits
    from tinyforge.models.loading import load_base as load_base
    from tinyforge.models.parameters import count_parameters as count_parameters
    from tinyforge.training.config import TrainingConfig as TrainingConfig
    from tinyforge.training.result import TrainResult as TrainResult
    from tinyforge.training.trainer import RealTrainer as RealTrainer

_MODULES = {  # each public name, and the module that it is imported from when it is first used
    "Adapters": "adapters.store",
    "RealTrainer": "training.trainer",
    "TinyforgeError": "errors",
    "TrainResult": "training.result",
    "TrainingConfig": "training.config",
    "combine": "adapters.combining",
    "count_parameters": "models.parameters",
    "dataset": "data.shipped",
    "estimate_memory": "memory.estimate",
    "export_adapter": "exports.export",
    "list_adapters": "adapters.folder",
    "load_base": "models.loading",
    "measure_memory": "memory.measure",
    "merge_adapter": "adapters.exporting",
    "read_adapter": "adapters.files",
    "what_fits": "memory.estimate",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str):
    "Import a public name from its module, once."
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_MODULES[name]}")
    except Exception as e:
        _say_what_is_in_the_way(e, name)
        raise
    value = globals()[name] = getattr(module, name)
    return value


def _say_what_is_in_the_way(error: Exception, name: str) -> None:
    "ConfigError for a package beside, broken or too old, that cannot be imported."
    from tinyforge.compat import stands_in_the_way, to_mend
    from tinyforge.errors import ConfigError

    if stands_in_the_way(error):
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"a package that it needs cannot be imported: {said}"
        raise ConfigError(what, name, to_mend(error)) from error


def __dir__() -> list[str]:
    return sorted(__all__)
