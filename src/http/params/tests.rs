//! Every rule about a request's fields.

use super::{Parsed, known};
use crate::engine::Priority;
use crate::http::error::ApiError;
use crate::http::json;
use crate::plan::{Effort, ModeName, PARAMETERS, Parameter, SamplingParams, Setting};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A valid request with some fields set.
fn with(fields: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let (Value::Object(body_map), Value::Object(fields)) = (&mut body, fields) else {
        panic!("fields are an object");
    };
    body_map.extend(fields);
    body
}

/// A body as it is read, from its text on.
fn parse(body: &Value, model: &str) -> Result<Parsed, ApiError> {
    super::parse(&json::parse(body.to_string().as_bytes())?, model)
}

fn accept(fields: Value) -> Parsed {
    let body = with(fields);
    parse(&body, "m").unwrap_or_else(|error| panic!("{body}: {error:?}"))
}

/// Asserts the envelope and that the message holds every one of `said`.
fn refuse(body: &Value, param: &str, code: &str, said: &[&str]) {
    let error = parse(body, "m").expect_err("refused");
    assert_eq!(error.status(), 400, "{body}");
    let envelope = error.body().error;
    assert_eq!(envelope.param.as_deref(), Some(param), "{body}: {}", envelope.message);
    assert_eq!(envelope.code.as_deref(), Some(code), "{body}: {}", envelope.message);
    for said in said {
        assert!(envelope.message.contains(said), "{body}: {} lacks {said}", envelope.message);
    }
}

const MISSING: &str = "missing_required_parameter";
const TYPE: &str = "invalid_type";
const VALUE: &str = "invalid_value";
const LOW: &str = "integer_below_min_value";
const HIGH: &str = "integer_above_max_value";
const UNSERVED: &str = "unsupported_parameter";
const UNKNOWN: &str = "unknown_parameter";

