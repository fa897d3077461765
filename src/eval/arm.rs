//! Arms: what is compared, each a label and the request fields that make it.

use super::args::EvalArgs;
use serde_json::{Map, Value, json};

/// Fields that the harness sets itself, of every request.
const OURS: [&str; 4] = ["messages", "seed", "stream", "n"];

/// One way to ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Its name, unique in a run.
    pub label: String,
    /// Request fields, put over those that all arms share.
    pub fields: Value,
    /// Arms of equal series are joined in the plot.
    pub series: Option<String>,
    /// What stands above its table.
    pub title: String,
}

impl Arm {
    fn new(label: &str, kind: &str, fields: Value) -> Self {
        Self { label: label.to_owned(), fields, series: None, title: format!("{kind} {label}") }
    }

    fn effort(effort: &str) -> Self {
        let series = Some("effort".to_owned());
        Self { series, ..Self::new(effort, "effort", json!({"reasoning_effort": effort})) }
    }

    fn mode(mode: &str) -> Self {
        Self::new(mode, "mode", json!({"reasoning": {"mode": mode}}))
    }

    /// The same with a budget, which rules over one that it has.
    fn within(&self, tokens: u32) -> Self {
        let label = format!("{}@{tokens}", self.label);
        let mut fields = self.fields.clone();
        // The other name of the same bound, which a server refuses beside a different one.
        if let Some(reasoning) = fields.get_mut("reasoning").and_then(Value::as_object_mut) {
            reasoning.shift_remove("max_tokens");
        }
        merge(&mut fields, &json!({"reasoning": {"budget": {"tokens": tokens}}}));
        Self { title: format!("arm {label}"), label, fields, series: Some(self.label.clone()) }
    }
}

/// The most tokens that the response to a request body may take, if it says so.
pub(super) fn bound(body: &Value) -> Option<u64> {
    let at = |pointer: &str| body.pointer(pointer)?.as_u64();
    // The older name counts only where the newer one is not there.
    let whole = at("/max_completion_tokens").or_else(|| at("/max_tokens"));
    let bounds = [at("/reasoning/budget/tokens"), at("/reasoning/max_tokens"), whole];
    bounds.into_iter().flatten().min()
}

/// Reads `LABEL=JSON`, the value of `--arm`.
///
/// # Errors
/// In a sentence that says what is wrong.
pub(super) fn parse(text: &str) -> Result<Arm, String> {
    let form =
        "give a label and a JSON object of request fields, as in 'wide={\"reasoning\":{\"branches\":16}}'";
    let (label, fields) = text.split_once('=').ok_or_else(|| format!("no '='; {form}"))?;
    let fields: Value = serde_json::from_str(fields).map_err(|e| format!("{e}; {form}"))?;
    let Value::Object(object) = &fields else { return Err(format!("no object; {form}")) };
    if let Some(ours) = OURS.iter().find(|key| object.contains_key(**key)) {
        return Err(format!("'{ours}' is set for every request and cannot be a field of an arm"));
    }
    named(label)?;
    Ok(Arm::new(label, "arm", fields))
}

/// Labels stand in lists and tables.
fn named(label: &str) -> Result<(), String> {
    let odd = |c: char| c.is_control() || c == ',' || c == '|';
    if label.trim().is_empty() || label.contains(odd) {
        return Err(format!(
            "'{label}' is no label: it may not be empty nor have ',' '|' or control characters"
        ));
    }
    Ok(())
}

/// All arms of a run: efforts, modes and those given, in this order; under
/// budgets, each of them under each. Without any, `low`.
///
/// # Errors
/// When a label is none or comes twice.
pub(super) fn all(args: &EvalArgs) -> Result<Vec<Arm>, String> {
    let efforts = args.efforts.iter().map(|effort| Arm::effort(effort));
    let modes = args.modes.iter().map(|mode| Arm::mode(mode));
    let mut arms: Vec<Arm> = efforts.chain(modes).chain(args.arms.iter().cloned()).collect();
    if arms.is_empty() {
        arms.push(Arm::effort("low"));
    }
    if !args.budget.is_empty() {
        let under = |arm: &Arm| args.budget.iter().map(|n| arm.within(n.get())).collect::<Vec<_>>();
        arms = arms.iter().flat_map(under).collect();
    }
    for (i, arm) in arms.iter().enumerate() {
        named(&arm.label)?;
        if arms[..i].iter().any(|other| other.label == arm.label) {
            return Err(format!("two arms are called '{}'; give one another label", arm.label));
        }
    }
    Ok(arms)
}

