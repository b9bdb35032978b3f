"""The schemas of tools as a provider wants them: made once, and not anew with every request.

They hardly ever change, and walking through them takes longer than all else that a request needs.
"""

import sys
from typing import Any

from pydantic_ai.models import Model
from pydantic_ai.profiles import JsonSchemaTransformer, ModelProfile, merge_profile
from pydantic_core import to_json

_MOST_KNOWN = 1000

_Schema = dict[str, Any]
_Known = dict[tuple[bytes, bool | None], tuple[_Schema, bool]]


def remember(model: Model) -> None:
    """Have the model's requests take as they are the schemas that it has sent before."""
    transformer = model.profile.get("json_schema_transformer")
    if transformer is not None:
        remembering = ModelProfile(json_schema_transformer=_remembering(transformer))
        model.profile = merge_profile(model.profile, remembering)
    # Only loaded for those models that need it.
    if "openai" in sys.modules:
        from handinger.agent import openai_client  # noqa: PLC0415

        openai_client.send_as_it_is(model)


def _remembering(transformer: type[JsonSchemaTransformer]) -> type[JsonSchemaTransformer]:
    """The same transformer, which knows the schemas that it has walked through."""
    known: _Known = {}

    class Remembering(transformer):
        def __init__(self, schema: _Schema, *, strict: bool | None = None) -> None:
            self._key = (to_json(schema), strict)
            if self._key not in known:
                super().__init__(schema, strict=strict)

        def walk(self) -> _Schema:
            if self._key not in known:
                if len(known) >= _MOST_KNOWN:
                    known.clear()
                known[self._key] = (super().walk(), self.is_strict_compatible)
            walked, self.is_strict_compatible = known[self._key]
            return walked

    return Remembering