#[test]
fn scalar_fields() {
    let rows = [
        (json!({"n": 0}), "n", LOW, [">= 1", "0"]),
        (json!({"n": -1}), "n", LOW, [">= 1", "-1"]),
        (json!({"n": 129}), "n", HIGH, ["<= 128", "129"]),
        (json!({"n": 1.5}), "n", TYPE, ["an integer", "a decimal number"]),
        (json!({"n": "2"}), "n", TYPE, ["an integer", "a string"]),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", LOW, [">= 1", "0"]),
        (json!({"max_completion_tokens": -678}), "max_completion_tokens", LOW, [">= 1", "-678"]),
        (json!({"max_tokens": 0}), "max_tokens", LOW, [">= 1", "0"]),
        (json!({"max_tokens": -678}), "max_tokens", LOW, [">= 1", "-678"]),
        (json!({"max_tokens": "many"}), "max_tokens", TYPE, ["an integer", "a string"]),
        (
            json!({"max_tokens": 0, "max_completion_tokens": 5}),
            "max_tokens",
            LOW,
            ["'max_tokens'", "instead"],
        ),
        (json!({"temperature": 2.1}), "temperature", "decimal_above_max_value", ["<= 2", "2.1"]),
        (json!({"temperature": -0.1}), "temperature", "decimal_below_min_value", [">= 0", "-0.1"]),
        (json!({"temperature": "hot"}), "temperature", TYPE, ["a decimal number", "a string"]),
        (json!({"top_p": 1.01}), "top_p", "decimal_above_max_value", ["<= 1", "1.01"]),
        (json!({"top_p": -1}), "top_p", "decimal_below_min_value", [">= 0", "-1"]),
        (json!({"top_k": -2}), "top_k", LOW, [">= -1", "-2"]),
        (json!({"top_k": 1.5}), "top_k", TYPE, ["an integer", "a decimal number"]),
        (json!({"min_p": 1.1}), "min_p", "decimal_above_max_value", ["<= 1", "1.1"]),
        (json!({"min_p": -0.1}), "min_p", "decimal_below_min_value", [">= 0", "-0.1"]),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "decimal_below_min_value", ["> 0", "got 0"]),
        (
            json!({"repetition_penalty": -1.5}),
            "repetition_penalty",
            "decimal_below_min_value",
            ["> 0", "-1.5"],
        ),
        (
            json!({"repetition_penalty": 10.5}),
            "repetition_penalty",
            "decimal_above_max_value",
            ["<= 10", "10.5"],
        ),
        (json!({"repetition_penalty": "x"}), "repetition_penalty", TYPE, ["a decimal number", "a string"]),
        (json!({"presence_penalty": 2.5}), "presence_penalty", "decimal_above_max_value", ["<= 2", "2.5"]),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "decimal_below_min_value", [">= -2", "-3"]),
        (json!({"frequency_penalty": 3}), "frequency_penalty", "decimal_above_max_value", ["<= 2", "got 3"]),
        (json!({"logit_bias": [1]}), "logit_bias", TYPE, ["an object", "an array"]),
        (json!({"logit_bias": {"x": 1}}), "logit_bias", VALUE, ["'x'", "no token id"]),
        (json!({"logit_bias": {"05": 1}}), "logit_bias", VALUE, ["'05'", "no token id"]),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias", VALUE, ["'-1'", "no token id"]),
        (json!({"logit_bias": {"4294967296": 1}}), "logit_bias", VALUE, ["'4294967296'", "no token id"]),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5", "decimal_above_max_value", ["<= 100", "101"]),
        (
            json!({"logit_bias": {"5": -100.5}}),
            "logit_bias.5",
            "decimal_below_min_value",
            [">= -100", "-100.5"],
        ),
        (json!({"logit_bias": {"5": null}}), "logit_bias.5", TYPE, ["a decimal number", "null"]),
        (json!({"seed": 1u64 << 63}), "seed", HIGH, ["<= 9223372036854775807", "9223372036854775808"]),
        (json!({"seed": 1e30}), "seed", HIGH, ["<= 9223372036854775807", "got 1e+30"]),
        (json!({"seed": -1e30}), "seed", LOW, [">= -9223372036854775808", "-1e"]),
        (json!({"seed": 1.5}), "seed", TYPE, ["an integer", "a decimal number"]),
        (json!({"seed": true}), "seed", TYPE, ["an integer", "a boolean"]),
        (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs", HIGH, ["<= 20", "21"]),
        (json!({"top_logprobs": -1, "logprobs": true}), "top_logprobs", LOW, [">= 0", "-1"]),
        (json!({"top_logprobs": 2}), "top_logprobs", VALUE, ["2", "'logprobs'"]),
        (json!({"top_logprobs": -1}), "top_logprobs", LOW, [">= 0", "-1"]),
        (json!({"max_tokens": 100.5}), "max_tokens", TYPE, ["an integer", "a decimal number"]),
        (json!({"max_tokens": 0.0}), "max_tokens", LOW, [">= 1", "0.0"]),
        (json!({"n": 129.0}), "n", HIGH, ["<= 128", "129.0"]),
        (json!({"seed": 9_007_199_254_740_994.0}), "seed", TYPE, ["an integer", "a decimal number"]),
        (json!({"top_logprobs": 2, "logprobs": false}), "top_logprobs", VALUE, ["2", "'logprobs'"]),
        (json!({"logprobs": 3}), "logprobs", TYPE, ["a boolean", "an integer"]),
        (json!({"stream": "yes"}), "stream", TYPE, ["a boolean", "a string"]),
        (json!({"stop": ""}), "stop", "empty_string", ["minimum length 1", "'stop'"]),
        (json!({"stop": ["a", ""]}), "stop[1]", "empty_string", ["minimum length 1", "'stop[1]'"]),
        (json!({"stop": ["a", null]}), "stop[1]", TYPE, ["a string", "null"]),
        (json!({"stop": ["a", 5]}), "stop[1]", TYPE, ["a string", "an integer"]),
        (
            json!({"stop": ["a", "b", "c", "d", "e"]}),
            "stop",
            "array_above_max_length",
            ["length 4", "length 5"],
        ),
        (json!({"stop": 3}), "stop", TYPE, ["a string or an array of strings", "an integer"]),
        (json!({"stream_options": {}}), "stream_options", VALUE, ["'stream'", "true"]),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
            VALUE,
            ["only allowed", "'stream'"],
        ),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            TYPE,
            ["a boolean", "an integer"],
        ),
        (json!({"stream": true, "stream_options": 1}), "stream_options", TYPE, ["an object", "an integer"]),
        (json!({"stream": true, "stream_options": []}), "stream_options", TYPE, ["an object", "an array"]),
    ];
    for (fields, param, code, said) in rows {
        refuse(&with(fields), param, code, &said);
    }
}

#[test]
fn fields_that_are_not_served() {
    let rows = [
        (json!({"tools": [{"type": "function"}]}), "tools", UNSERVED),
        (json!({"tool_choice": "required"}), "tool_choice", UNSERVED),
        (json!({"tool_choice": {"type": "function"}}), "tool_choice", UNSERVED),
        (json!({"functions": []}), "functions", UNSERVED),
        (json!({"function_call": {"name": "f"}}), "function_call", UNSERVED),
        (json!({"audio": {}}), "audio", UNSERVED),
        (json!({"web_search_options": {}}), "web_search_options", UNSERVED),
        (json!({"moderation": {}}), "moderation", UNSERVED),
        (json!({"modalities": ["text", "audio"]}), "modalities", UNSERVED),
        (json!({"modalities": [1]}), "modalities[0]", TYPE),
        (json!({"response_format": {"type": "json_object"}}), "response_format", UNSERVED),
        (json!({"response_format": {"type": "json_schema"}}), "response_format", UNSERVED),
        (json!({"response_format": {"type": "xml"}}), "response_format.type", VALUE),
        (json!({"response_format": {}}), "response_format.type", MISSING),
        (json!({"response_format": "text"}), "response_format", TYPE),
        (json!({"structured_outputs": {"json": {}}}), "structured_outputs", UNSERVED),
        (json!({"guided_json": {}}), "guided_json", UNSERVED),
        (json!({"guided_regex": "a+"}), "guided_regex", UNSERVED),
        (json!({"guided_choice": ["a", "b"]}), "guided_choice", UNSERVED),
        (json!({"guided_grammar": "root ::= x"}), "guided_grammar", UNSERVED),
        (json!({"min_tokens": 5}), "min_tokens", UNSERVED),
        (json!({"ignore_eos": true}), "ignore_eos", UNSERVED),
        (json!({"stop_token_ids": [2]}), "stop_token_ids", UNSERVED),
        (json!({"bad_words": ["x"]}), "bad_words", UNSERVED),
        (json!({"allowed_token_ids": [1, 2]}), "allowed_token_ids", UNSERVED),
        (json!({"chat_template": "{{ x }}"}), "chat_template", UNSERVED),
        (json!({"documents": [{"text": "x"}]}), "documents", UNSERVED),
        (json!({"truncate_prompt_tokens": -1}), "truncate_prompt_tokens", UNSERVED),
        (json!({"continue_final_message": true}), "continue_final_message", UNSERVED),
        (json!({"add_generation_prompt": false}), "add_generation_prompt", UNSERVED),
        (json!({"thinking_token_budget": 64}), "thinking_token_budget", UNSERVED),
        (json!({"echo": true}), "echo", UNSERVED),
        (json!({"include_stop_str_in_output": true}), "include_stop_str_in_output", UNSERVED),
        (json!({"use_beam_search": true}), "use_beam_search", UNSERVED),
    ];
    for (fields, param, code) in rows {
        refuse(&with(fields), param, code, &[&format!("'{param}'")]);
    }
}

