//! One form for every way of writing an answer.
//!
//! What only spells is taken away ([`tidy`](super::tidy)); numbers become exact
//! reduced fractions; expressions and answers with parts get their normal form
//! ([`value`](super::value)); anything else stays text, words in lower case. The
//! result is a fixed point: canonicalising it again changes nothing. A name in front of
//! a value says nothing, `x=3` is 3; hence `y=3` is 3 too, so that the two are one.

use super::ratio::gcd;
use super::tidy::tidy;
use super::value::value;

/// Longer answers, in bytes, are compared as they are.
const LONGEST: usize = 1_000;

/// Rounds of rewriting after which an answer is taken as it is. Real answers
/// need two or three.
const ROUNDS: usize = 8;

/// The canonical form of an answer, a key under which equal answers meet.
#[must_use]
pub fn canonical(answer: &str) -> String {
    let answer = answer.trim();
    if answer.len() > LONGEST {
        return answer.to_owned();
    }
    let mut form = answer.to_owned();
    for _ in 0..ROUNDS {
        let next = tidy(&form);
        let next = number(&next).or_else(|| value(&next)).unwrap_or_else(|| words(next));
        if next == form {
            return form;
        }
        form = next;
    }
    answer.to_owned()
}

/// Words in lower case. Short ones in capitals are names, of a segment or triangle.
fn words(text: String) -> String {
    const WORDS: &[&str] = &["NO", "YES", "TRUE", "FALSE", "NONE"];
    let letters = text.bytes().all(|b| b.is_ascii_alphabetic() || b == b' ');
    let name = text.len() <= 4 && text.bytes().all(|b| b.is_ascii_uppercase());
    if letters && text.len() > 1 && (!name || WORDS.contains(&text.as_str())) {
        text.to_ascii_lowercase()
    } else {
        text
    }
}

/// The reduced fraction that a text spells exactly, percentages marked as such.
fn number(text: &str) -> Option<String> {
    let (value, percent) = match text.strip_suffix('%') {
        Some(value) => (value, "%"),
        None => (text, ""),
    };
    let (negative, value) = sign(value);
    if let Some((whole, part)) = value.split_once(' ') {
        let (p, q) = part.split_once('/')?;
        let (whole, p, q) = (unsigned(whole)?, unsigned(p)?, unsigned(q)?);
        let top = whole.checked_mul(q)?.checked_add(p)?;
        let sign = if negative { "-" } else { "" };
        return if 0 < p && p < q { number(&format!("{sign}{top}/{q}{percent}")) } else { None };
    }
    let fraction = value.strip_prefix("\\frac{").and_then(|f| f.strip_suffix('}')?.split_once("}{"));
    let (p, q) = match fraction.or_else(|| value.split_once('/')) {
        Some((p, q)) => (integer(p)?, integer(q)?),
        None => decimal(value)?,
    };
    if q == 0 {
        return None;
    }
    let divisor = gcd(p.unsigned_abs(), q.unsigned_abs());
    let (top, bottom) = (p.unsigned_abs() / divisor, q.unsigned_abs() / divisor);
    let minus = if top != 0 && (negative ^ (p < 0) ^ (q < 0)) { "-" } else { "" };
    Some(if bottom == 1 {
        format!("{minus}{top}{percent}")
    } else {
        format!("{minus}{top}/{bottom}{percent}")
    })
}

/// A sign and what follows it.
fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn unsigned(digits: &str) -> Option<i128> {
    ungrouped(digits)?.parse().ok()
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = sign(text);
    let value = unsigned(digits)?;
    Some(if negative { -value } else { value })
}

/// Numerator and denominator of an unsigned decimal number; `None` where they do
/// not fit 128 bits.
fn decimal(text: &str) -> Option<(i128, i128)> {
    let Some((whole, part)) = text.split_once('.') else {
        return Some((ungrouped(text)?.parse().ok()?, 1));
    };
    if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { ungrouped(whole)?.parse().ok()? };
    let part = part.trim_end_matches('0');
    let scale = 10i128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part: i128 = if part.is_empty() { 0 } else { part.parse().ok()? };
    Some((whole.checked_mul(scale)?.checked_add(part)?, scale))
}

