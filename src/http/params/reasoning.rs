//! `reasoning_effort` and the `reasoning` object.
//!
//! Chat completions of OpenAI's have no such object, but its Responses API and
//! other servers have one of this name, and clients send what they know from
//! there: `enabled` of OpenRouter and SGLang is read, `summary`, `generate_summary`
//! and `context` of the Responses API are accepted without effect. Any other
//! unknown key is refused, because it is a typing error.
//!
//! Beside it, the switches of thinking models are read: of `chat_template_kwargs`
//! (vLLM, SGLang), `enable_thinking` (Qwen) and `thinking` (DeepSeek, Anthropic), and
//! `include_reasoning` (vLLM, OpenRouter).

use super::field::{Field, Object};
use crate::http::error::FieldError;
use crate::plan::{BudgetParams, Effort, Kind, ModeName, PARAMETERS, Params, Setting, Settings, Spec};
use std::num::NonZeroU32;

/// What both fields say together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reasoning {
    pub(super) effort: Option<Effort>,
    pub(super) mode: Option<ModeName>,
    pub(super) budget: BudgetParams,
    pub(super) settings: Settings,
    pub(super) exclude: bool,
    pub(super) include_tree: bool,
}

/// Keys of `reasoning` beside the parameters of the modes.
pub(super) const KEYS: [&str; 10] = [
    "effort",
    "enabled",
    "mode",
    "budget",
    "exclude",
    "summary",
    "generate_summary",
    "context",
    "max_tokens",
    "include_tree",
];
/// What `thinking.type` may say; all but `disabled` leave it open.
pub(in crate::http) const THINKING: [&str; 4] = ["enabled", "disabled", "adaptive", "auto"];
/// Names of a template's switch for thinking: Qwen3's and DeepSeek's.
pub(super) const SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];
pub(super) const BUDGET_KEYS: [&str; 5] =
    ["tokens", "seconds", "branches", "verifier_tokens", "answer_reserve"];

/// What the keys without effect may say: the values of OpenAI's schema.
pub(in crate::http) const SUMMARIES: [&str; 3] = ["auto", "concise", "detailed"];
pub(in crate::http) const CONTEXTS: [&str; 3] = ["auto", "current_turn", "all_turns"];

pub(super) fn reasoning(body: &Object<'_>) -> Result<Reasoning, FieldError> {
    let off = switched_off(body)?;
    let Some(field) = body.optional("reasoning") else {
        let (effort, exclude) = (one_effort(body, None, off)?, excluded(body, None)?);
        return Ok(Reasoning { effort, exclude, ..Reasoning::default() });
    };
    let object = field.object()?;
    let parameters = PARAMETERS.iter().map(|spec| spec.name);
    object.only(&KEYS.into_iter().chain(parameters).collect::<Vec<_>>())?;
    let modes = ModeName::ALL.map(ModeName::name);
    let mode = object.choice("mode", &modes)?.and_then(ModeName::parse);
    if let (Some(off), Some(mode)) = (&off, mode)
        && !matches!(mode, ModeName::Standard | ModeName::Direct)
    {
        return Err(contradicts(off, "reasoning.mode", mode.name()));
    }
    let effort = one_effort(body, Some(&object), off)?;
    let mut settings = Settings::default();
    for spec in &PARAMETERS {
        if let Some(setting) = setting(&object, spec)? {
            settings.set(spec.parameter, setting);
        }
    }
    for key in ["summary", "generate_summary"] {
        object.choice(key, &SUMMARIES)?;
    }
    object.choice("context", &CONTEXTS)?;
    Ok(Reasoning {
        effort,
        mode,
        budget: budget(&object)?,
        settings,
        include_tree: object.flag("include_tree")?.unwrap_or(false),
        exclude: excluded(body, Some(&object))?,
    })
}

/// Whether reasoning stays out, by `exclude` or by `include_reasoning`, whose `true` is
/// the default that vLLM's clients send, and leaves it to the other.
fn excluded(body: &Object<'_>, reasoning: Option<&Object<'_>>) -> Result<bool, FieldError> {
    let exclude = reasoning.map_or(Ok(None), |object| object.flag("exclude"))?;
    let without = body.flag("include_reasoning")? == Some(false);
    if without && exclude == Some(false) {
        let field = body.required("include_reasoning")?;
        return Err(field.invalid("false contradicts 'reasoning.exclude', which is false."));
    }
    Ok(without || exclude == Some(true))
}

/// A parameter of a mode, within its bounds.
fn setting(object: &Object<'_>, spec: &Spec) -> Result<Option<Setting>, FieldError> {
    Ok(match spec.kind {
        Kind::Count(least, most) => object
            .integer(spec.name, least.into(), most.into())?
            .and_then(|count| u32::try_from(count).ok())
            .map(Setting::Count),
        Kind::Number(least, most) => object.decimal(spec.name, least, most)?.map(Setting::Number),
        Kind::Choice(words) => object.choice(spec.name, words)?.map(Setting::Choice),
        Kind::Flag => object.flag(spec.name)?.map(Setting::Flag),
    })
}

fn effort(object: &Object<'_>, key: &str) -> Result<Option<Effort>, FieldError> {
    Ok(object.choice(key, &Effort::ALL.map(Effort::name))?.and_then(Effort::parse))
}