#[test]
fn fields_without_effect_keep_their_bounds() {
    let pairs: Map<String, Value> = (0..17).map(|i| (i.to_string(), json!(""))).collect();
    let long_key = "k".repeat(65);
    let rows = [
        (json!({"service_tier": "gold"}), "service_tier", VALUE, ["'gold'", "'auto', 'default', 'flex'"]),
        (json!({"verbosity": "loud"}), "verbosity", VALUE, ["'loud'", "'low', 'medium', and 'high'"]),
        (json!({"user": 1}), "user", TYPE, ["a string", "an integer"]),
        (json!({"store": "no"}), "store", TYPE, ["a boolean", "a string"]),
        (json!({"metadata": pairs}), "metadata", "object_above_max_properties", ["16", "17"]),
        (json!({"metadata": {"a": 1}}), "metadata.a", TYPE, ["a string", "an integer"]),
        (
            json!({"metadata": {"a": "v".repeat(513)}}),
            "metadata.a",
            "string_above_max_length",
            ["512", "513"],
        ),
        (
            json!({"metadata": {long_key: ""}}),
            &format!("metadata.{}…", "k".repeat(64)),
            "string_above_max_length",
            ["64", "65"],
        ),
    ];
    for (fields, param, code, said) in rows {
        refuse(&with(fields), param, code, &said);
    }
}

