"""The server as openai-python sees it, and as OpenAI's own schema describes it.

Black box: the suite knows an address and the bundled model's kind of problem.

    python -m venv venv && venv/bin/pip install -r tests/sdk/requirements.txt
    ESPALIER_URL=http://127.0.0.1:8000 venv/bin/python -m pytest -rs tests/sdk

The strict client checks every response against the SDK's models. Those are laxer
than the published schema (a message without `refusal` passes), so the raw bytes
are validated against the schema as well.
"""

import asyncio
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

ROOT = os.environ["ESPALIER_URL"].rstrip("/").removesuffix("/v1")
BASE = f"{ROOT}/v1"
# OpenAI's document is not ours to commit. It lies beside the repository, or the tests that need it skip.
SCHEMA = Path(__file__).resolve().parents[3] / "shared" / "reference" / "openai-subset-2.3.0.json"

EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
PROBLEM = (
    "Mina has 14 apples. Tom gives Mina 35. Then the number doubles. How many apples does Mina have now?"
)
# A puzzle of which the bundled model's samples at temperature 1 hardly ever agree.
PUZZLE = "Use each of the numbers 24, 16, 22, 11 exactly once with +, -, * and / to make 66."
MESSAGES = [{"role": "user", "content": PROBLEM}]
PUZZLE_MESSAGES = [{"role": "user", "content": PUZZLE}]

# A retry would hide the first answer from the test that asked for it.
client = OpenAI(base_url=BASE, api_key="unused", max_retries=0, timeout=120, _strict_response_validation=True)


def async_client() -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=BASE, api_key="unused", max_retries=0, timeout=120, _strict_response_validation=True
    )


MODEL = client.models.list().data[0].id


def create(**fields):
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "seed": 1, **fields})


def thought(message) -> str:
    """The reasoning channel, which both of its names carry alike."""
    assert getattr(message, "reasoning_content", None) == getattr(message, "reasoning", None)
    return getattr(message, "reasoning_content", None) or ""


def check_usage(usage) -> None:
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 <= usage.completion_tokens_details.reasoning_tokens <= usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def collect(chunks, choices: int = 1):
    """Checks the shape of a stream and joins it: (contents, thoughts, finish reasons, usage)."""
    chunks = list(chunks)
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].index == 0
    contents, thoughts, finishes, started = [""] * choices, [""] * choices, [None] * choices, set()
    usage = None
    for at, chunk in enumerate(chunks):
        if not chunk.choices:
            assert at == len(chunks) - 1, "only the last chunk may be without choices"
            usage = chunk.usage
            assert usage is not None
            continue
        assert chunk.usage is None
        for choice in chunk.choices:
            assert finishes[choice.index] is None, "nothing follows a choice's finish_reason"
            assert (choice.delta.role == "assistant") == (choice.index not in started)
            started.add(choice.index)
            contents[choice.index] += choice.delta.content or ""
            thoughts[choice.index] += thought(choice.delta)
            finishes[choice.index] = choice.finish_reason
    assert started == set(range(choices))
    assert None not in finishes
    return contents, thoughts, finishes, usage


# ---- one answer ----


def check_medium(completion) -> None:
    [choice] = completion.choices
    assert "98" in choice.message.content
    assert choice.finish_reason == "stop"
    assert "49" in thought(choice.message)
    check_usage(completion.usage)
    assert completion.usage.completion_tokens_details.reasoning_tokens > 0
    assert completion.search["mode"] == "self_consistency"


def test_medium_effort_answers_with_its_reasoning_and_a_report():
    check_medium(create(reasoning_effort="medium"))


def test_medium_effort_answers_through_the_async_client():
    async def ask():
        async with async_client() as asynchronous:
            return await asynchronous.chat.completions.create(
                model=MODEL, messages=MESSAGES, seed=1, reasoning_effort="medium"
            )

    check_medium(asyncio.run(ask()))


@pytest.mark.parametrize("effort", [*EFFORTS, None])
def test_every_effort_is_accepted(effort):
    completion = create(reasoning_effort=effort, max_completion_tokens=400)
    assert completion.choices[0].message.content
    check_usage(completion.usage)
    assert completion.usage.completion_tokens <= 400


