//! What the derived document lacks: closed sets of values, headers, what each
//! status means, and examples.
//!
//! It works on the finished JSON, so that a response which a handler adds gets
//! its headers, its meaning and its examples without being named here. The
//! examples are a recording of the bundled model; `tests/sdk/test_document.py`
//! checks each against its schema, tells a stale one, and makes it anew.

use crate::http::params::{CONTEXTS, NEUTRAL, SUMMARIES, THINKING};
use crate::plan::{Effort, Kind, ModeName, PARAMETERS, Setting};
use crate::search::event::{BranchState, StopReason};
use serde_json::{Map, Value, json};

/// Requests and responses, by content.
const EXAMPLES: &str = include_str!("examples.json");

/// The one operation with examples of its own.
const CHAT: &str = "/paths/~1v1~1chat~1completions/post";

/// Completes the document.
pub(super) fn complete(document: &mut Value) {
    parameters(document);
    close_sets(document);
    event_stream(document);
    let examples: Value = serde_json::from_str(EXAMPLES).unwrap_or_default();
    let operations = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in operations.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        if let Some(responses) = operation["responses"].as_object_mut() {
            let any = json!({"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}});
            responses.entry("default").or_insert(any);
            for (status, response) in responses {
                explain(status, response);
                exemplify(response, &examples["responses"][status.as_str()]);
            }
        }
    }
    if let Some(chat) = document.pointer_mut(CHAT) {
        chat["requestBody"]["content"]["application/json"]["examples"] = examples["requests"].clone();
        exemplify(&mut chat["responses"]["200"], &examples["answers"]);
        chat["responses"]["200"]["headers"]["x-ignored-params"] = json!({
            "description": "Keys of the request that nobody knows, and that were ignored: a comma-separated list. \
                            Absent where there are none.",
            "schema": {"type": "string"},
        });
    }
}

/// Fields that take a few values only: (schema, field, values).
fn sets() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let efforts = Effort::ALL.map(Effort::name).to_vec();
    let modes = ModeName::ALL.map(ModeName::name).to_vec();
    let chosen = [ModeName::Standard, ModeName::Pro].map(ModeName::name);
    let run: Vec<&str> = modes.iter().copied().filter(|mode| !chosen.contains(mode)).collect();
    let finish = vec!["stop", "length"];
    vec![
        ("ChatRequest", "reasoning_effort", efforts.clone()),
        ("ChatRequest", "tool_choice", vec!["none", "auto"]),
        ("ChatRequest", "function_call", vec!["none", "auto"]),
        ("ChatRequest", "service_tier", vec!["auto", "default", "flex", "scale", "priority", "fast"]),
        ("ChatRequest", "verbosity", vec!["low", "medium", "high"]),
        ("ReasoningRequest", "effort", efforts.clone()),
        ("ReasoningRequest", "mode", modes),
        ("ReasoningRequest", "summary", SUMMARIES.to_vec()),
        ("ReasoningRequest", "generate_summary", SUMMARIES.to_vec()),
        ("ReasoningRequest", "context", CONTEXTS.to_vec()),
        ("ThinkingRequest", "type", THINKING.to_vec()),
        ("TextMessage", "role", vec!["developer", "system", "user", "tool"]),
        ("AssistantMessage", "role", vec!["assistant"]),
        ("FunctionMessage", "role", vec!["function"]),
        ("TextPart", "type", vec!["text"]),
        ("RefusalPart", "type", vec!["refusal"]),
        ("ResponseFormat", "type", vec!["text"]),
        ("ChatCompletion", "object", vec!["chat.completion"]),
        ("ChatChunk", "object", vec!["chat.completion.chunk"]),
        ("Model", "object", vec!["model"]),
        ("ModelList", "object", vec!["list"]),
        ("AnswerMessage", "role", vec!["assistant"]),
        ("Delta", "role", vec!["assistant"]),
        ("ChatChoice", "finish_reason", finish.clone()),
        ("ChunkChoice", "finish_reason", finish),
        ("SearchReport", "effort", efforts.clone()),
        ("SearchReport", "mode", run.clone()),
        ("SearchReport", "stop_reason", StopReason::ALL.map(StopReason::name).to_vec()),
        ("SearchReports", "effort", efforts),
        ("SearchReports", "mode", run),
        ("BranchProgress", "state", BranchState::ALL.map(BranchState::name).to_vec()),
    ]
}

/// What the description of a parameter with a default ends with, before the value.
const DEFAULT: &str = "Where neither the request nor the model's table names it: ";