/// The field that switches thinking off, by any of the names of such a switch.
fn switched_off<'a>(body: &Object<'a>) -> Result<Option<Field<'a>>, FieldError> {
    let inner = |key| body.optional(key).map(|field| field.object()).transpose();
    let reasoning = inner("reasoning")?.map(|object| (object, "enabled"));
    let template = inner("chat_template_kwargs")?;
    let told = template.into_iter().flat_map(|object| SWITCHES.map(|key| (object.clone(), key)));
    let flags = reasoning.into_iter().chain([(body.clone(), "enable_thinking")]).chain(told);
    let mut off = None;
    for (object, key) in flags {
        if object.flag(key)? == Some(false) {
            off = off.or_else(|| object.optional(key));
        }
    }
    if let Some(thinking) = inner("thinking")?
        && thinking.choice("type", &THINKING)? == Some("disabled")
    {
        off = off.or_else(|| thinking.optional("type"));
    }
    Ok(off)
}

/// An error: thinking is switched off by `off`, and asked for by another field.
fn contradicts(off: &Field<'_>, other: &str, value: &str) -> FieldError {
    let said = off.value.as_str().map_or_else(|| off.value.to_string(), |text| format!("'{text}'"));
    off.invalid(&format!("{said} contradicts '{other}', which is '{value}'."))
}

/// The effort by any of its names: `reasoning_effort`, `effort` of `reasoning`, and
/// the field that switches thinking off, which is `none`.
fn one_effort(
    body: &Object<'_>,
    reasoning: Option<&Object<'_>>,
    off: Option<Field<'_>>,
) -> Result<Option<Effort>, FieldError> {
    let top = effort(body, "reasoning_effort")?;
    let inner = reasoning.map_or(Ok(None), |object| effort(object, "effort"))?;
    if let (Some(top), Some(inner), Some(object)) = (top, inner, reasoning)
        && top != inner
    {
        let why = format!("'{inner}' contradicts 'reasoning_effort', which is '{top}'.");
        return Err(object.required("effort")?.invalid(&why));
    }
    let named = top.or(inner);
    let Some(off) = off else { return Ok(named) };
    match named.filter(|effort| *effort != Effort::None) {
        None => Ok(Some(Effort::None)),
        Some(other) => {
            let name = if top.is_some() { "reasoning_effort" } else { "reasoning.effort" };
            Err(contradicts(&off, name, other.name()))
        }
    }
}

fn budget(reasoning: &Object<'_>) -> Result<BudgetParams, FieldError> {
    let alias = reasoning.count("max_tokens", 1)?.and_then(NonZeroU32::new);
    let Some(field) = reasoning.optional("budget") else {
        let by_max_tokens = alias.is_some();
        return Ok(BudgetParams { tokens: alias, by_max_tokens, ..BudgetParams::default() });
    };
    let object = field.object()?;
    object.only(&BUDGET_KEYS)?;
    let tokens = object.count("tokens", 1)?.and_then(NonZeroU32::new);
    if let (Some(alias), Some(tokens)) = (alias, tokens)
        && alias != tokens
    {
        let why = format!("{alias} contradicts 'reasoning.budget.tokens', which is {tokens}.");
        return Err(reasoning.required("max_tokens")?.invalid(&why));
    }
    Ok(BudgetParams {
        tokens: tokens.or(alias),
        by_max_tokens: tokens.is_none() && alias.is_some(),
        seconds: object.optional("seconds").map(|field| seconds(&field)).transpose()?,
        branches: object.count("branches", 1)?.and_then(NonZeroU32::new),
        verifier_tokens: object.count("verifier_tokens", 0)?,
        answer_reserve: object.count("answer_reserve", 0)?,
    })
}

/// What is kept for the answer is less than what a choice may spend, where the
/// request says how much that is: keeping all of it would leave nothing to think
/// with. The server's own bounds rather lower it, in the planner.
pub(super) fn check_reserve(body: &Object<'_>, params: &Params) -> Result<(), FieldError> {
    let own = params.max_completion_tokens.map(NonZeroU32::get);
    // Fewer tokens than choices are an error of their own.
    let share = params.budget.tokens.map(|total| total.get() / params.n.max(1)).filter(|share| *share > 0);
    let (Some(reserve), Some(least)) = (params.budget.answer_reserve, own.into_iter().chain(share).min())
    else {
        return Ok(());
    };
    if reserve < least {
        return Ok(());
    }
    let field = body.required("reasoning")?.object()?.required("budget")?.object()?;
    let field = field.required("answer_reserve")?;
    let message = format!(
        "Invalid '{}': integer above maximum value. Expected a value <= {}, less than the {least} tokens \
         that a choice may spend, but got {} instead.",
        field.path,
        least - 1,
        field.value
    );
    Err(field.error("integer_above_max_value", message))
}

/// The longest deadline, in seconds: a year. Clocks cannot add up much more, and
/// no request runs so long, so a longer one is clamped and not refused.
const LONGEST: f64 = 31_536_000.0;

/// A positive number; JSON has no infinite ones.
fn seconds(field: &Field<'_>) -> Result<f64, FieldError> {
    let seconds = field.decimal(f64::MIN, f64::MAX)?;
    if seconds > 0.0 {
        return Ok(seconds.min(LONGEST));
    }
    Err(field.not_above_zero())
}