def test_no_effort_means_no_reasoning():
    completion = create(reasoning_effort="none")
    assert thought(completion.choices[0].message) == ""
    assert completion.usage.completion_tokens_details.reasoning_tokens == 0


def test_two_choices_are_two_runs():
    completion = create(n=2, reasoning_effort="low", temperature=1, messages=PUZZLE_MESSAGES)
    assert [choice.index for choice in completion.choices] == [0, 1]
    texts = [thought(choice.message) + choice.message.content for choice in completion.choices]
    assert texts[0] != texts[1]
    check_usage(completion.usage)


def test_a_system_message_of_the_users_is_kept_beside_the_instruction():
    messages = [{"role": "developer", "content": "Be brief."}, *MESSAGES]
    with_own = create(messages=messages, reasoning_effort="low")
    without = create(reasoning_effort="low")
    assert with_own.usage.prompt_tokens > without.usage.prompt_tokens


# ---- streams ----


@pytest.mark.parametrize("effort", ["none", "low", "medium"])
def test_a_stream_says_what_the_whole_answer_says(effort):
    whole = create(reasoning_effort=effort)
    stream = create(reasoning_effort=effort, stream=True, stream_options={"include_usage": True})
    [content], [thoughts], [finish], usage = collect(stream)
    assert content == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.completion_tokens_details == whole.usage.completion_tokens_details
    # A search tells of its progress first, on the same channel.
    assert thoughts.endswith(thought(whole.choices[0].message))


def test_a_stream_has_no_usage_chunk_unless_asked():
    *_, usage = collect(create(reasoning_effort="none", stream=True))
    assert usage is None


def test_two_choices_are_streamed_side_by_side():
    fields = {"n": 2, "reasoning_effort": "low", "temperature": 1, "messages": PUZZLE_MESSAGES}
    whole = create(**fields)
    contents, _, finishes, _ = collect(create(stream=True, **fields), choices=2)
    assert contents == [choice.message.content for choice in whole.choices]
    assert finishes == [choice.finish_reason for choice in whole.choices]


def test_the_stream_helper_assembles_the_same_completion():
    fields = {"model": MODEL, "messages": MESSAGES, "seed": 1, "reasoning_effort": "low"}
    whole = client.chat.completions.create(**fields)
    with client.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == whole.choices[0].message.content
    assert final.usage.completion_tokens == whole.usage.completion_tokens


def test_the_async_client_streams():
    async def ask():
        async with async_client() as asynchronous:
            stream = await asynchronous.chat.completions.create(
                model=MODEL, messages=MESSAGES, seed=1, reasoning_effort="medium", stream=True
            )
            return [chunk async for chunk in stream]

    [content], _, [finish], _ = collect(asyncio.run(ask()))
    assert content == create(reasoning_effort="medium").choices[0].message.content
    assert finish == "stop"


# ---- what a request may bound ----


@pytest.mark.parametrize("effort", ["none", "low"])
def test_log_probabilities_spell_the_answer(effort):
    [choice] = create(reasoning_effort=effort, temperature=0, logprobs=True, top_logprobs=3).choices
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        ranked = [top.logprob for top in token.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        # At temperature 0 the likeliest token was taken.
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)


def test_log_probabilities_without_alternatives():
    [choice] = create(reasoning_effort="none", logprobs=True).choices
    assert choice.logprobs.content
    assert all(token.top_logprobs == [] for token in choice.logprobs.content)
    assert create(reasoning_effort="none").choices[0].logprobs is None


def test_streamed_log_probabilities_spell_the_answer():
    chunks = list(create(reasoning_effort="none", logprobs=True, stream=True))
    spelled, content = b"", ""
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        content += choice.delta.content or ""
        if choice.logprobs is not None:
            spelled += b"".join(bytes(token.bytes) for token in choice.logprobs.content)
    assert content
    assert spelled.decode() == content


