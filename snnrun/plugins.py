"""A module of the user imports this to register a rule, a model, an encoder or a corpus: see docs/plugins.md."""

from snnrun.config.plugins import register_dataset, register_encoder, register_model, register_rule
from snnrun.declared import Range

__all__ = ["Range", "register_dataset", "register_encoder", "register_model", "register_rule"]