/// A value as descriptions show it.
fn shown(value: Setting) -> String {
    match value {
        Setting::Count(count) => count.to_string(),
        Setting::Number(number) => number.to_string(),
        Setting::Choice(word) => format!("`{word}`"),
        Setting::Flag(flag) => flag.to_string(),
    }
}

/// The parameters of the modes, in the request and in the report.
fn parameters(document: &mut Value) {
    for spec in &PARAMETERS {
        let modes: Vec<&str> = spec.modes.iter().map(|mode| mode.name()).collect();
        let mut schema = match spec.kind {
            Kind::Count(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
            Kind::Number(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
            Kind::Choice(words) => json!({"type": "string", "enum": words}),
            Kind::Flag => json!({"type": "boolean"}),
        };
        // It is no `default` of the schema: a row of the model's table comes before it.
        let default = spec.default.map(|value| format!(" {DEFAULT}{}.", shown(value))).unwrap_or_default();
        schema["description"] = json!(format!("Of {}. {}{default}", modes.join(", "), spec.doc));
        document["components"]["schemas"]["Parameters"]["properties"][spec.name] = schema.clone();
        // A request may leave it to the effort's row by null.
        schema["type"] = json!([schema["type"], "null"]);
        if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
            words.push(Value::Null);
        }
        document["components"]["schemas"]["ReasoningRequest"]["properties"][spec.name] = schema;
    }
}

/// Fields of the request that are refused, whatever they hold.
const UNSERVED: [&str; 5] = ["tools", "functions", "audio", "web_search_options", "moderation"];

fn close_sets(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    for (schema, field, values) in sets() {
        let Some(property) = schemas.pointer_mut(&format!("/{schema}/properties/{field}")) else { continue };
        let mut values: Vec<Value> = values.into_iter().map(Value::from).collect();
        // A set is closed to null as well, unless it says otherwise.
        if property["type"].as_array().is_some_and(|types| types.contains(&json!("null"))) {
            values.push(Value::Null);
        }
        property["enum"] = Value::Array(values);
    }
    for field in UNSERVED {
        let property = &mut schemas["ChatRequest"]["properties"][field];
        *property = json!({"type": "null", "description": property["description"]});
    }
    for (field, neutral) in NEUTRAL {
        let neutral: Value = neutral.parse().unwrap_or_default();
        let (description, values) = match neutral {
            Value::Null => ("vLLM's; not served.".to_owned(), json!([null])),
            neutral => (format!("vLLM's; only `{neutral}` is served."), json!([neutral, null])),
        };
        schemas["ChatRequest"]["properties"][field] = json!({"description": description, "enum": values});
    }
    let modalities = &mut schemas["ChatRequest"]["properties"]["modalities"];
    modalities["items"]["enum"] = json!(["text"]);
    modalities["minItems"] = json!(1);
    // Nobody else's client fills these, so unknown keys in them are refused.
    for schema in ["ReasoningRequest", "BudgetRequest"] {
        schemas[schema]["additionalProperties"] = json!(false);
    }
}

/// A stream's body is a text; each of its events is a chunk.
fn event_stream(document: &mut Value) {
    if let Some(stream) = document.pointer_mut(&format!("{CHAT}/responses/200/content/text~1event-stream")) {
        stream["schema"] = json!({
            "type": "string",
            "description": "With `stream`: events of one `data:` line each, and comments of silence. Every line \
                            holds a `ChatChunk`, or an `ErrorBody` where the run fails after the head is out; the \
                            last one holds `[DONE]`.",
            "x-event-schema": {"$ref": "#/components/schemas/ChatChunk"},
        });
    }
}

/// What a status means, and the headers that come with it.
fn explain(status: &str, response: &mut Value) {
    let meaning = match status {
        "200" => "The answer",
        "400" => {
            "A field is missing, malformed, out of bounds, contradictory or not served, the conversation is longer \
             than the context, or the body is no JSON"
        }
        "404" => "No such model, or nothing at this path",
        "408" => "The request did not arrive in time",
        "413" => "The body is longer than the server reads",
        "415" => "The body is not declared as JSON",
        "429" => "Too many requests at once",
        "500" => "A fault of the server; the log has its cause under the request's id",
        "503" => "The model is loading, the server is stopping, or its engine has failed",
        "504" => "The deadline passed before there was any text; otherwise the best answer so far is given",
        "default" => "Any other failure, for example a method that is not served (405)",
        _ => "",
    };
    if response["description"].as_str().is_none_or(str::is_empty) {
        response["description"] = json!(meaning);
    }
    response["headers"]["x-request-id"] = json!({
        "description": "Names the request in the logs: the client's own id where it sent a plain one, else a new one.",
        "schema": {"type": "string"},
    });
    response["headers"]["openai-processing-ms"] = json!({
        "description": "Milliseconds from the request's arrival to the response's head.",
        "schema": {"type": "integer", "minimum": 0},
    });
    if matches!(status, "429" | "503") {
        response["headers"]["retry-after"] = json!({
            "description": "Seconds after which it is worth trying again, where the server can tell.",
            "schema": {"type": "integer", "minimum": 1},
        });
    }
    let in_vain = match status {
        "500" => "`false` where the model cannot take the request, and so not the next time either.",
        "504" => "`false`: clients that retry by themselves would spend the same budget again.",
        _ => return,
    };
    response["headers"]["x-should-retry"] = json!({
        "description": in_vain,
        "schema": {"type": "string", "enum": ["false"]},
    });
}

/// Puts examples beside the contents that they are of.
fn exemplify(response: &mut Value, examples: &Value) {
    for (kind, examples) in examples.as_object().into_iter().flatten() {
        if let Some(content) = response["content"].get_mut(kind) {
            content["examples"] = examples.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_of_a_field_that_exists() {
        let schemas = &crate::http::document()["components"]["schemas"];
        for (schema, field, values) in sets() {
            let property = &schemas[schema]["properties"][field];
            assert!(property["description"].is_string(), "{schema}.{field}");
            assert_eq!(property["enum"][0], values[0], "{schema}.{field}");
        }
    }

    #[test]
    fn a_parameter_says_what_it_is_where_nobody_names_it() {
        let schemas = &crate::http::document()["components"]["schemas"];
        for (name, default) in [
            ("branches", Some("16")),
            ("stop_confidence", Some("0.95")),
            ("stop", Some("`posterior`")),
            ("weighted", Some("true")),
            ("aggregate", None),
        ] {
            for schema in ["ReasoningRequest", "Parameters"] {
                let said = schemas[schema]["properties"][name]["description"].as_str().expect(name);
                let named = said.split_once(DEFAULT).map(|(_, value)| value);
                assert_eq!(named, default.map(|value| format!("{value}.")).as_deref(), "{said}");
                // The page reads the modes from here.
                assert!(said.starts_with("Of "), "{said}");
            }
        }
        for spec in PARAMETERS {
            let said = schemas["ReasoningRequest"]["properties"][spec.name]["description"].as_str();
            assert_eq!(
                said.map(|said| said.contains(DEFAULT)),
                Some(spec.default.is_some()),
                "{}",
                spec.name
            );
        }
    }

    #[test]
    fn every_field_is_described() {
        let schemas = crate::http::document()["components"]["schemas"].as_object().expect("schemas");
        for (name, schema) in schemas {
            assert!(schema["description"].is_string() || schema["oneOf"].is_array(), "{name}");
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                let described = property["description"].is_string()
                    || property["oneOf"].as_array().is_some_and(|of| of[0]["description"].is_string());
                assert!(described, "{name}.{field}: {property}");
                assert!(property.get("enum").is_none_or(Value::is_array), "{name}.{field}: {property}");
            }
        }
    }

    #[test]
    fn a_503_says_what_it_means_at_its_path() {
        let paths = &crate::http::document()["paths"];
        let meaning = |path: &str, method: &str| {
            paths[path][method]["responses"]["503"]["description"].as_str().expect(path)
        };
        let (health, ready) = (meaning("/health", "get"), meaning("/ready", "get"));
        // Loading and stopping are no reason to start the server anew.
        assert!(
            health.contains("An engine has died") && health.contains("the reward model's engine"),
            "{health}"
        );
        assert!(!health.contains("loading") && !health.contains("stopping"), "{health}");
        assert!(
            ready.contains("loading") && ready.contains("stopping") && ready.contains("step failed"),
            "{ready}"
        );
        for path in ["/v1/models", "/v1/models/{id}"] {
            assert_eq!(
                meaning(path, "get"),
                "The model is loading",
                "it is listed whatever becomes of its engine"
            );
        }
        assert!(meaning("/v1/chat/completions", "post").contains("its engine has failed"));
    }

    #[test]
    fn the_recording_is_json_and_has_every_status() {
        let examples: Value = serde_json::from_str(EXAMPLES).expect("JSON");
        let chat = crate::http::document().pointer(CHAT).expect("the operation");
        for (status, response) in chat["responses"].as_object().expect("responses") {
            for (kind, content) in response["content"].as_object().into_iter().flatten() {
                assert!(content["examples"].is_object(), "{status} {kind}");
            }
        }
        assert!(examples["requests"].as_object().is_some_and(|requests| requests.len() >= 5));
    }
}
