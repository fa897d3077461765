//! Values of expressions, for what no exact rule decides.
//!
//! Every value carries a bound of its own error ([`approx`](super::approx)), so "equal"
//! means: the difference of two expressions is zero as far as `f64` can tell, and it can
//! tell more than a chance would take. A difference of zero is trusted only where its
//! error is far below its smallest term (`e^{100}+1` is not `e^{100}`), and where the
//! agreement is more exact than the digits that were written down: a number of many
//! digits is near to anything, so 1.4142135623730951 is not `\sqrt{2}`.
//!
//! Names stand for fixed values: every size with both signs, all names with one sign and
//! with mixed ones. A point where either side is undefined says nothing, so `\ln x^2` is
//! `2\ln x`; where `f64` can tell at no size and most are not undefined, as for
//! `\sqrt[3]{x+|x|}` below 0, nothing is decided for that sign. What cannot be decided is
//! different. What agrees at every point is the same: a difference between two
//! neighbouring sizes only, as that of `|x-50|+|x-60|` and `|2x-110|`, is not seen.
//! Deliberately absent: complex values, and the base of a bare `\log`, which some read as
//! 10 and some as `e`: it is one more unknown.

use super::approx::{Approx, Gap};
use super::ratio::Ratio;
use super::sum::{Atom, Sum, Work};
use std::collections::BTreeSet;
use std::f64::consts::{E, LN_10, PI};

/// A difference is trusted where its error is below this share of its smallest term.
const RESOLUTION: f64 = 1e-9;

/// Bits of agreement beyond those written down.
const MARGIN: f64 = 4.0;

/// Expressions of more bits are not looked at; there is no evidence for so many.
const MOST_BITS: u32 = 4_096;

/// Bits of one number beside unknowns. Points differ in the unknowns only, so they are
/// no evidence for the digits of a constant.
const LONGEST_NUMBER: u32 = 24;

/// Points at which expressions with unknowns must agree, at the least.
const FEWEST_POINTS: usize = 3;

/// Denominators of the values that closed forms are recognised as.
const LARGEST_DENOMINATOR: i128 = 1_000;

/// Sizes of unknowns: small enough for `\arcsin`, large enough for `\sqrt{x-5}`, one
/// between any two small whole numbers, where `|x-3|+|x-4|` has its bends.
const SIZES: [f64; 15] = [
    0.134_720_931_7,
    0.457_139_028_3,
    0.731_056_294_1,
    1.268_351_904_7,
    1.643_219_087_7,
    2.271_803_946_1,
    3.369_147_205_3,
    4.617_302_894_1,
    5.443_150_927_9,
    6.529_718_360_7,
    7.388_264_019_3,
    8.741_953_062_9,
    9.265_738_104_7,
    11.718_204_365_3,
    23.119_607_345_3,
];

/// Sizes of all unknowns at once, for in terms of a large one those of small ones drown.
/// The last is beyond every number that may stand beside unknowns.
const LARGE: [f64; 2] = [311.640_829_157_3, 41_350_927.384_1];

/// A row for each size of the first unknown.
const ROWS: usize = SIZES.len() + LARGE.len();

/// Rounds through all rows: the names are positive, negative, and twice of mixed signs.
const ROUNDS: usize = 4;

/// The name under which the base of a bare `\log` is unknown: its natural logarithm.
const BARE_LOG: &str = "\\log";

/// Whether two expressions of different forms have one value.
pub(super) fn equal(a: &Sum, b: &Sum, work: &mut Work) -> bool {
    vanishes(a, b, work).unwrap_or(false)
}

