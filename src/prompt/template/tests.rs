//! Templates in the manner of the families that are in use.

use super::*;

fn message(role: &'static str, content: &str) -> Message {
    Message { role, content: content.to_owned() }
}

fn tokens() -> TemplateTokens {
    TemplateTokens { bos: Some("<s>".to_owned()), eos: Some("</s>".to_owned()) }
}

fn from_config(config: &serde_json::Value, file: Option<&str>) -> Result<ChatTemplate, PromptError> {
    ChatTemplate::new(&ChatTemplate::source(config, file)?, TemplateTokens::from_config(config))
}

fn render(source: &str, messages: &[Message]) -> Result<String, PromptError> {
    ChatTemplate::new(source, tokens())?.render(messages, None)
}

#[test]
fn the_bundled_template_writes_chatml() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/seedling/policy/tokenizer_config.json");
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(TemplateTokens::from_config(&config).eos.as_deref(), Some("<|im_end|>"));
    let template = from_config(&config, None).unwrap();
    let text =
        template.render(&[message("system", "Think."), message("user", "What is 1 + 1?")], None).unwrap();
    let expected = "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n\
                    <|im_start|>assistant\n";
    assert_eq!(text, expected);
}

#[test]
fn llama_3_trims_and_writes_headers() {
    let source = "{% set loop_messages = messages %}{% for message in loop_messages %}\
        {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}\
        {% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
    let text = render(source, &[message("user", "  hi  ")]).unwrap();
    let expected = "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>\
                    <|start_header_id|>assistant<|end_header_id|>\n\n";
    assert_eq!(text, expected);
}

#[test]
fn llama_3_1_knows_the_date_and_the_absence_of_tools() {
    let source = "{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n\
        {%- if tools is not none %}tools{% endif %}\
        {%- if strftime_now is defined %}\n    {%- set date_string = strftime_now(\"%d %b %Y\") %}\n\
        {%- else %}\n    {%- set date_string = \"26 Jul 2024\" %}\n{%- endif %}\n{{- date_string }}";
    let text = render(source, &[]).unwrap();
    let parts: Vec<&str> = text.split(' ').collect();
    assert_eq!(parts.len(), 3, "{text}");
    assert_eq!((parts[0].len(), parts[1].len()), (2, 3), "{text}");
    assert!(parts[2].parse::<u32>().unwrap() >= 2025, "{text}");
}

#[test]
fn qwen_3_walks_backwards_with_a_namespace() {
    let source = "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n\
        {%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n\
        {%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n\
        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}\n\
        {%- for message in messages %}\n    {%- if message.content is string %}{%- set content = message.content %}{%- endif %}\n\
        {%- if message.role == \"assistant\" and '</think>' in content %}\n\
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n    {%- endif %}\n\
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n{%- endfor %}\n\
        {{- ns.last_query_index }}\n\
        {%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n\
        {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}\n{%- endif %}";
    let conversation =
        [message("user", "a"), message("assistant", "<think>\nhm\n</think>\n\nb"), message("user", "c")];
    let expected = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n\
                    <|im_start|>user\nc<|im_end|>\n2<|im_start|>assistant\n";
    assert_eq!(render(source, &conversation).unwrap(), expected);
    let template = ChatTemplate::new(source, tokens()).unwrap();
    let with = |thinking| template.render(&conversation, Some(thinking)).unwrap();
    assert_eq!(with(true), expected);
    assert_eq!(with(false), format!("{expected}<think>\n\n</think>\n\n"));
}

const MISTRAL: &str = "{{ bos_token }}{% for message in messages %}\
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
    {% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
    {% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}\
    {% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

#[test]
fn mistral_refuses_roles_out_of_turn() {
    let refused = render(MISTRAL, &[message("user", "a"), message("user", "b")]).unwrap_err();
    let said = "Conversation roles must alternate user/assistant/user/assistant/...".to_owned();
    assert_eq!(refused, PromptError::Refused(said));
    let turns = [message("user", "a"), message("assistant", "b"), message("user", "c")];
    assert_eq!(render(MISTRAL, &turns).unwrap(), "<s>[INST] a [/INST]b</s> [INST] c [/INST]");
}

#[test]
fn a_refusal_inside_a_macro_is_still_a_refusal() {
    let source =
        "{% macro check(m) %}{{ raise_exception('no ' ~ m.role) }}{% endmacro %}{{ check(messages[0]) }}";
    assert_eq!(render(source, &[message("tool", "")]), Err(PromptError::Refused("no tool".to_owned())));
}

#[test]
fn loops_break_and_blocks_are_trimmed_with_their_lines() {
    let source = "{% for m in messages %}\n    {% if m.content == 'stop' %}\n{% break %}\n    {% endif %}\n{{ m.content }}\n{% endfor %}\n";
    let conversation = [message("user", "a"), message("user", "stop"), message("user", "b")];
    assert_eq!(render(source, &conversation).unwrap(), "a\n");
}

#[test]
fn generation_blocks_change_nothing() {
    let source = "a {%- generation -%} b {% endgeneration %}\nc{% set generation = 1 %}{{ generation }}";
    assert_eq!(render(source, &[]).unwrap(), "ab c1");
}

#[test]
fn python_methods_and_json_work() {
    let source = "{{ {'k': 1}.items()|list|tojson }} {{ messages[0].get('role') }} {{ messages[0]|tojson }} {{ 'x'.upper() if nothing is not defined else '' }}";
    let text = render(source, &[message("user", "é")]).unwrap();
    assert_eq!(text, r#"[["k", 1]] user {"role": "user", "content": "é"} X"#);
}

#[test]
fn undefined_prints_as_nothing_and_an_absent_token_is_undefined() {
    let template = ChatTemplate::new("{{ nobody }}{{ bos_token is defined }}", TemplateTokens::default());
    assert_eq!(template.unwrap().render(&[], None).unwrap(), "False");
}

#[test]
fn configurations_name_templates_and_tokens_in_two_ways() {
    let config = serde_json::json!({
        "bos_token": {"content": "<b>", "lstrip": false}, "eos_token": null,
        "chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}"}],
    });
    assert_eq!(
        TemplateTokens::from_config(&config),
        TemplateTokens { bos: Some("<b>".to_owned()), eos: None }
    );
    assert_eq!(from_config(&config, None).unwrap().render(&[], None).unwrap(), "<b>");
    // The file beside the configuration wins over the key in it, tokens stay.
    assert_eq!(
        from_config(&config, Some("{{ bos_token }}file")).unwrap().render(&[], None).unwrap(),
        "<b>file"
    );
    let tools_alone = serde_json::json!({"chat_template": [{"name": "tool_use", "template": "no"}]});
    for config in [serde_json::json!({}), serde_json::json!({"chat_template": null}), tools_alone] {
        let error = from_config(&config, None).unwrap_err().to_string();
        assert!(error.contains("chat_template.jinja") && error.contains("tokenizer_config.json"), "{error}");
    }
    assert!(matches!(ChatTemplate::new("{% if %}", tokens()), Err(PromptError::Template(_))));
}
