"""What clients may send: the OpenAI API's fields, and which of their values this server honours."""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from superpose.serving.errors import ServingError

MOST_STOPS = 4
MOST_PROMPTS = 128

Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """A piece of a message; only text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def plain(self) -> dict[str, str]:
        """The message as chat templates know it; they call a developer ``system``."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class _Request(BaseModel):
    """What both kinds of request share. A field that would change the answer is honoured or refused, never ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n": (1,),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({},),
    }

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False

    # Honoured only at the value that changes nothing.
    n: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None

    # These say nothing about the answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @model_validator(mode="after")
    def _refuse(self) -> "_Request":
        for name, allowed in self.NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                listed = ", ".join(map(repr, allowed))
                message = f"{name} is {value!r:.100}, which this server does not support; allowed: {listed}"
                raise ServingError(400, message, param=name, code="unsupported_value")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(_Request):
    """``POST /v1/completions``."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        **_Request.NEUTRAL,
        "best_of": (1,),
        "echo": (False,),
        "logprobs": (),
        "suffix": ("",),
    }

    prompt: (
        str
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[list[int]], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    best_of: Any = None
    echo: Any = None
    logprobs: Any = None
    suffix: Any = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each a text or its tokens."""
        prompt: Any = self.prompt
        return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


class ChatRequest(_Request):
    """``POST /v1/chat/completions``."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        **_Request.NEUTRAL,
        "logprobs": (False,),
        "top_logprobs": (0,),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "response_format": ({"type": "text"},),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: Any = None
    top_logprobs: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    response_format: Any = None


Request = TypeVar("Request", CompletionRequest, ChatRequest)


def parse(schema: type[Request], body: bytes) -> Request:
    """Return the request that a body holds.

    Raises:
        ServingError: not JSON, a wrong type or value, an unknown field, or a value that is not supported.
    """
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> ServingError:
    found = error.errors(include_url=False, include_context=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return ServingError(400, f"the body is not JSON: {first['msg']}", code="invalid_json")
    if not first["loc"]:
        return ServingError(400, f"the body is not a JSON object: {first['msg']}", code="invalid_type")
    param = str(first["loc"][0])
    if first["type"] == "missing":
        return ServingError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return ServingError(400, f"{param} is not a known parameter", param=param, code="unknown_parameter")
    # A field of several types complains once for each of them.
    reasons = dict.fromkeys(each["msg"] for each in found if each["loc"] and each["loc"][0] == param)
    given = f" (given: {first['input']!r:.100})" if first["type"] != "missing" else ""
    message = f"{param}: {'; or '.join(reasons)}{given}"
    return ServingError(400, message, param=param, code="invalid_value")