fn vanishes(a: &Sum, b: &Sum, work: &mut Work) -> Option<bool> {
    // What both sides have in common is gone before anything is rounded.
    let difference = a.add(&b.neg()?, work)?;
    if let Some(rest) = difference.as_ratio() {
        return Some(rest.is_zero());
    }
    let survey = Survey::of(&difference);
    // One term is a product of what is not zero.
    if difference.terms().nth(1).is_none() || survey.bits > MOST_BITS {
        return Some(false);
    }
    let names: Vec<&str> = survey.names.iter().copied().collect();
    if !names.is_empty() && survey.longest > LONGEST_NUMBER {
        return Some(false);
    }
    let (rounds, rows, fewest) = match names.len() {
        0 => (1, 1, 1),
        // One sign is not mixed.
        1 => (2, ROWS, FEWEST_POINTS),
        _ => (ROUNDS, ROWS, FEWEST_POINTS),
    };
    let (mut agreed, mut evidence) = (0, 0.0);
    for round in 0..rounds {
        let (before, mut unresolved, mut undefined) = (agreed, 0, 0);
        for row in 0..rows {
            let at = |name: &str| Some(sample(round, row, names.iter().position(|n| *n == name)?));
            match verdict(&difference, survey.either, &at, work) {
                Ok(Verdict::Zero(bits)) => {
                    agreed += 1;
                    evidence += bits;
                }
                Ok(Verdict::Unresolved) => unresolved += 1,
                Ok(Verdict::Other) | Err(Gap::Spent) => return Some(false),
                Err(Gap::Undefined) => undefined += 1,
            }
        }
        if agreed == before && unresolved > undefined {
            return Some(false);
        }
    }
    Some(agreed >= fewest && evidence >= f64::from(survey.bits) + MARGIN)
}

/// What a difference is at a point.
enum Verdict {
    /// 0, to so many bits.
    Zero(f64),
    Other,
    /// Either, for all that `f64` can tell.
    Unresolved,
}

fn verdict(
    difference: &Sum,
    either: bool,
    at: &dyn Fn(&str) -> Option<f64>,
    work: &mut Work,
) -> Result<Verdict, Gap> {
    let mut bits = 0.0;
    for sign in if either { &[1.0, -1.0][..] } else { &[1.0] } {
        let mut values = Values { at, sign: Some(*sign), drowned: false, work: &mut *work };
        let (value, smallest) = values.terms(difference)?;
        if value.is_certain() {
            return Ok(Verdict::Other);
        }
        if values.drowned {
            return Ok(Verdict::Unresolved);
        }
        bits += (smallest / value.error).log2();
    }
    Ok(Verdict::Zero(bits))
}

/// The value of an unknown at a point; no two unknowns share one.
fn sample(round: usize, row: usize, name: usize) -> f64 {
    let size = match row.checked_sub(SIZES.len()) {
        // Coprime to the number of sizes, so that neighbours are no multiples.
        None => SIZES[(row + 2 * name) % SIZES.len()],
        Some(large) => LARGE[large],
    };
    let size = size * (1.0 + 0.013_717_421 * name as f64);
    // In mixed rounds any three of the first names have all signs beside each other.
    let pattern = if round < 2 { 0 } else { row + 1 };
    let turned = (pattern & (name + 1)).count_ones() % 2 == 1;
    if turned ^ (round % 2 == 1) { -size } else { size }
}

/// The exact value of a closed form with functions, where it is a fraction, the root of
/// one, or a fraction of `\pi`: `\cos(\pi/3)` is 1/2.
pub(super) fn known(sum: &Sum, work: &mut Work) -> Option<Sum> {
    let survey = Survey::of(sum);
    let closed = !survey.either && survey.names.iter().all(|name| *name == BARE_LOG);
    if !survey.calls || !closed || survey.bits > MOST_BITS {
        return None;
    }
    let natural = recognised(closed_value(sum, Some(1.0), work)?, survey.bits, work)?;
    if survey.names.is_empty() {
        return Some(natural);
    }
    // Whatever the base is.
    let common = recognised(closed_value(sum, Some(LN_10), work)?, survey.bits, work)?;
    (natural == common).then_some(natural)
}

/// Whether a closed form is negative, where its sign is certain.
pub(super) fn is_negative(sum: &Sum, work: &mut Work) -> Option<bool> {
    let value = closed_value(sum, None, work)?;
    value.is_certain().then_some(value.value < 0.0)
}