#[test]
fn reasoning() {
    let efforts = "'none', 'minimal', 'low', 'medium', 'high', 'xhigh', and 'max'";
    let modes = "'standard', 'pro', 'direct', 'cot', 'self_consistency', 'best_of_n', 'beam', 'lookahead', 'mcts', and 'auto'";
    let rows = [
        (json!({"reasoning_effort": "ultra"}), "reasoning_effort", VALUE, ["'ultra'", efforts]),
        (json!({"reasoning_effort": 3}), "reasoning_effort", TYPE, ["a string", "an integer"]),
        (json!({"reasoning": {"effort": "ultra"}}), "reasoning.effort", VALUE, ["'ultra'", efforts]),
        (json!({"reasoning": "high"}), "reasoning", TYPE, ["an object", "a string"]),
        (json!({"reasoning": {"mode": "guess"}}), "reasoning.mode", VALUE, ["'guess'", modes]),
        (
            json!({"reasoning": {"efort": "low"}}),
            "reasoning.efort",
            UNKNOWN,
            ["Unknown", "'reasoning.efort'"],
        ),
        (json!({"reasoning": {"branches": 0}}), "reasoning.branches", LOW, [">= 1", "0"]),
        (json!({"reasoning": {"branches": 257}}), "reasoning.branches", HIGH, ["<= 256", "257"]),
        (json!({"reasoning": {"exclude": 1}}), "reasoning.exclude", TYPE, ["a boolean", "an integer"]),
        (
            json!({"reasoning": {"summary": "long"}}),
            "reasoning.summary",
            VALUE,
            ["'long'", "'auto', 'concise'"],
        ),
        (
            json!({"reasoning": {"generate_summary": "long"}}),
            "reasoning.generate_summary",
            VALUE,
            ["'long'", "'auto', 'concise'"],
        ),
        (
            json!({"reasoning": {"context": "none"}}),
            "reasoning.context",
            VALUE,
            ["'none'", "'auto', 'current_turn', and 'all_turns'"],
        ),
        (json!({"reasoning": {"enabled": "no"}}), "reasoning.enabled", TYPE, ["a boolean", "a string"]),
        (
            json!({"reasoning": {"enabled": false, "effort": "low"}}),
            "reasoning.enabled",
            VALUE,
            ["false", "'reasoning.effort', which is 'low'"],
        ),
        (json!({"chat_template_kwargs": [true]}), "chat_template_kwargs", TYPE, ["an object", "an array"]),
        (
            json!({"chat_template_kwargs": {"enable_thinking": "off"}}),
            "chat_template_kwargs.enable_thinking",
            TYPE,
            ["a boolean", "a string"],
        ),
        (
            json!({"reasoning_effort": "high", "chat_template_kwargs": {"thinking": false}}),
            "chat_template_kwargs.thinking",
            VALUE,
            ["'reasoning_effort'", "'high'"],
        ),
        (json!({"enable_thinking": "off"}), "enable_thinking", TYPE, ["a boolean", "a string"]),
        (json!({"thinking": false}), "thinking", TYPE, ["an object", "a boolean"]),
        (
            json!({"thinking": {"type": "off"}}),
            "thinking.type",
            VALUE,
            ["'off'", "'enabled', 'disabled', 'adaptive', and 'auto'"],
        ),
        (
            json!({"reasoning_effort": "high", "thinking": {"type": "disabled"}}),
            "thinking.type",
            VALUE,
            ["'disabled' contradicts", "'reasoning_effort', which is 'high'"],
        ),
        (
            json!({"enable_thinking": false, "reasoning": {"effort": "low"}}),
            "enable_thinking",
            VALUE,
            ["false contradicts", "'reasoning.effort', which is 'low'"],
        ),
        (
            json!({"reasoning": {"enabled": false, "mode": "mcts"}}),
            "reasoning.enabled",
            VALUE,
            ["false contradicts", "'reasoning.mode', which is 'mcts'"],
        ),
        (
            json!({"chat_template_kwargs": {"enable_thinking": false}, "reasoning": {"mode": "pro"}}),
            "chat_template_kwargs.enable_thinking",
            VALUE,
            ["false contradicts", "'reasoning.mode', which is 'pro'"],
        ),
        (
            json!({"include_reasoning": false, "reasoning": {"exclude": false}}),
            "include_reasoning",
            VALUE,
            ["false contradicts", "'reasoning.exclude', which is false"],
        ),
        (json!({"include_reasoning": 0}), "include_reasoning", TYPE, ["a boolean", "an integer"]),
        (
            json!({"reasoning_effort": "high", "reasoning": {"enabled": false}}),
            "reasoning.enabled",
            VALUE,
            ["false", "'reasoning_effort', which is 'high'"],
        ),
        (json!({"reasoning": {"width": 8.5}}), "reasoning.width", TYPE, ["an integer", "a decimal number"]),
        (json!({"reasoning": {"max_tokens": 0}}), "reasoning.max_tokens", LOW, [">= 1", "0"]),
        (json!({"reasoning": {"budget": 5}}), "reasoning.budget", TYPE, ["an object", "an integer"]),
        (
            json!({"reasoning": {"budget": {"token": 5}}}),
            "reasoning.budget.token",
            UNKNOWN,
            ["Unknown", "token"],
        ),
        (json!({"reasoning": {"budget": {"tokens": 0}}}), "reasoning.budget.tokens", LOW, [">= 1", "0"]),
        (json!({"reasoning": {"budget": {"branches": 0}}}), "reasoning.budget.branches", LOW, [">= 1", "0"]),
        (
            json!({"reasoning": {"budget": {"branches": -2}}}),
            "reasoning.budget.branches",
            LOW,
            [">= 1", "-2"],
        ),
        (
            json!({"reasoning": {"budget": {"verifier_tokens": -1}}}),
            "reasoning.budget.verifier_tokens",
            LOW,
            [">= 0", "-1"],
        ),
        (
            json!({"reasoning": {"budget": {"answer_reserve": -1}}}),
            "reasoning.budget.answer_reserve",
            LOW,
            [">= 0", "-1"],
        ),
        (
            json!({"reasoning": {"budget": {"answer_reserve": 300, "tokens": 300}}}),
            "reasoning.budget.answer_reserve",
            HIGH,
            ["<= 299, less than the 300 tokens that a choice may spend", "got 300"],
        ),
        (
            json!({"n": 3, "reasoning": {"budget": {"answer_reserve": 16, "tokens": 50}}}),
            "reasoning.budget.answer_reserve",
            HIGH,
            ["<= 15, less than the 16", "got 16"],
        ),
        (
            json!({"max_tokens": 20, "reasoning": {"budget": {"answer_reserve": 1u64 << 40, "tokens": 50}}}),
            "reasoning.budget.answer_reserve",
            HIGH,
            ["<= 19, less than the 20", "got 1099511627776"],
        ),
        (
            json!({"max_completion_tokens": 1, "reasoning": {"budget": {"answer_reserve": 1}}}),
            "reasoning.budget.answer_reserve",
            HIGH,
            ["<= 0, less than the 1", "got 1"],
        ),
        (
            json!({"reasoning": {"budget": {"seconds": 0}}}),
            "reasoning.budget.seconds",
            "decimal_below_min_value",
            ["> 0", "got 0"],
        ),
        (
            json!({"reasoning": {"budget": {"seconds": -3}}}),
            "reasoning.budget.seconds",
            "decimal_below_min_value",
            ["> 0", "got -3"],
        ),
        (
            json!({"reasoning_effort": "low", "reasoning": {"effort": "high"}}),
            "reasoning.effort",
            VALUE,
            ["'high'", "'low'"],
        ),
        (
            json!({"reasoning": {"max_tokens": 5, "budget": {"tokens": 6}}}),
            "reasoning.max_tokens",
            VALUE,
            ["5", "6"],
        ),
    ];
    for (fields, param, code, said) in rows {
        refuse(&with(fields), param, code, &said);
    }
}