@pytest.mark.parametrize("stop", ["boxed", ["never said", "answer is"]])
def test_a_stop_string_ends_the_answer_and_is_not_in_it(stop):
    full = create(reasoning_effort="none").choices[0].message.content
    met = stop if isinstance(stop, str) else stop[-1]
    assert met in full
    [choice] = create(reasoning_effort="none", stop=stop).choices
    assert choice.message.content == full.partition(met)[0]
    assert choice.finish_reason == "stop"
    [content], _, [finish], _ = collect(create(reasoning_effort="none", stop=stop, stream=True))
    assert (content, finish) == (choice.message.content, "stop")


def test_a_stop_string_does_not_apply_to_the_thought():
    free, stopped = create(reasoning_effort="low"), create(reasoning_effort="low", stop="=")
    assert "=" in thought(free.choices[0].message)
    assert thought(stopped.choices[0].message) == thought(free.choices[0].message)
    assert stopped.choices[0].message.content == free.choices[0].message.content


@pytest.mark.parametrize("field", ["max_completion_tokens", "max_tokens"])
@pytest.mark.parametrize("bound", [1, 3])
def test_a_cut_answer_has_exactly_the_tokens_asked_for(field, bound):
    completion = create(reasoning_effort="none", **{field: bound})
    assert completion.usage.completion_tokens == bound
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("effort", ["low", "medium", "high", "max"])
@pytest.mark.parametrize("bound", [1, 17, 64, 150])
def test_no_effort_spends_more_than_it_may(effort, bound):
    completion = create(reasoning_effort=effort, max_completion_tokens=bound)
    assert 0 < completion.usage.completion_tokens <= bound
    assert completion.search["spent"]["tokens"] == completion.usage.completion_tokens


# ---- seeds ----


@pytest.mark.parametrize("effort", ["low", "medium"])
def test_a_seed_gives_the_same_answer_again(effort):
    fields = {"messages": PUZZLE_MESSAGES, "reasoning_effort": effort, "temperature": 1, "seed": 11}
    first, second = create(**fields), create(**fields)
    assert first.choices[0].message == second.choices[0].message
    assert first.usage.completion_tokens == second.usage.completion_tokens
    assert first.search["seed"] == second.search["seed"] == 11


def test_seeds_matter_and_company_does_not():
    async def ask(seeds):
        async with async_client() as asynchronous:
            calls = [
                asynchronous.chat.completions.create(
                    model=MODEL, messages=PUZZLE_MESSAGES, seed=seed, temperature=1, reasoning_effort="low"
                )
                for seed in seeds
            ]
            return [answer.choices[0].message for answer in await asyncio.gather(*calls)]

    seeds = range(8)
    together = asyncio.run(ask(seeds))
    alone = [
        create(messages=PUZZLE_MESSAGES, seed=seed, temperature=1, reasoning_effort="low").choices[0].message
        for seed in seeds
    ]
    assert together == alone
    assert len({thought(message) for message in alone}) > 1


# ---- models ----


def test_models_are_listed_and_retrieved():
    models = client.models.list().data
    assert all(model.object == "model" for model in models)
    for model in models:
        assert client.models.retrieve(model.id) == model


def test_an_unknown_model_is_not_found():
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve("no/such-model")
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFoundError) as caught:
        create(model="no/such-model")
    assert caught.value.code == "model_not_found"
    assert "no/such-model" in caught.value.message