/// Digits without thousands separators; `None` unless all groups are whole.
fn ungrouped(text: &str) -> Option<String> {
    let groups: Vec<&str> = text.split(',').collect();
    let (first, others) = groups.split_first()?;
    let digits = groups.iter().all(|g| !g.is_empty() && g.bytes().all(|b| b.is_ascii_digit()));
    let grouped = others.is_empty() || (first.len() <= 3 && others.iter().all(|g| g.len() == 3));
    (digits && grouped).then(|| groups.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_become_reduced_fractions() {
        for (answer, form) in [
            ("42", "42"),
            (" +42. ", "42"),
            ("-0", "0"),
            ("007", "7"),
            ("1,234,567", "1234567"),
            ("1{,}234", "1234"),
            ("12,34", "12,34"),
            ("0.50", "1/2"),
            (".5", "1/2"),
            ("-.25", "-1/4"),
            ("2.000", "2"),
            ("4/8", "1/2"),
            ("-4/-8", "1/2"),
            ("\\frac{3}{-6}", "-1/2"),
            ("\\dfrac12", "1/2"),
            ("−3", "-3"),
            ("$-\\tfrac{10}{5}$", "-2"),
            ("1/0", "1/0"),
            ("\\$5", "5"),
            ("90^\\circ", "90"),
            ("x = 5", "5"),
            ("5\\text{ cm}", "5"),
        ] {
            assert_eq!(canonical(answer), form, "{answer}");
        }
    }

    #[test]
    fn answers_with_parts_keep_what_matters() {
        for (answer, form) in [
            ("7 3/4", "31/4"),
            ("-7\\frac{3}{4}", "-31/4"),
            ("\\{3, 1, 2, 1\\}", "\\{1,2,3\\}"),
            ("\\left(\\frac{1}{2}, 0.25\\right]", "(1/2,1/4]"),
            ("(3,\\infty)\\cup(-\\infty,2]", "(-\\infty,2]\\cup (3,\\infty)"),
            ("2 < x", "-2+x>0"),
            ("(1,234)", "(1, 234)"),
            ("12 and 13", "12,13"),
            ("(B)", "B"),
            ("YES", "yes"),
            ("ABC", "ABC"),
            ("12 square cm", "12"),
            ("\\frac{3\\pi}{6}", "\\pi/2"),
        ] {
            assert_eq!(canonical(answer), form, "{answer}");
        }
    }

    #[test]
    fn percentages_stay_percentages() {
        assert_eq!(canonical("50.0\\%"), "50%");
        assert_ne!(canonical("50%"), canonical("0.5"));
        assert_ne!(canonical("50%"), canonical("50"));
    }

    #[test]
    fn what_differs_stays_different() {
        for (a, b) in [
            ("1 2", "12"),
            ("1, 234", "1,234"),
            ("7 3/4", "73/4"),
            ("A", "a"),
            ("x", "y"),
            ("(1,2)", "(2,1)"),
            ("1e3", "1000"),
            ("5\\text{ and }6", "5\\text{ and }7"),
            ("1,2,...", "1,2"),
            ("3", "1+2\\mathrm{i}"),
            ("x=1,y=2", "1,2"),
            ("x=1,234", "x=1,x=234"),
            ("\\pi\\mathrm{i}", "\\pi"),
            ("340282366920938463463374607431768211456", "0"),
            ("4210_5", "4210_6"),
            ("4210_5", "4210"),
            ("101_21", "101_{2}1"),
            ("(x)_2", "x_2"),
            ("\\bigcup", "\\cup"),
            ("\\underline{1}+\\underline{2}", "1}+\\underline{2"),
            ("\\sin(60\\degree)", "\\sin(60)"),
        ] {
            assert_ne!(canonical(a), canonical(b), "{a} and {b}");
        }
    }

    #[test]
    fn spelling_does_not_matter() {
        for (a, b) in [
            ("\\left( 1, 2 \\right)", "(1,2)"),
            ("\\sqrt3", "\\sqrt{3}"),
            ("\\text{Monday}", "Monday"),
            ("\\frac{\\pi}{2}", "\\dfrac{\\pi}{2}"),
            ("\\(x^2\\)", "x^2"),
            ("1+2\\mathrm{i}", "1+2i"),
            ("\\mathrm{e}^{\\pi\\mathrm{i}}", "e^{\\pi i}"),
            ("2\\text{i}", "2i"),
            ("x=1, x=2", "1,2"),
            ("x=1\\text{ or }x=234", "1, 234"),
            ("4210_5", "4210_{5}"),
            ("(1101)_2", "1101_{2}"),
            ("(1A)_{16}", "1A_{16}"),
            ("\\log_2 x", "\\log_{2}x"),
            ("\\displaystyle\\frac{1}{2}", "\\frac{1}{2}"),
            ("\\displaystyle 12", "12"),
            ("\\textstyle x+1", "x+1"),
            ("\\bigl(3,4\\bigr)", "(3,4)"),
            ("\\Big(3,4\\Big)", "(3,4)"),
            ("\\biggl[3,4\\Biggr)", "[3,4)"),
            ("\\cfrac{1}{2}", "\\frac{1}{2}"),
            ("\\underline{5}", "5"),
            ("\\underline{\\frac{1}{2}}", "1/2"),
            ("\\varnothing", "\\emptyset"),
            ("∅", "\\emptyset"),
            ("\\{ \\}", "\\emptyset"),
            ("60\\degree", "60^\\circ"),
            ("\\sin(60\\degree)", "\\sin 60^\\circ"),
        ] {
            assert_eq!(canonical(a), canonical(b), "{a} and {b}");
        }
        assert_eq!(canonical("\\leftarrow"), "\\leftarrow");
    }

    #[test]
    fn a_number_too_large_is_compared_as_text() {
        let huge = "9".repeat(60);
        assert_eq!(canonical(&huge), huge);
        assert_eq!(canonical(&format!("0.{huge}")), format!("0.{huge}"));
    }

    #[test]
    fn work_is_capped() {
        let long = "\\frac12 ".repeat(100_000);
        assert_eq!(canonical(&long), long.trim());
    }

    fn expressions() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            (0i64..40).prop_map(|n| n.to_string()),
            "[xyin]".prop_map(String::from),
            Just("\\pi".to_owned()),
            (2i64..30).prop_map(|n| format!("\\sqrt{{{n}}}")),
            (2i64..30).prop_map(|n| format!("\\sqrt[3]{{{n}}}")),
        ];
        leaf.prop_recursive(4, 24, 2, |inner| {
            (inner.clone(), inner, 0..8).prop_map(|(a, b, kind)| match kind {
                0 | 1 => format!("({a}+{b})"),
                2 => format!("({a}-{b})"),
                3 => format!("{a}\\cdot {b}"),
                4 => format!("\\frac{{{a}}}{{{b}}}"),
                5 => format!("\\sqrt{{{a}}}"),
                6 => format!("({a})^{{{b}}}"),
                _ => format!("-\\sin({a})"),
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn a_canonical_form_is_its_own(
            text in r"(\\frac|\\sqrt|\\left|\\right|\\text|\\boxed|\\circ|\\degree|\\underline\{|\\bigl|\\displaystyle|[0-9xa{}(),.=+/%$ \\^_!-]){0,16}",
        ) {
            let form = canonical(&text);
            prop_assert_eq!(canonical(&form), form);
        }

        #[test]
        fn the_form_of_a_value_with_parts_is_its_own(
            text in r"(\\frac\{|\\sqrt\{|\\pm|\\pi|\\infty|\\cup|\\\{|\\\}|\\begin\{pmatrix\}|\\end\{pmatrix\}|&|\\\\|\\sin|\\in|\\cdot|\\le|√|²| and | cm|percent|\\text\{ cm\}|\\mathrm\{[eim]\}| million|/\\text\{h\}|\\lt|\\geq|<=|x=|y=|f\(|f\^\{-1\}\(|\^\{|_|[0-9xyina{}(),.=+/%<>| \[\]^!-]){0,14}",
        ) {
            let form = canonical(&text);
            prop_assert_eq!(canonical(&form), form);
        }

        #[test]
        fn the_form_of_an_expression_is_its_own(text in expressions()) {
            let form = canonical(&text);
            prop_assert_eq!(canonical(&form), form);
        }

        #[test]
        fn sums_and_products_commute(a in expressions(), b in expressions()) {
            let sum = |a: &str, b: &str| canonical(&format!("({a})+({b})"));
            let product = |a: &str, b: &str| canonical(&format!("({a})\\cdot({b})"));
            // Where the work of one order is too much, so may be that of the other; what
            // is understood in both must agree.
            for (one, other) in [(sum(&a, &b), sum(&b, &a)), (product(&a, &b), product(&b, &a))] {
                prop_assert!(one == other || one.contains(")+(") || one.contains(")\\cdot("), "{} {}", one, other);
            }
        }

        #[test]
        fn any_text_has_a_canonical_form_of_its_own(text in "\\PC{0,40}") {
            let form = canonical(&text);
            prop_assert_eq!(canonical(&form), form);
        }

        #[test]
        fn fractions_agree_with_arithmetic(p in -9_999i64..9_999, q in 1i64..999, k in 1i64..99) {
            prop_assert_eq!(canonical(&format!("{p}/{q}")), canonical(&format!("\\frac{{{}}}{{{}}}", p * k, q * k)));
            prop_assert_eq!(canonical(&format!("{p}.0")), p.to_string());
        }
    }
}