#[test]
fn messages() {
    let text = |content: Value| json!([{"role": "user", "content": content}]);
    let path = "messages[0].content[0].type";
    let rows = [
        (json!([]), "messages", "empty_array"),
        (json!("hi"), "messages", TYPE),
        (json!([1]), "messages[0]", TYPE),
        (json!([{"content": "hi"}]), "messages[0].role", MISSING),
        (json!([{"role": "robot", "content": "hi"}]), "messages[0].role", VALUE),
        (json!([{"role": "user"}]), "messages[0].content", MISSING),
        (json!([{"role": "user", "content": null}]), "messages[0].content", MISSING),
        (json!([{"role": "assistant", "content": null}]), "messages[0].content", MISSING),
        (json!([{"role": "function"}]), "messages[0].content", MISSING),
        (text(json!(1)), "messages[0].content", TYPE),
        (text(json!([])), "messages[0].content", "empty_array"),
        (text(json!(["hi"])), "messages[0].content[0]", TYPE),
        (text(json!([{"text": "hi"}])), path, MISSING),
        (text(json!([{"type": "text"}])), "messages[0].content[0].text", MISSING),
        (text(json!([{"type": "text", "text": 1}])), "messages[0].content[0].text", TYPE),
        (text(json!([{"type": "poem", "text": "hi"}])), path, VALUE),
        (text(json!([{"type": "refusal", "refusal": "no"}])), path, VALUE),
        (text(json!([{"type": "image_url", "image_url": {}}])), path, "unsupported_value"),
        (text(json!([{"type": "input_audio"}])), path, "unsupported_value"),
        (json!([{"role": "user", "content": "x", "name": {}}]), "messages[0].name", TYPE),
        (json!([{"role": "tool", "content": "x", "tool_call_id": 1}]), "messages[0].tool_call_id", TYPE),
        (
            json!([{"role": "assistant", "content": null, "tool_calls": [{}]}]),
            "messages[0].tool_calls",
            UNSERVED,
        ),
        (
            json!([{"role": "assistant", "function_call": {"name": "f"}}]),
            "messages[0].function_call",
            UNSERVED,
        ),
    ];
    for (messages, param, code) in rows {
        refuse(&with(json!({"messages": messages})), param, code, &[&format!("'{param}'")]);
    }
    let second = json!([{"role": "user", "content": "hi"}, {"role": "user", "content": [{"type": "text", "text": ""}, {}]}]);
    refuse(&with(json!({"messages": second})), "messages[1].content[1].type", MISSING, &[]);
    refuse(&with(json!({"messages": []})), "messages", "empty_array", &["minimum length 1", "empty array"]);
    refuse(&with(json!({"messages": "hi"})), "messages", TYPE, &["an array of objects", "a string"]);
    refuse(&with(json!({"messages": [7]})), "messages[0]", TYPE, &["an object", "an integer"]);
    let content = "messages[0].content";
    refuse(
        &with(json!({"messages": text(json!(7))})),
        content,
        TYPE,
        &["a string or an array", "an integer"],
    );
    let king = json!([{"role": "king", "content": "x"}]);
    refuse(&with(json!({"messages": king})), "messages[0].role", VALUE, &["'king'", "'assistant'"]);
    refuse(&with(json!({"messages": null})), "messages", MISSING, &["Missing", "'messages'"]);
    refuse(&with(json!({"model": null})), "model", MISSING, &["Missing", "'model'"]);
    let format = json!({"response_format": {"type": "json_object"}});
    refuse(&with(format), "response_format", UNSERVED, &["response_format", "text"]);
    refuse(&with(json!({"tools": [{}]})), "tools", UNSERVED, &["tools", "not supported"]);
    refuse(&json!({"model": "m"}), "messages", MISSING, &["'messages'"]);
    refuse(&json!({"messages": []}), "model", MISSING, &["'model'"]);
    refuse(&with(json!({"model": 4})), "model", TYPE, &["a string"]);
}

#[test]
fn roles_and_contents_are_read() {
    let parsed = accept(json!({"messages": [
        {"role": "developer", "content": "d"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "text", "text": "v"}], "name": "x"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "r"}], "tool_calls": []},
        {"role": "assistant", "content": null, "refusal": "no"},
        {"role": "tool", "content": "t", "tool_call_id": "1"},
        {"role": "function", "content": null, "name": "f"}
    ]}));
    let read: Vec<(&str, &str)> =
        parsed.params.messages.iter().map(|message| (message.role, message.content.as_str())).collect();
    let expected = vec![
        ("system", "d"),
        ("system", "s"),
        ("user", "u\nv"),
        ("assistant", "r"),
        ("assistant", "no"),
        ("tool", "t"),
        ("tool", ""),
    ];
    assert_eq!(read, expected);
}