/// Puts `over` over `under`: objects key by key, anything else as a whole.
pub(super) fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert_with(|| Value::Object(Map::new())), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::args;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_arm_is_an_effort_a_mode_or_fields_and_budgets_make_one_of_each() {
        let given = r#"b8={"reasoning":{"mode":"beam","width":8}}"#;
        let words = ["--efforts", "low,high", "--modes", "cot", "--arm", given, "--budget", "500,1000"];
        let arms = all(&args(&words)).unwrap();
        let labels: Vec<&str> = arms.iter().map(|arm| arm.label.as_str()).collect();
        let expected =
            ["low@500", "low@1000", "high@500", "high@1000", "cot@500", "cot@1000", "b8@500", "b8@1000"];
        assert_eq!(labels, expected);
        let both = json!({"reasoning_effort": "low", "reasoning": {"budget": {"tokens": 500}}});
        assert_eq!(arms[0].fields, both);
        let deep = json!({"reasoning": {"mode": "beam", "width": 8, "budget": {"tokens": 1000}}});
        assert_eq!(arms[7].fields, deep);
    }

    #[test]
    fn a_budget_rules_over_the_bound_of_an_arm_by_either_name() {
        for own in [json!({"max_tokens": 500}), json!({"budget": {"tokens": 500}}), json!({})] {
            let arm = format!("x={}", json!({"top_p": 0.5, "reasoning": own}));
            let [arm] = &all(&args(&["--arm", &arm, "--budget", "1000"])).unwrap()[..] else { panic!("one") };
            let expected = json!({"top_p": 0.5, "reasoning": {"budget": {"tokens": 1000}}});
            assert_eq!((&arm.fields, bound(&arm.fields)), (&expected, Some(1000)), "{own}");
        }
        let given = all(&args(&["--arm", r#"x={"reasoning":{"max_tokens":500}}"#])).unwrap();
        assert_eq!(given[0].fields, json!({"reasoning": {"max_tokens": 500}}), "without a budget it stays");
    }

    #[test]
    fn without_budgets_arms_are_as_given_and_low_is_what_none_means() {
        let arms = all(&args(&["--effort", "none", "--modes", "cot"])).unwrap();
        assert_eq!(arms[0].fields, json!({"reasoning_effort": "none"}));
        assert_eq!(arms[1].fields, json!({"reasoning": {"mode": "cot"}}));
        let [low] = &all(&args(&[])).unwrap()[..] else { panic!("one") };
        assert_eq!((low.label.as_str(), low.title.as_str()), ("low", "effort low"));
    }

    #[test]
    fn the_bound_of_a_request_is_the_tightest_that_it_names() {
        for (body, most) in [
            (json!({"reasoning_effort": "low"}), None),
            (json!({"max_completion_tokens": 9}), Some(9)),
            (json!({"max_tokens": 5}), Some(5)),
            (json!({"max_tokens": 5, "max_completion_tokens": 9}), Some(9)),
            (json!({"reasoning": {"max_tokens": 7}, "max_completion_tokens": 9}), Some(7)),
            (json!({"reasoning": {"budget": {"tokens": 9}}, "max_tokens": 3}), Some(3)),
        ] {
            assert_eq!(bound(&body), most, "{body}");
        }
    }

    #[test]
    fn what_is_no_arm_is_refused_with_what_to_do() {
        for (text, why) in [
            ("beam", "no '='"),
            ("a={", "EOF"),
            ("a=[1]", "no object"),
            ("a={\"stream\":true}", "'stream' is set for every request"),
            ("={}", "'' is no label"),
            ("a,b={}", "'a,b' is no label"),
            ("a\u{1}={}", "is no label"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let error = all(&args(&["--efforts", "low", "--arm", "low={}"])).unwrap_err();
        assert!(error.contains("two arms are called 'low'"), "{error}");
        assert!(all(&args(&["--modes", "cot,"])).unwrap_err().contains("'' is no label"));
    }

    proptest! {
        #[test]
        fn a_text_is_an_arm_as_it_says_or_is_refused_for_what_it_says(text in "\\PC{0,40}") {
            for text in [text.clone(), format!("a={text}"), format!("{text}={{}}")] {
                let label = text.split_once('=').map_or("", |(label, _)| label);
                match parse(&text) {
                    Ok(arm) => {
                        prop_assert_eq!(&arm.label, label);
                        prop_assert!(arm.fields.is_object());
                    }
                    Err(error) => {
                        let form = error.contains("give a label and a JSON object");
                        let bad_label = error.contains(&format!("'{label}' is no label"));
                        let ours = OURS.iter().any(|field| error.contains(&format!("'{field}' is set")));
                        prop_assert!(form || bad_label || ours, "{}: {}", text, error);
                    }
                }
            }
        }
    }

    #[test]
    fn merging_replaces_what_is_no_object() {
        let mut under = json!({"a": {"b": 1, "c": [1, 2]}, "d": 3});
        merge(&mut under, &json!({"a": {"c": [3]}, "d": {"e": null}}));
        assert_eq!(under, json!({"a": {"b": 1, "c": [3]}, "d": {"e": null}}));
    }
}
