//! The envelope of every error.

use super::{ApiError, FieldError};
use crate::engine::EngineError;
use crate::plan::PlanError;
use crate::prompt::PromptError;
use crate::search::run::RunError;
use axum::response::IntoResponse;
use serde_json::{Value, json};

type Row = (ApiError, u16, &'static str, Option<&'static str>, Option<&'static str>, &'static str);

fn rows() -> Vec<Row> {
    let invalid = "invalid_request_error";
    let server = "server_error";
    let (unavailable, overloaded) = ("service_unavailable_error", Some("server_is_overloaded"));
    let overflow = "This model's maximum context length is 256 tokens. However, your messages resulted in 300 \
                    tokens. Please reduce the length of the messages. (context_length_exceeded)";
    let exceeded = Some("context_length_exceeded");
    let field = FieldError {
        param: "messages[2].content[0].type".to_owned(),
        code: "missing_required_parameter",
        message: "Missing required parameter: 'messages[2].content[0].type'.".to_owned(),
    };
    let engine = |error: EngineError| ApiError::Run(RunError::Engine(error));
    let plan = ApiError::Plan;
    let prompt = |error: PromptError| ApiError::Plan(PlanError::Prompt(error));
    let method = "DELETE".to_owned();
    let path = "/v1/x".to_owned();
    vec![
        (
            ApiError::Field(field),
            400,
            invalid,
            Some("messages[2].content[0].type"),
            Some("missing_required_parameter"),
            "Missing required parameter: 'messages[2].content[0].type'.",
        ),
        (
            ApiError::Model("gpt-9".to_owned()),
            404,
            invalid,
            None,
            Some("model_not_found"),
            "The model `gpt-9` does not exist or you do not have access to it.",
        ),
        (
            ApiError::Json("at line 3".to_owned()),
            400,
            invalid,
            None,
            None,
            "We could not parse the JSON body of your request. (at line 3)",
        ),
        (
            ApiError::ContentType(Some("text/plain".to_owned())),
            415,
            invalid,
            None,
            Some("unsupported_content_type"),
            "'text/plain'",
        ),
        (ApiError::ContentType(None), 415, invalid, None, Some("unsupported_content_type"), "none"),
        (
            ApiError::TooLarge { limit: 4096 },
            413,
            invalid,
            None,
            Some("request_too_large"),
            "the limit of 4096 bytes",
        ),
        (ApiError::BodyRead, 400, invalid, None, None, "to its end"),
        (
            ApiError::Route { method: method.clone(), path: path.clone() },
            404,
            invalid,
            None,
            None,
            "Invalid URL (DELETE /v1/x)",
        ),
        (
            ApiError::Method { method, path },
            405,
            invalid,
            None,
            Some("method_not_supported"),
            "Not allowed to DELETE on /v1/x.",
        ),
        (
            ApiError::Unavailable,
            503,
            "service_unavailable_error",
            None,
            Some("server_is_overloaded"),
            "unavailable",
        ),
        (
            ApiError::ReadTimeout { seconds: 30.0 },
            408,
            invalid,
            None,
            Some("request_timeout"),
            "did not arrive within 30 s",
        ),
        (
            ApiError::Overloaded { retry_after: 7 },
            429,
            "rate_limit_error",
            None,
            Some("rate_limit_exceeded"),
            "try again in 7 s",
        ),
        (ApiError::Waited { seconds: 2.5 }, 504, server, None, Some("deadline_exceeded"), "of 2.5 s passed"),
        (
            ApiError::Loading { done: 3 << 20, total: 8 << 20 },
            503,
            unavailable,
            None,
            overloaded,
            "37 % (3.0 of 8.0 MiB)",
        ),
        (ApiError::Loading { done: 0, total: 0 }, 503, unavailable, None, overloaded, "still being loaded"),
        (ApiError::Draining, 503, unavailable, None, overloaded, "shutting down"),
        (ApiError::Stuck, 503, unavailable, None, overloaded, "has not finished a step"),
        (
            engine(EngineError::Busy { limit: 9 }),
            429,
            "rate_limit_error",
            None,
            Some("rate_limit_exceeded"),
            "try again in 1 s",
        ),
        (ApiError::Run(RunError::Shutdown), 503, unavailable, None, overloaded, "shutting down"),
        (ApiError::Internal("cause".to_owned()), 500, server, None, Some("server_error"), "The server had"),
        (
            plan(PlanError::ContextLength { tokens: 300, context: 256 }),
            400,
            invalid,
            Some("messages"),
            exceeded,
            overflow,
        ),
        (
            plan(PlanError::BudgetBelowChoices { field: "max_tokens", value: 2, n: 3 }),
            400,
            invalid,
            Some("max_tokens"),
            Some("integer_below_min_value"),
            "Expected a value >= 3, one for each of the n = 3 choices, but got 2 instead.",
        ),
        (
            plan(PlanError::Vocabulary { id: 700, vocab: 627 }),
            400,
            invalid,
            Some("logit_bias"),
            Some("invalid_value"),
            "Invalid key in 'logit_bias': 700. Expected a token id below 627",
        ),
        (
            plan(PlanError::Pool { needed: 9, blocks: 4 }),
            400,
            invalid,
            Some("messages"),
            exceeded,
            "need 9 blocks of KV memory, but this server has 4. Please reduce the length of the messages or \
             max_completion_tokens. (context_length_exceeded)",
        ),
        (
            prompt(PromptError::Refused("no two users".to_owned())),
            400,
            invalid,
            Some("messages"),
            Some("invalid_value"),
            "no two users",
        ),
        (prompt(PromptError::Template("cause".to_owned())), 500, server, None, Some("server_error"), "Sorry"),
        (
            prompt(PromptError::Tokenizer("cause".to_owned())),
            500,
            server,
            None,
            Some("server_error"),
            "Sorry",
        ),
        (
            engine(EngineError::Closed),
            503,
            "service_unavailable_error",
            None,
            Some("server_is_overloaded"),
            "unavailable",
        ),
        (
            engine(EngineError::Context { needed: 300, context: 256 }),
            400,
            invalid,
            Some("messages"),
            exceeded,
            overflow,
        ),
        (
            engine(EngineError::Pool { needed: 9, blocks: 4 }),
            400,
            invalid,
            Some("messages"),
            exceeded,
            "need 9 blocks",
        ),
        (engine(EngineError::Forward("cause".to_owned())), 500, server, None, Some("server_error"), "Sorry"),
        (engine(EngineError::Misuse("cause")), 500, server, None, Some("server_error"), "Sorry"),
        (
            ApiError::Run(RunError::Deadline { seconds: 1.5 }),
            504,
            server,
            None,
            Some("deadline_exceeded"),
            "The deadline of 1.5 s passed",
        ),
    ]
}