#[test]
fn other_models_do_not_exist() {
    let error = parse(&with(json!({"model": "gpt-9"})), "m").expect_err("unknown");
    assert_eq!(error, ApiError::Model("gpt-9".to_owned()));
}

#[test]
fn bodies_that_are_no_objects_are_not_parsed() {
    for body in [json!([]), json!(null), json!("x"), json!(1)] {
        assert!(matches!(parse(&body, "m"), Err(ApiError::Json(_))), "{body}");
    }
}

#[test]
fn null_means_omitted() {
    let bare = accept(json!({}));
    let nulls: Map<String, Value> = known()
        .filter(|key| !["model", "messages"].contains(key))
        .map(|key| (key.to_owned(), Value::Null))
        .collect();
    assert_eq!(accept(Value::Object(nulls)), bare);
    let keys = super::reasoning::KEYS.into_iter().chain(["branches"]);
    let nulls: Map<String, Value> = keys.map(|key| (key.to_owned(), Value::Null)).collect();
    assert_eq!(accept(json!({"reasoning": nulls})), bare);
    assert_eq!(bare.params.n, 1);
    assert_eq!(bare.params.temperature, None);
    assert_eq!(bare.params.logprobs, None);
    assert!(!bare.stream && !bare.include_usage && !bare.include_search && !bare.exclude);
    assert!(bare.ignored.is_empty());
}

#[test]
fn values_arrive() {
    let parsed = accept(json!({
        "n": 128, "temperature": 2, "top_p": 0.5, "seed": i64::MIN, "stop": ["a", "b"],
        "max_tokens": 7, "max_completion_tokens": 9, "logprobs": true, "top_logprobs": 20,
        "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.25, "frequency_penalty": -0.5,
        "presence_penalty": 2, "logit_bias": {"7": -100, "0": 0.5},
        "stream": true, "stream_options": {"include_usage": true, "include_search": true},
        "reasoning_effort": "xhigh",
        "reasoning": {
            "effort": "xhigh", "mode": "cot", "branches": 256, "exclude": true, "summary": "auto",
            "max_tokens": 30,
            "budget": {
                "tokens": 30, "seconds": 0.25, "branches": 4, "verifier_tokens": 0, "answer_reserve": 8
            }
        }
    }));
    let params = &parsed.params;
    assert_eq!(params.n, 128);
    assert_eq!(params.temperature, Some(2.0));
    assert_eq!(params.top_p, Some(0.5));
    let sampling = SamplingParams {
        top_k: Some(40),
        min_p: Some(0.05),
        repetition_penalty: Some(1.25),
        frequency_penalty: -0.5,
        presence_penalty: 2.0,
        logit_bias: vec![(7, -100.0), (0, 0.5)],
    };
    assert_eq!(params.sampling, sampling);
    assert_eq!(params.seed, Some(i64::MIN));
    assert_eq!(params.stop, ["a", "b"]);
    assert_eq!(params.max_completion_tokens.map(u32::from), Some(9));
    assert_eq!(params.logprobs, Some(20));
    assert_eq!(params.effort, Some(Effort::Xhigh));
    assert_eq!(params.mode, Some(ModeName::Cot));
    assert_eq!(params.settings.get(Parameter::Branches), Some(Setting::Count(256)));
    assert_eq!(params.budget.tokens.map(u32::from), Some(30));
    assert_eq!(params.budget.seconds, Some(0.25));
    assert_eq!(params.budget.branches.map(u32::from), Some(4));
    assert_eq!(params.budget.verifier_tokens, Some(0));
    assert_eq!(params.budget.answer_reserve, Some(8));
    assert!(parsed.stream && parsed.include_usage && parsed.include_search && parsed.exclude);
}

#[test]
fn aliases_and_edges() {
    assert_eq!(accept(json!({"max_tokens": 7})).params.max_completion_tokens.map(u32::from), Some(7));
    let huge = accept(json!({"max_tokens": 1u64 << 40})).params.max_completion_tokens;
    assert_eq!(huge.map(u32::from), Some(u32::MAX), "clamped, not refused");
    assert_eq!(accept(json!({"stop": "x"})).params.stop, ["x"]);
    assert_eq!(accept(json!({"logprobs": true})).params.logprobs, Some(0));
    assert_eq!(accept(json!({"logprobs": false})).params.logprobs, None);
    for off in [-1, 0] {
        assert_eq!(accept(json!({"top_k": off})).params.sampling.top_k, Some(0));
    }
    assert_eq!(accept(json!({"top_k": 1u64 << 40})).params.sampling.top_k, Some(u32::MAX));
    let greedy = accept(json!({"top_p": 0})).params.top_p;
    assert_eq!(greedy, Some(f32::MIN_POSITIVE), "sampling needs some mass");
    let budget = accept(json!({"reasoning": {"max_tokens": 30}})).params.budget;
    assert_eq!((budget.tokens.map(u32::from), budget.by_max_tokens), (Some(30), true));
    let both = accept(json!({"reasoning": {"max_tokens": 30, "budget": {"tokens": 30}}})).params.budget;
    assert!(!both.by_max_tokens, "either name would do");
    // Only the request's own bounds can be contradicted.
    let reserve = |own| accept(json!({"max_tokens": own, "reasoning": {"budget": {"answer_reserve": 299}}}));
    assert_eq!(reserve(json!(null)).params.budget.answer_reserve, Some(299));
    assert_eq!(reserve(json!(300)).params.budget.answer_reserve, Some(299));
    let inner = accept(json!({"reasoning": {"effort": "none"}})).params.effort;
    assert_eq!(inner, Some(Effort::None));
    for mode in ModeName::ALL {
        assert_eq!(accept(json!({"reasoning": {"mode": mode.name()}})).params.mode, Some(mode));
    }
    for effort in Effort::ALL {
        assert_eq!(accept(json!({"reasoning_effort": effort.name()})).params.effort, Some(effort));
    }
}