fn closed_value(sum: &Sum, log: Option<f64>, work: &mut Work) -> Option<Approx> {
    let at = |name: &str| log.filter(|_| name == BARE_LOG);
    let mut values = Values { at: &at, sign: None, drowned: false, work };
    values.sum(sum).ok().filter(|_| !values.drowned)
}

fn recognised(value: Approx, bits: u32, work: &mut Work) -> Option<Sum> {
    if let Some(ratio) = fraction(value, bits) {
        return Some(Sum::of(ratio));
    }
    if let Some(square) = fraction(value.mul(value), bits) {
        let root = Sum::of(square).power(&Sum::of(Ratio::new(1, 2)?), work)?;
        return if value.value < 0.0 { root.neg() } else { Some(root) };
    }
    let share = fraction(value.mul(Approx::rounded(PI).inverse()), bits)?;
    Sum::atom(Atom::Name("\\pi".to_owned())).mul(&Sum::of(share), work)
}

/// The only fraction that a value can be, if its error leaves no room for a chance.
fn fraction(value: Approx, bits: u32) -> Option<Ratio> {
    let room = -value.error.log2() - f64::from(bits) - MARGIN;
    let certain = |bottom: &i128| 2.0 * (*bottom as f64).log2() <= room;
    (1..=LARGEST_DENOMINATOR).take_while(certain).find_map(|bottom| {
        let top = (value.value * bottom as f64).round();
        let near = (value.value - top / bottom as f64).abs() <= value.error;
        // Beyond this, neighbours of a value are no longer told apart.
        (near && top.abs() < 1e15).then(|| Ratio::new(top as i128, bottom))?
    })
}

/// What an expression holds.
#[derive(Default)]
struct Survey<'a> {
    names: BTreeSet<&'a str>,
    /// The digits that were written down, roughly.
    bits: u32,
    /// The bits of its longest number.
    longest: u32,
    calls: bool,
    either: bool,
}

impl<'a> Survey<'a> {
    fn of(sum: &'a Sum) -> Self {
        let mut survey = Self::default();
        survey.add(sum);
        survey
    }

    fn number(&mut self, value: Ratio) {
        let bits = |n: i128| n.unsigned_abs().checked_ilog2().unwrap_or(0);
        let bits = bits(value.top()) + bits(value.bottom());
        self.bits += bits;
        self.longest = self.longest.max(bits);
    }

    fn add(&mut self, sum: &'a Sum) {
        for (product, factor) in sum.terms() {
            // Each term counts, so this also bounds the work.
            self.bits += 1;
            if self.bits > MOST_BITS {
                return;
            }
            self.number(factor);
            for (atom, exponent) in product {
                self.number(*exponent);
                match atom {
                    Atom::Name(name) if name == "\\pi" || name == "e" => {}
                    Atom::Name(name) => {
                        self.names.insert(name);
                    }
                    Atom::Prime(prime) => self.number(Ratio::whole(i128::from(*prime))),
                    Atom::Imaginary => {}
                    Atom::PlusMinus => self.either = true,
                    Atom::Group(sum) => self.add(sum),
                    Atom::Power(base, power) => {
                        self.add(base);
                        self.add(power);
                    }
                    Atom::Call(name, argument) => {
                        self.calls = true;
                        if name == BARE_LOG {
                            self.names.insert(BARE_LOG);
                        }
                        self.add(argument);
                    }
                }
            }
        }
    }
}

/// Values of expressions at one point.
struct Values<'a> {
    at: &'a dyn Fn(&str) -> Option<f64>,
    sign: Option<f64>,
    /// Whether somewhere a term drowned in the error of its sum. A value with its error
    /// is right all the same, but no evidence that what is close to it equals it.
    drowned: bool,
    work: &'a mut Work,
}