# ---- refusals ----

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
REFUSALS = [
    ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
    ({"temperature": -1}, "temperature", "decimal_below_min_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"temperature": "warm"}, "temperature", "invalid_type"),
    ({"reasoning_effort": "heroic"}, "reasoning_effort", "invalid_value"),
    ({"extra_body": {"reasoning": {"mode": "divination"}}}, "reasoning.mode", "invalid_value"),
    ({"tools": [TOOL]}, "tools", "unsupported_parameter"),
    ({"messages": [{"role": "user", "content": PROBLEM * 400}]}, "messages", "context_length_exceeded"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSALS, ids=lambda value: str(value)[:40])
def test_a_bad_request_names_the_field_and_the_reason(fields, param, code):
    with pytest.raises(BadRequestError) as caught:
        create(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


@pytest.mark.parametrize(
    "fields",
    [
        {"top_logprobs": 2},
        {"stream_options": {"include_usage": True}},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"messages": []},
        {"reasoning_effort": "low", "extra_body": {"reasoning": {"effort": "high"}}},
    ],
    ids=str,
)
def test_fields_that_contradict_each_other_are_refused(fields):
    with pytest.raises(BadRequestError) as caught:
        create(**fields)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param


def test_an_overlong_conversation_is_refused_in_the_words_that_clients_look_for():
    with pytest.raises(BadRequestError, match="This model's maximum context length is"):
        create(messages=[{"role": "user", "content": PROBLEM * 400}])


@pytest.mark.parametrize("ask", [ChatOpenAI.invoke, lambda model, text: list(model.stream(text))])
def test_langchain_knows_an_overlong_conversation_when_it_sees_one(ask):
    model = ChatOpenAI(model=MODEL, base_url=BASE, api_key="unused", max_retries=0)
    with pytest.raises(ContextOverflowError):
        ask(model, PROBLEM * 400)


# ---- the bytes, against the schema ----


@pytest.fixture(scope="session")
def schema():
    if not SCHEMA.exists():
        pytest.skip(f"NOT CHECKED against OpenAI's schema: {SCHEMA.name} does not lie beside the repository")
    components = json.loads(SCHEMA.read_text(encoding="utf-8"))["components"]

    def validate(name: str, value) -> None:
        assert name in components["schemas"]
        reference = {"$ref": f"#/components/schemas/{name}", "components": components}
        errors = [f"{e.json_path}: {e.message}" for e in Draft202012Validator(reference).iter_errors(value)]
        assert not errors, "\n".join([name, *errors, json.dumps(value)])

    return validate


def fetch(path: str, body: dict | None = None):
    """One exchange without a client in between: (status, headers, text)."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer unused"}
    request = urllib.request.Request(BASE + path, data, headers)
    try:
        response = urllib.request.urlopen(request, timeout=120)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return response.status, response.headers, response.read().decode()


def chat(**fields):
    return fetch("/chat/completions", {"model": MODEL, "messages": MESSAGES, "seed": 1, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "none"},
        {"reasoning_effort": "none", "logprobs": True, "top_logprobs": 2},
        {"reasoning_effort": "low", "n": 2},
        {"reasoning_effort": "medium"},
        {"reasoning_effort": "max", "max_completion_tokens": 100},
        {"reasoning_effort": "none", "max_completion_tokens": 1},
    ],
    ids=str,
)
def test_bodies_and_chunks_fit_the_schema(schema, fields):
    status, _, text = chat(**fields)
    assert status == 200
    schema("CreateChatCompletionResponse", json.loads(text))

    for options in (None, {"include_usage": True}):
        status, headers, text = chat(**fields, stream=True, stream_options=options)
        assert status == 200
        assert headers["content-type"].startswith("text/event-stream")
        *frames, done, rest = text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        # Comments keep a connection alive. Any other field breaks one client or another.
        frames = [frame for frame in frames if not frame.startswith(":")]
        assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
        for frame in frames:
            schema("CreateChatCompletionStreamResponse", json.loads(frame.removeprefix("data: ")))


def test_models_fit_the_schema(schema):
    _, _, text = fetch("/models")
    schema("ListModelsResponse", json.loads(text))
    _, _, text = fetch(f"/models/{MODEL}")
    schema("Model", json.loads(text))


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/chat/completions", {"model": "no-such-model", "messages": MESSAGES}, 404),
        ("/chat/completions", {"model": MODEL}, 400),
        ("/chat/completions", {"model": MODEL, "messages": MESSAGES, "n": 0}, 400),
        ("/chat/completions", {"model": MODEL, "messages": MESSAGES, "tools": [TOOL]}, 400),
        # Before the head of a stream, a refusal is a status and no event.
        ("/chat/completions", {"model": MODEL, "messages": MESSAGES, "n": 0, "stream": True}, 400),
        ("/chat/completions", ["not", "an", "object"], 400),
        ("/chat/completions", None, 405),
        ("/no/such/path", None, 404),
        ("/models/no-such-model", None, 404),
    ],
    ids=str,
)
def test_errors_fit_the_schema(schema, path, body, expected):
    status, headers, text = fetch(path, body)
    assert status == expected, text
    assert headers["content-type"].startswith("application/json")
    schema("ErrorResponse", json.loads(text))