#[test]
fn what_other_servers_clients_send_by_default_is_as_if_it_were_absent() {
    let bare = accept(json!({}));
    for fields in [
        json!({"stop": []}),
        json!({"logprobs": false, "top_logprobs": 0}),
        json!({"top_logprobs": 0}),
        json!({"reasoning": {"enabled": true}}),
        json!({"reasoning": {"generate_summary": "auto"}}),
        json!({"reasoning": {"context": "auto"}}),
        json!({"reasoning": {"generate_summary": "detailed", "context": "all_turns", "summary": "concise"}}),
        json!({"seed": -1}),
        json!({"include_reasoning": true, "enable_thinking": true}),
        json!({"thinking": {"type": "enabled"}}),
        json!({"thinking": {"type": "adaptive"}}),
        json!({"thinking": {}}),
        json!({"min_tokens": 0, "ignore_eos": false, "stop_token_ids": [], "bad_words": [], "echo": false}),
        json!({"min_tokens": 0.0, "allowed_token_ids": [], "documents": [], "use_beam_search": false}),
        json!({"add_generation_prompt": true, "continue_final_message": false}),
        json!({"include_stop_str_in_output": false}),
    ] {
        assert_eq!(accept(fields.clone()), bare, "{fields}");
    }
}

#[test]
fn reasoning_that_is_not_enabled_is_the_effort_none() {
    let effort = |fields: Value| accept(fields).params.effort;
    assert_eq!(effort(json!({"reasoning": {"enabled": false}})), Some(Effort::None));
    assert_eq!(effort(json!({"reasoning": {"enabled": false, "effort": "none"}})), Some(Effort::None));
    let top = json!({"reasoning_effort": "none", "reasoning": {"enabled": false}});
    assert_eq!(effort(top), Some(Effort::None));
    assert_eq!(effort(json!({"reasoning": {"enabled": true, "effort": "low"}})), Some(Effort::Low));
    let top = json!({"reasoning_effort": "high", "reasoning": {"enabled": true}});
    assert_eq!(effort(top), Some(Effort::High));
    for mode in ["standard", "direct"] {
        assert_eq!(effort(json!({"reasoning": {"enabled": false, "mode": mode}})), Some(Effort::None));
    }
    assert_eq!(effort(json!({"enable_thinking": false})), Some(Effort::None));
    assert_eq!(effort(json!({"thinking": {"type": "disabled"}})), Some(Effort::None));
    let other = accept(json!({"thinking": {"type": "disabled", "budget_tokens": 7}, "reasoning": {}}));
    assert_eq!(
        (other.params.effort, other.ignored),
        (Some(Effort::None), vec!["thinking.budget_tokens".into()])
    );
}

#[test]
fn reasoning_that_is_not_included_is_excluded() {
    let excluded = |fields: Value| accept(fields).exclude;
    assert!(excluded(json!({"include_reasoning": false})));
    assert!(excluded(json!({"include_reasoning": false, "reasoning": {}})));
    assert!(excluded(json!({"include_reasoning": false, "reasoning": {"exclude": true}})));
    assert!(excluded(json!({"include_reasoning": true, "reasoning": {"exclude": true}})));
}

#[test]
fn a_template_that_is_told_not_to_think_is_the_effort_none() {
    let told = |kwargs: Value, effort: Value| {
        accept(json!({"chat_template_kwargs": kwargs, "reasoning_effort": effort, "reasoning": {}}))
    };
    for switch in ["enable_thinking", "thinking"] {
        let off = accept(json!({"chat_template_kwargs": {switch: false}}));
        assert_eq!((off.params.effort, off.ignored), (Some(Effort::None), vec![]), "{switch}");
        assert_eq!(told(json!({switch: false}), json!("none")).params.effort, Some(Effort::None));
        assert_eq!(told(json!({switch: true}), json!("low")).params.effort, Some(Effort::Low));
        assert_eq!(told(json!({switch: true}), Value::Null).params.effort, None);
    }
    let other = told(json!({"enable_thinking": false, "depth": 3}), Value::Null);
    assert_eq!(other.params.effort, Some(Effort::None));
    assert_eq!(other.ignored, ["chat_template_kwargs.depth"]);
    assert_eq!(accept(json!({"chat_template_kwargs": null})).params.effort, None);
}