#[test]
fn every_failure_has_the_documented_envelope() {
    for (error, status, kind, param, code, message) in rows() {
        assert_eq!(error.status().as_u16(), status, "{error:?}");
        let body = serde_json::to_value(error.body()).expect("serialises");
        let text = body["error"]["message"].as_str().expect("a message");
        assert!(text.contains(message), "{error:?}: {text}");
        let expected = json!({"error": {"message": text, "type": kind, "param": param, "code": code}});
        assert_eq!(body, expected, "{error:?}");
    }
}

#[test]
fn internal_causes_are_not_sent() {
    for (error, status, ..) in rows() {
        if status == 500 {
            let text = serde_json::to_string(&error.body()).expect("serialises");
            assert!(!text.contains("cause"), "{text}");
        }
    }
}

#[test]
fn retries_are_hinted_at_where_they_help_and_forbidden_where_they_hurt() {
    let closed = ApiError::Run(RunError::Engine(EngineError::Closed)).into_response();
    assert_eq!(closed.headers()["retry-after"], "5");
    for (error, seconds) in [
        (ApiError::Overloaded { retry_after: 7 }, "7"),
        (ApiError::Loading { done: 0, total: 0 }, "5"),
        (ApiError::Draining, "5"),
    ] {
        assert_eq!(error.into_response().headers()["retry-after"], seconds);
    }
    assert_eq!(ApiError::ReadTimeout { seconds: 1.0 }.into_response().headers()["connection"], "close");
    let late = ApiError::Run(RunError::Deadline { seconds: 1.0 }).into_response();
    assert_eq!(late.headers()["x-should-retry"], "false");
    let engine = |error| ApiError::Run(RunError::Engine(error)).into_response();
    assert_eq!(engine(EngineError::Forward("cause".to_owned())).headers()["x-should-retry"], "false");
    assert!(engine(EngineError::Fault).headers().get("x-should-retry").is_none(), "others may be to blame");
    let field = ApiError::BodyRead.into_response();
    assert!(field.headers().get("x-should-retry").is_none());
    assert!(field.headers().get("retry-after").is_none());
}

#[test]
fn absent_param_and_code_are_null_and_not_left_out() {
    let body = serde_json::to_value(ApiError::BodyRead.body()).expect("serialises");
    assert_eq!(body["error"].as_object().map(serde_json::Map::len), Some(4));
    assert_eq!(body["error"]["param"], Value::Null);
    assert_eq!(body["error"]["code"], Value::Null);
}
