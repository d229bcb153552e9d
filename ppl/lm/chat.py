"""Chat templates: the Jinja text in a model folder that turns messages into the prompt a model was tuned on.

Templates come with a download, so they run in Jinja's sandbox, which cannot reach Python's objects or files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ppl.lm.families import read_json

Message = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """`source`: Jinja text; `special`: the texts of special tokens that it may use (`bos_token`, `eos_token`, ...);
    `origin`: the file that it is from, for errors."""

    source: str
    special: Mapping[str, str] = field(default_factory=dict)
    origin: str = "chat template"

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt that `messages` make, special tokens written out.

        **Arguments:** `messages`: mappings with `role` and `content`; `add_generation_prompt`: does the text go on with
        the beginning of the assistant's answer; `variables`: what else the template reads (`tools`,
        `enable_thinking`).
        **Raises:** `ValueError` with the template's own words if it refuses the messages (roles that do not alternate).
        """
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
                raise ValueError(f"messages[{i}]: a mapping with 'role' and 'content' is wanted, got {message!r:.80}")
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **{**self.special, **variables}
            )
        except TemplateError as error:
            raise ValueError(f"{self.origin}: {error}") from None

    @cached_property
    def _template(self) -> Template:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        # Plain JSON, as templates are written for: Jinja's own filter escapes for HTML.
        environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        try:
            return environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise ValueError(f"{self.origin}, line {error.lineno}: {error.message}") from None


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """The chat template of a model folder: `chat_template.jinja`, or in `tokenizer_config.json`; None without one.

    **Raises:** `ValueError` naming the file if it is not JSON, or holds something that is not a template.
    """
    settings = folder / "tokenizer_config.json"
    raw = read_json(settings) if settings.is_file() else {}
    special = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = raw.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            special[name] = text
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        return ChatTemplate(alone.read_text(encoding="utf-8"), special, str(alone))
    source = raw.get("chat_template")
    if isinstance(source, list):  # several by name
        source = {str(entry.get("name")): entry.get("template") for entry in source}.get("default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise ValueError(f"{settings}: key 'chat_template' must be a text, got {source!r:.60}")
    return ChatTemplate(source, special, str(settings))


def _refuse(message: str) -> None:
    raise TemplateError(message)