#[test]
fn whole_numbers_may_be_spelt_with_a_fraction_of_nothing() {
    let spelt = accept(json!({
        "max_tokens": 100.0, "n": 1.0, "seed": -42.0, "top_k": 40.0, "logprobs": true, "top_logprobs": 2e0,
        "reasoning": {"width": 8.0, "max_tokens": 3e2, "budget": {"branches": 4.0, "verifier_tokens": -0.0}}
    }));
    let plain = accept(json!({
        "max_tokens": 100, "n": 1, "seed": -42, "top_k": 40, "logprobs": true, "top_logprobs": 2,
        "reasoning": {"width": 8, "max_tokens": 300, "budget": {"branches": 4, "verifier_tokens": 0}}
    }));
    assert_eq!(spelt, plain);
    let most = accept(json!({"seed": 9_007_199_254_740_992.0})).params.seed;
    assert_eq!(most, Some(1 << 53), "the last one that no other shares its double with");
}

#[test]
fn fields_without_effect_change_nothing() {
    let parsed = accept(json!({
        "user": "u", "safety_identifier": "s", "store": true, "metadata": {"a": "b"},
        "service_tier": "auto", "verbosity": "high", "parallel_tool_calls": false,
        "prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {},
        "prediction": {"type": "content", "content": "x"}, "frequency_penalty": 0, "presence_penalty": 0.0,
        "logit_bias": {}, "response_format": {"type": "text"}, "modalities": ["text"],
        "tool_choice": "auto", "function_call": "none"
    }));
    assert_eq!(parsed, accept(json!({})));
}

#[test]
fn a_tier_is_a_priority_and_a_salt_is_kept() {
    let priority = |tier: &str| accept(json!({"service_tier": tier})).params.priority;
    assert_eq!(
        ["flex", "default", "scale"].map(priority),
        [Priority::Low, Priority::Normal, Priority::Normal]
    );
    assert_eq!(["priority", "fast"].map(priority), [Priority::High; 2]);
    let salted = accept(json!({"cache_salt": "tenant"})).params.cache_salt;
    assert_eq!(salted.as_deref(), Some("tenant"));
    for bad in [json!(""), json!("x".repeat(257)), json!(7)] {
        let error = parse(&with(json!({"cache_salt": bad})), "m").expect_err("refused").body().error;
        assert_eq!(error.param.as_deref(), Some("cache_salt"), "{}", error.message);
    }
}

#[test]
fn unknown_keys_are_listed_in_a_form_that_headers_can_carry() {
    let parsed = accept(json!({
        "top_q": 5, "a b\r\nx: é": null, "stream": true, "stream_options": {"continuous_usage_stats": true}
    }));
    assert_eq!(parsed.ignored, ["top_q", "a_b__x___", "stream_options.continuous_usage_stats"]);
    let many: Map<String, Value> = (0..100).map(|i| (format!("{i}{}", "x".repeat(100)), json!(1))).collect();
    let parsed = accept(Value::Object(many));
    assert_eq!(parsed.ignored.len(), 32);
    assert!(parsed.ignored.iter().all(|name| name.len() == 64));
}

#[test]
fn quoted_values_are_shortened() {
    let error = parse(&with(json!({"reasoning_effort": "é".repeat(9999)})), "m").expect_err("unknown");
    assert!(error.body().error.message.len() < 400);
    let error = parse(&with(json!({"model": "x".repeat(9999)})), "m").expect_err("unknown");
    assert!(error.body().error.message.len() < 200);
}

fn sorted<'a>(keys: &[&'a str]) -> Vec<&'a str> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys
}

/// The OpenAPI document and the parser know the same fields.
#[test]
fn every_field_is_documented_and_every_documented_field_is_read() {
    let document = serde_json::to_value(crate::http::document()).expect("serialises");
    let keys = |name: &str| -> Vec<String> {
        let properties = document["components"]["schemas"][name]["properties"].as_object();
        let mut keys: Vec<String> = properties.expect(name).keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(keys("ChatRequest"), sorted(&known().collect::<Vec<_>>()));
    let parameters = PARAMETERS.iter().map(|spec| spec.name);
    let reasoning: Vec<&str> = super::reasoning::KEYS.into_iter().chain(parameters).collect();
    assert_eq!(keys("ReasoningRequest"), sorted(&reasoning));
    assert_eq!(keys("BudgetRequest"), sorted(&super::reasoning::BUDGET_KEYS));
}

fn json_value() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        "[a-z]{0,6}",
        prop::sample::select(vec![
            "m",
            "user",
            "assistant",
            "text",
            "high",
            "cot",
            "role",
            "content",
            "type",
            "effort",
            "mode",
            "budget",
            "tokens",
            "refusal",
            "function"
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_body_is_a_fault_of_the_server(
        fields in prop::collection::vec((prop::sample::select(known().collect::<Vec<_>>()), json_value()), 0..6),
    ) {
        // Replacing fields of a valid body gets deeper than bodies at random would.
        let mut body = with(json!({}));
        if let Value::Object(map) = &mut body {
            map.extend(fields.into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
        if let Err(error) = parse(&body, "m") {
            prop_assert!(error.status().is_client_error());
            prop_assert!(!error.body().error.message.is_empty());
        }
    }

    #[test]
    fn no_value_is_a_fault_of_the_server(body in json_value()) {
        if let Err(error) = parse(&body, "m") {
            prop_assert!(error.status().is_client_error());
        }
    }
}
