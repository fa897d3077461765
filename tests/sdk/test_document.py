"""The OpenAPI document: valid, true of its own examples, and true of what the server sends.

The answers among the examples are a recording of the bundled model. This makes it anew, for the requests in
src/http/openapi/examples.json, with a server that was started for it (what earlier requests left in its cache
shows in `usage`) and with the packages of requirements.txt:

    cargo run -- serve --port 8477
    ESPALIER_URL=http://127.0.0.1:8477 python tests/sdk/test_document.py --record
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

ROOT = os.environ["ESPALIER_URL"].rstrip("/").removesuffix("/v1")
CHAT = "/v1/chat/completions"


def fetch(path, data=None, kind="application/json"):
    """One exchange: (status, headers, text)."""
    request = urllib.request.Request(ROOT + path, data, {"content-type": kind})
    try:
        response = urllib.request.urlopen(request, timeout=120)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read().decode()


DOCUMENT = json.loads(fetch("/openapi.json")[2])
OPERATION = DOCUMENT["paths"][CHAT]["post"]
REQUESTS = OPERATION["requestBody"]["content"]["application/json"]["examples"]


def validate(schema, value):
    whole = {**schema, "components": DOCUMENT["components"]}
    errors = [f"{e.json_path}: {e.message}" for e in Draft202012Validator(whole).iter_errors(value)]
    assert not errors, "\n".join([*errors, json.dumps(value)])


def events(text):
    """The chunks of a stream."""
    *frames, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames if not frame.startswith(":")]


def check(operation, status, headers, text):
    """A response is one that the document describes."""
    described = operation["responses"].get(str(status), operation["responses"].get("default"))
    assert described, f"status {status} is not in the document"
    for name, header in described["headers"].items():
        if name in headers and header["schema"]["type"] == "integer":
            validate(header["schema"], int(headers[name]))
        elif name in headers:
            validate(header["schema"], headers[name])
    assert "x-request-id" in headers and "openai-processing-ms" in headers
    if "content" not in described:
        assert text == ""
        return
    schema = described["content"][headers["content-type"].partition(";")[0]]["schema"]
    if headers["content-type"].startswith("text/event-stream"):
        for chunk in events(text):
            validate(schema["x-event-schema"], chunk)
    elif headers["content-type"].startswith("application/json"):
        validate(schema, json.loads(text))


def test_the_document_is_valid():
    errors = [str(error) for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()]
    assert not errors, "\n".join(errors)


def test_schemas_are_schemas():
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_example_fits_its_schema():
    seen = 0
    contents = [(OPERATION["requestBody"]["content"])]
    contents += [response.get("content", {}) for response in OPERATION["responses"].values()]
    for content in contents:
        for kind, media in content.items():
            for example in media["examples"].values():
                seen += 1
                validate(media["schema"], example["value"])
                if kind == "text/event-stream":
                    for chunk in events(example["value"]):
                        validate(media["schema"]["x-event-schema"], chunk)
    assert seen > 15


@pytest.mark.parametrize("name", REQUESTS)
def test_every_request_of_the_examples_is_answered_like_its_example(name):
    status, headers, text = fetch(CHAT, json.dumps(REQUESTS[name]["value"]).encode())
    assert status == 200, text
    check(OPERATION, status, headers, text)
    kind = headers["content-type"].partition(";")[0]
    recorded = OPERATION["responses"]["200"]["content"][kind]["examples"][name]["value"]
    stale = "the recording is stale: the head of this file says how to make it anew"
    if kind == "application/json":
        answer = json.loads(text)
        assert answer["choices"] == recorded["choices"], stale
        answer, recorded = answer["search"], recorded["search"]
    else:
        answer, recorded = last_report(text), last_report(recorded)
    assert answer.keys() == recorded.keys(), stale
    for key in ["mode", "parameters", "budget", "notes"]:
        assert answer[key] == recorded[key], f"{key}: {stale}"


def last_report(text):
    """The report of a stream, which the chunk with the finish reason carries."""
    [report] = [chunk["search"] for chunk in events(text) if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    return report


def ask(**fields):
    return json.dumps({**REQUESTS["direct"]["value"], **fields}).encode()


TOOL = {"type": "function", "function": {"name": "f"}}
EXCHANGES = [
    (ask(n=2, reasoning_effort="low", temperature=1), 200),
    (ask(n=2, reasoning_effort="medium", stream=True, stream_options={"include_search": True}), 200),
    (ask(logprobs=True, top_logprobs=2), 200),
    (ask(logprobs=True, stream=True, stream_options={"include_usage": True}), 200),
    (ask(max_completion_tokens=1), 200),
    (ask(reasoning_effort="high", max_completion_tokens=30), 200),
    (ask(no_such_key=1), 200),
    (ask(temperature=3), 400),
    (ask(tools=[TOOL]), 400),
    (ask(messages=[]), 400),
    (ask(model="no-such-model"), 404),
    (b"{", 400),
    (b" " * (5 << 20), 413),
    (ask(reasoning_effort="max", reasoning={"budget": {"seconds": 1e-9}}), 504),
]


@pytest.mark.parametrize(("body", "expected"), EXCHANGES, ids=lambda value: str(value)[-60:])
def test_what_the_server_sends_is_what_the_document_describes(body, expected):
    status, headers, text = fetch(CHAT, body)
    assert status == expected, text
    check(OPERATION, status, headers, text)


def test_ignored_keys_and_wrong_types_are_described():
    assert fetch(CHAT, ask(no_such_key=1))[1]["x-ignored-params"] == "no_such_key"
    status, headers, text = fetch(CHAT, b"{}", "text/plain")
    assert status == 415
    check(OPERATION, status, headers, text)


@pytest.mark.parametrize("path", ["/v1/models", "/version", "/health", "/ready", "/metrics", "/openapi.json"])
def test_the_other_operations_are_described(path):
    status, headers, text = fetch(path)
    assert status == 200
    check(DOCUMENT["paths"][path]["get"], status, headers, text)


def test_one_model_is_described():
    operation = DOCUMENT["paths"]["/v1/models/{id}"]["get"]
    for name, expected in [(REQUESTS["direct"]["value"]["model"], 200), ("no/such", 404)]:
        status, headers, text = fetch(f"/v1/models/{name}")
        assert status == expected
        check(operation, status, headers, text)


def record():
    """Puts what the server answers into the examples, in the place of what it answered before."""
    path = Path(__file__).parents[2] / "src/http/openapi/examples.json"
    examples = json.loads(path.read_text())
    for name, request in examples["requests"].items():
        status, headers, text = fetch(CHAT, json.dumps(request["value"]).encode())
        assert status == 200, text
        kind = headers["content-type"].partition(";")[0]
        examples["answers"][kind][name]["value"] = json.loads(text) if kind == "application/json" else text
    path.write_text(json.dumps(examples, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__" and sys.argv[1:] == ["--record"]:
    record()