impl Values<'_> {
    fn sum(&mut self, sum: &Sum) -> Result<Approx, Gap> {
        self.terms(sum).map(|(value, _)| value)
    }

    /// The value, and the size of the smallest term.
    fn terms(&mut self, sum: &Sum) -> Result<(Approx, f64), Gap> {
        let (mut total, mut smallest, mut count) = (Approx::exact(0.0), f64::INFINITY, 0);
        for (product, factor) in sum.terms() {
            let mut term = Approx::of(factor);
            for (atom, exponent) in product {
                term = term.mul(self.atom(atom)?.power(*exponent)?);
            }
            smallest = smallest.min(term.value.abs());
            // The first term is taken as it is: `\arcsin(1)` has an exact argument.
            total = if count == 0 { term } else { total.add(term) };
            count += 1;
        }
        self.drowned |= count > 1 && total.error > RESOLUTION * smallest;
        Ok((total, smallest))
    }

    fn atom(&mut self, atom: &Atom) -> Result<Approx, Gap> {
        self.work.visit().ok_or(Gap::Spent)?;
        match atom {
            Atom::Name(name) => match name.as_str() {
                "\\pi" => Ok(Approx::rounded(PI)),
                "e" => Ok(Approx::rounded(E)),
                "\\infty" => Err(Gap::Undefined),
                name => (self.at)(name).map(Approx::exact).ok_or(Gap::Undefined),
            },
            Atom::Prime(prime) => Ok(Approx::of(Ratio::whole(i128::from(*prime)))),
            Atom::Imaginary => Err(Gap::Undefined),
            Atom::PlusMinus => self.sign.map(Approx::exact).ok_or(Gap::Undefined),
            Atom::Group(sum) => self.sum(sum),
            Atom::Power(base, power) => self.sum(base)?.to_the(self.sum(power)?),
            Atom::Call(name, argument) => self.call(name, argument),
        }
    }

    fn call(&mut self, name: &str, argument: &Sum) -> Result<Approx, Gap> {
        let x = self.sum(argument)?;
        Ok(match name {
            "\\sin" => x.level(f64::sin),
            "\\cos" => x.level(f64::cos),
            "\\tan" => x.level(f64::sin).mul(x.level(f64::cos).inverse()),
            "\\cot" => x.level(f64::cos).mul(x.level(f64::sin).inverse()),
            "\\sec" => x.level(f64::cos).inverse(),
            "\\csc" => x.level(f64::sin).inverse(),
            "\\arcsin" => x.through(f64::asin)?,
            "\\arccos" => x.through(f64::acos)?,
            "\\arctan" => x.level(f64::atan),
            "\\sinh" => x.through(f64::sinh)?,
            "\\cosh" => x.through(f64::cosh)?,
            "\\tanh" => x.level(f64::tanh),
            "\\ln" => x.through(f64::ln)?,
            BARE_LOG => {
                let base = (self.at)(BARE_LOG).ok_or(Gap::Undefined)?;
                x.through(f64::ln)?.mul(Approx::rounded(base).inverse())
            }
            "\\abs" => x.level(f64::abs),
            _ => return Err(Gap::Undefined),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{canonical, equiv};
    use super::*;

    #[test]
    fn expressions_of_one_value_are_the_same() {
        for (a, b) in [
            ("\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}"),
            ("\\frac{x^2+2x+1}{x^2-1}", "\\frac{x+1}{x-1}"),
            ("\\sin\\frac{\\pi}{12}", "\\frac{\\sqrt{6}-\\sqrt{2}}{4}"),
            ("\\sqrt[3]{2+\\sqrt{5}}+\\sqrt[3]{2-\\sqrt{5}}", "1"),
            ("\\ln 12-\\ln 2", "\\ln 6"),
            ("\\sin^2 x+\\cos^2 x", "1"),
            ("\\sin 2x", "2\\sin x\\cos x"),
            ("\\sqrt{x^2}", "|x|"),
            ("\\log_2(x^3)", "3\\log_2 x"),
            ("\\log(xy)", "\\log x+\\log y"),
            ("\\frac{a^2-b^2}{a^2+2ab+b^2}", "\\frac{a-b}{a+b}"),
            ("\\sqrt{x-5}\\sqrt{x-5}\\sqrt{x+1}", "(x-5)\\sqrt{x+1}"),
            ("(\\sqrt{3+2\\sqrt{2}},\\tan x)", "(1+\\sqrt{2},\\frac{\\sin x}{\\cos x})"),
            ("\\ln 12-\\ln 2,x", "\\ln 6,x"),
            ("\\sqrt{x^2+2x+1}", "|x+1|"),
            ("\\sqrt{x^2-2xy+y^2}", "|x-y|"),
            ("\\ln x^2", "2\\ln x"),
            ("\\exp(x^2+\\ln x)", "\\exp(x^2)\\exp(\\ln x)"),
            ("\\sqrt{\\sin(y-x)}\\sqrt{\\exp(x+y)}", "\\sqrt{\\sin(y-x)\\exp(x+y)}"),
            ("6^{-x}\\cdot5^{-x}\\sin(2x)", "2\\cdot6^{-x}\\cdot5^{-x}\\sin(x)\\cos(x)"),
            (
                "\\sin(2(ab+bc+cd+dh+hj+jk+kl+lm+mn+n))",
                "2\\sin(ab+bc+cd+dh+hj+jk+kl+lm+mn+n)\\cos(ab+bc+cd+dh+hj+jk+kl+lm+mn+n)",
            ),
            ("e^{-x^2}\\sin(2x)", "2e^{-x^2}\\sin(x)\\cos(x)"),
            ("\\sinh(2x)", "2\\sinh(x)\\cosh(x)"),
            ("e^{-x}\\sqrt{e^{2x}+1}", "\\sqrt{1+e^{-2x}}"),
            ("(\\exp(-x)+1)^2-1", "\\exp(-x)\\cdot(\\exp(-x)+2)"),
        ] {
            assert!(equiv(a, b), "{a} and {b}");
            assert!(equiv(b, a), "{b} and {a}");
        }
    }

    #[test]
    fn expressions_of_different_values_are_not_the_same() {
        for (a, b) in [
            ("\\sqrt{3+2\\sqrt{3}}", "1+\\sqrt{2}"),
            ("\\sqrt{x^2}", "x"),
            ("\\sin x", "\\sin y"),
            ("\\frac{x+1}{x-1}", "\\frac{y+1}{y-1}"),
            ("\\ln 2+\\ln 3", "\\ln 5"),
            ("\\log 100", "2"),
            ("\\log 2", "\\ln 2"),
            ("\\cos(n\\pi)", "(-1)^n"),
            ("1\\pm\\sqrt{3+2\\sqrt{2}}", "2+\\sqrt{2}"),
            ("(1+\\sqrt{2},3)", "[\\sqrt{3+2\\sqrt{2}},3]"),
            ("(1+\\sqrt{2},3)", "(3,\\sqrt{3+2\\sqrt{2}})"),
            ("\\cos(\\pi/3)\\%", "\\cos(\\pi/3)"),
            ("e^{i\\pi}+\\sqrt{3+2\\sqrt{2}}", "\\sqrt{2}"),
        ] {
            assert!(!equiv(a, b), "{a} and {b}");
            assert!(!equiv(b, a), "{b} and {a}");
        }
    }

    #[test]
    fn what_is_the_same_for_some_signs_and_sizes_only_is_not() {
        for (a, b) in [
            ("|x+1|", "x+1"),
            ("\\sqrt{(x+1)^2}", "x+1"),
            ("\\sqrt{x^2+10x+25}", "x+5"),
            ("|2x+3|", "2x+3"),
            ("\\frac{|x+4|}{x+4}", "1"),
            ("|x+5|-|x-5|", "x+5-|x-5|"),
            ("\\sqrt[4]{(x+2)^4}", "x+2"),
            ("|100-x|", "100-x"),
            ("\\sqrt{(x-100)^2}", "100-x"),
            ("|1000000-x|", "1000000-x"),
            ("\\sqrt{(x-1000)^2}", "1000-x"),
            ("|x-3|+|x-4|", "|2x-7|"),
            ("\\exp(7/y)", "\\exp(7/|y|)"),
            ("\\sqrt[3]{2y}-6", "\\sqrt[3]{\\sqrt{y^2}+y}-6"),
            ("\\sqrt{\\sqrt{x^2}+x}", "\\sqrt{2\\cdot|x|}"),
            ("\\frac{1}{2x}+1", "\\frac{1}{x+|x|}+1"),
            ("|x+y+1|", "x+y+1"),
            ("|x+y-1000000|", "1000000-x-y"),
            ("|xy|+1", "xy+1"),
            ("|xy|+|yz|+|zx|", "|xy+yz+zx|"),
            ("|xyz|-xyz", "0"),
            ("|abcd|", "abc\\cdot d"),
            ("|a-d|", "|a+d|"),
            ("|x|\\cdot y", "|xy|"),
        ] {
            assert!(!equiv(a, b), "{a} and {b}");
            assert!(!equiv(b, a), "{b} and {a}");
        }
    }

    #[test]
    fn what_there_is_no_work_left_to_decide_is_different() {
        let decided = |a: &str, b: &str, values: u32| {
            let side =
                |text| super::super::expression::expression(text, &mut Work::new()).expect("an expression");
            equal(&side(a), &side(b), &mut Work::with_values(values))
        };
        assert!((0..200).all(|values| !decided("|x+1|", "x+1", values)));
        assert!(decided("|x+1|", "\\sqrt{x^2+2x+1}", 400));
    }

    #[test]
    fn any_three_unknowns_have_all_signs() {
        let points: Vec<_> = (0..ROUNDS).flat_map(|round| (0..ROWS).map(move |row| (round, row))).collect();
        for (a, b, c) in (0..15).flat_map(|a| (0..a).flat_map(move |b| (0..b).map(move |c| (a, b, c)))) {
            let signs = |(round, row)| [a, b, c].map(|name| sample(round, row, name) < 0.0);
            let seen: BTreeSet<_> = points.iter().copied().map(signs).collect();
            assert_eq!(seen.len(), 8, "{a}, {b} and {c}");
        }
    }

    #[test]
    fn an_approximation_is_not_what_it_approximates() {
        for (exact, near) in [
            ("\\frac{1}{3}", "0.333"),
            ("\\frac{1}{3}", "0.33333333333333333333"),
            ("\\sqrt{2}", "1.4142135623730951"),
            ("\\sqrt{2}", "\\sqrt{1.9999999999999999}"),
            ("\\sqrt{2}", "\\frac{131836323}{93222358}"),
            ("\\pi", "3.14159265358979323846"),
            ("\\ln 2", "0.693147180559945309"),
            ("e", "2.718281828459045"),
            ("\\frac{1}{2}", "\\ln(1.6487212707001282)"),
            ("3", "\\log_2(8.0000000000000001)"),
            ("0", "\\sin(3.14159265358979323846)"),
            ("x", "1.0000000000000001x"),
            ("\\sqrt{x+1}", "\\sqrt{x+1.0000000000000001}"),
            ("e^{100}", "e^{100}+1"),
            ("e^{100}", "\\sqrt{e^{200}+1}"),
            ("\\exp(-50)", "0"),
            ("\\ln(e^{100}+1)", "100"),
            ("\\sqrt{163}", "\\frac{\\ln(640320^3+744)}{\\pi}"),
        ] {
            assert!(!equiv(exact, near), "{exact} and {near}");
        }
    }

    #[test]
    fn closed_forms_of_known_value_are_that_value() {
        for (text, form) in [
            ("\\cos(\\pi/3)", "1/2"),
            ("\\log_2 8", "3"),
            ("\\log_{10}\\frac{1}{1000}", "-3"),
            ("\\log_4 8", "3/2"),
            ("\\frac{\\ln 8}{\\ln 2}", "3"),
            ("\\frac{\\log 8}{\\log 2}", "3"),
            ("\\tan\\frac{\\pi}{4}", "1"),
            ("\\sin(\\pi)", "0"),
            ("\\sin 30^\\circ", "1/2"),
            ("\\cos(120°)", "-1/2"),
            ("\\ln 1", "0"),
            ("\\ln e", "1"),
            ("e^{\\ln 2}", "2"),
            ("\\ln 6-\\ln 2-\\ln 3", "0"),
            ("\\arcsin 1", "\\pi/2"),
            ("\\arctan\\sqrt{3}", "\\pi/3"),
            ("\\sin(-\\frac{\\pi}{3})", "-\\sqrt{3}/2"),
            ("2x\\cos(\\pi/3)", "x"),
            ("|1-\\sqrt{2}|", "-1+\\sqrt{2}"),
            ("(\\log_2 8,\\cos 0]", "(3,1]"),
            ("\\{\\log_2 8,1\\}", "\\{1,3\\}"),
        ] {
            assert_eq!(canonical(text), form, "{text}");
        }
    }

    #[test]
    fn closed_forms_of_no_known_value_and_plain_roots_stay() {
        for text in
            ["\\ln(2)", "\\sin(1)", "\\log(100)", "\\sqrt{2}", "\\tan(\\pi/2)", "\\ln(-1)", "\\arcsin(2)"]
        {
            let form = canonical(text);
            assert_eq!(canonical(&form), form);
            assert!(form.contains('\\'), "{text} is {form}");
        }
    }

    #[test]
    fn malformed_deep_and_huge_expressions_end_quickly_and_differ() {
        let deep = format!("{}x{}", "\\sin(".repeat(180), ")".repeat(180));
        let chain = "\\sin".repeat(200) + " 2";
        let wide = format!("{}x{}", "(a+b+c)\\sin(".repeat(22), ")".repeat(22));
        let below = format!("{}x{}", "\\frac{a+b+c}{1+".repeat(20), "}".repeat(20));
        let texts = [
            deep.as_str(),
            &chain,
            &wide,
            &below,
            "\\log_2",
            "\\cos(",
            "\\log_{} 8",
            "\\log_1 8",
            "\\log_0 8",
            "\\ln 0",
            "\\frac{1}{\\sin(\\pi)}",
            "\\exp(999999999)",
            "\\exp(-999999999)",
            "e^{e^{e^{e^{9}}}}",
            "9^{9^{9^{9}}}",
            "x^{99999999999999999999}",
            "\\sin(10^{30})",
            "\\tan(\\frac{\\pi}{2})",
        ];
        for a in texts {
            for b in texts {
                assert_eq!(equiv(a, b), a == b, "{a} and {b}");
            }
        }
    }

    #[test]
    fn no_two_unknowns_share_a_value() {
        for row in 0..ROWS {
            let mut values: Vec<f64> = (0..40).map(|name| sample(0, row, name).abs()).collect();
            values.sort_by(f64::total_cmp);
            assert!(values.windows(2).all(|pair| pair[1] - pair[0] > 1e-6), "{row}");
        }
    }

    #[test]
    fn an_error_bounds_what_rounding_does() {
        for p in 1..7 {
            for q in 1..8 {
                // The sine of a triple angle is known exactly.
                let text = |f: &str| f.replace('#', &format!("\\frac{{{p}}}{{{q}}}"));
                let (triple, sines) = (text("\\sin(3\\cdot #)"), text("3\\sin(#)-4\\sin^3(#)"));
                assert!(equiv(&triple, &sines), "{triple} and {sines}");
                assert!(!equiv(&triple, &format!("{sines}+10^{{-6}}")), "{triple}");
            }
        }
    }
}
