//! The reader of simple LaTeX expressions.
//!
//! It takes the whole text or nothing. What people read in two ways is refused and
//! compared as text: a product below a slash (`1/2x`), a power of two digits without
//! braces (`x^12`), digits after a letter, words. A closed form with functions whose
//! value is known is that value (`\cos(\pi/3)` is 1/2, `\log_2 8` is 3); `\log_b x` is a
//! quotient of natural logarithms and `\exp(x)` a power of `e`. Deliberately absent:
//! macros, sums, integrals, limits.
//!
//! Length: one grammar, whose rules call each other.

use super::numeric;
use super::ratio::Ratio;
use super::sum::{Atom, Sum, Work};

/// Nested brackets, roots and fractions that are allowed.
const DEEPEST: usize = 24;

/// Letters side by side that are read as a product; longer runs are words.
const LONGEST_RUN: usize = 3;

const FUNCTIONS: &[&str] = &[
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln",
    "log", "exp",
];

const NAMES: &[&str] = &[
    "pi", "alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "nu", "rho", "sigma", "tau",
    "phi", "varphi", "psi", "omega", "Delta", "Gamma", "Omega", "ell",
];

/// The normal form of an expression, if the text is one. In front of a bracket, `f` and
/// `g` are functions: `f(3)` is not `3f`. Other letters are factors, as in `P(1+r)^2`.
pub(super) fn expression(text: &str, work: &mut Work) -> Option<Sum> {
    read(text, "fg", work)
}

/// The same for a side of an equation, which may say what a function is somewhere.
pub(super) fn side(text: &str, work: &mut Work) -> Option<Sum> {
    read(text, "fghPQ", work)
}

fn read(text: &str, functions: &str, work: &mut Work) -> Option<Sum> {
    // A single word is one, however few letters it has.
    let word = text.len() > 1 && text.bytes().all(|b| b.is_ascii_alphabetic());
    if word && !matches!(text, "pi" | "inf") {
        return None;
    }
    let mut reader = Reader { rest: text, whole: text, functions, depth: 0, work };
    let sum = reader.sum()?;
    reader.space();
    reader.rest.is_empty().then(|| numeric::known(&sum, reader.work).unwrap_or(sum))
}

struct Reader<'a> {
    rest: &'a str,
    whole: &'a str,
    /// Letters that are functions in front of a bracket.
    functions: &'a str,
    depth: usize,
    work: &'a mut Work,
}

impl<'a> Reader<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Whether the text goes on with this, which is then behind us.
    fn takes(&mut self, what: &str) -> bool {
        self.space();
        let Some(rest) = self.rest.strip_prefix(what) else { return false };
        // `\cdots` is not `\cdot`.
        let longer =
            what.starts_with('\\') && what.len() > 2 && rest.starts_with(|c: char| c.is_ascii_alphabetic());
        if !longer {
            self.rest = rest;
        }
        !longer
    }

    fn peek(&mut self) -> Option<char> {
        self.space();
        self.rest.chars().next()
    }

    fn sum(&mut self) -> Option<Sum> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        self.work.spend(1)?;
        let mut sum = Sum::of(Ratio::ZERO);
        let mut first = true;
        loop {
            let (minus, either) = if self.takes("-") {
                (true, false)
            } else if self.takes("+") {
                (false, false)
            } else if self.takes("\\pm") {
                (false, true)
            } else if first {
                (false, false)
            } else {
                break;
            };
            first = false;
            // After `2+` a sign of its own is still allowed, as in `2+-3`.
            let inner = self.takes("-");
            let either = either || self.takes("\\pm");
            if either {
                self.takes("*");
            }
            let mut term = self.product()?;
            if either {
                term = term.mul(&Sum::atom(Atom::PlusMinus), self.work)?;
            }
            sum = sum.add(&if minus ^ inner { term.neg()? } else { term }, self.work)?;
        }
        self.depth -= 1;
        Some(sum)
    }

    fn product(&mut self) -> Option<Sum> {
        let (mut product, mut digits) = self.power()?;
        let mut below_slash = false;
        loop {
            self.work.spend(1)?;
            if self.takes("*") || self.takes("\\cdot") || self.takes("\\times") || self.takes("\\ast") {
                let minus = self.takes("-");
                let factor = self.power()?.0;
                product = product.mul(&if minus { factor.neg()? } else { factor }, self.work)?;
                (digits, below_slash) = (false, false);
            } else if self.takes("/") || self.takes("\\div") {
                // `12/25/2020` is a date.
                if below_slash {
                    return None;
                }
                let minus = self.takes("-");
                let factor = self.power()?.0;
                product = product.div(&if minus { factor.neg()? } else { factor }, self.work)?;
                (digits, below_slash) = (false, true);
            } else if self.begins_factor() {
                if below_slash || self.peek()?.is_ascii_digit() {
                    return None;
                }
                let fraction = self.rest.starts_with("\\frac");
                let factor = self.power()?.0;
                product = match factor.as_ratio() {
                    // A mixed number; anything else of that shape is unclear.
                    Some(part) if fraction && digits => {
                        let proper = !part.is_negative() && part.floor() == 0 && !part.is_zero();
                        product.as_ratio().and_then(Ratio::as_whole).filter(|_| proper)?;
                        product.add(&factor, self.work)?
                    }
                    _ => product.mul(&factor, self.work)?,
                };
                digits = false;
            } else {
                return Some(product);
            }
        }
    }

    fn begins_factor(&mut self) -> bool {
        match self.peek() {
            Some('\\') => !["\\pm", "\\%", "\\}"].iter().any(|end| self.rest.starts_with(end)),
            Some(c) => c.is_ascii_alphanumeric() || matches!(c, '(' | '{' | '.'),
            None => false,
        }
    }

    /// An atom with its power and factorials, and whether it was digits alone.
    fn power(&mut self) -> Option<(Sum, bool)> {
        let digits = self.peek()?.is_ascii_digit();
        let before = self.rest;
        let mut base = self.atom()?;
        let plain = digits && before[..before.len() - self.rest.len()].bytes().all(|b| b.is_ascii_digit());
        base = self.degrees(base)?;
        if self.takes("!") {
            let n = base.as_ratio()?.as_whole().filter(|n| (0..=30).contains(n))?;
            base = Sum::of(Ratio::whole((1..=n).product()));
        }
        if !self.takes("^") {
            return Some((base, plain));
        }
        let exponent = self.exponent()?;
        // One more power without brackets would be read in two ways.
        let clear = !self.takes("^");
        Some((clear.then(|| base.power(&exponent, self.work))??, false))
    }

    fn exponent(&mut self) -> Option<Sum> {
        if matches!(self.peek()?, '{' | '(') {
            return self.atom();
        }
        let minus = self.takes("-");
        let digits = self.peek()?.is_ascii_digit();
        if digits && self.rest[1..].starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '/')) {
            return None;
        }
        let exponent = if digits {
            let digit = self.rest[..1].parse().ok()?;
            self.rest = &self.rest[1..];
            Sum::of(Ratio::whole(digit))
        } else {
            self.atom()?
        };
        if minus { exponent.neg() } else { Some(exponent) }
    }

    fn atom(&mut self) -> Option<Sum> {
        match self.peek()? {
            c if c.is_ascii_digit() || c == '.' => self.number(),
            '(' => self.bracketed('(', ")"),
            '{' => self.bracketed('{', "}"),
            '|' => {
                let value = self.bracketed('|', "|")?;
                self.absolute(value)
            }
            '\\' => self.command(),
            c if c.is_ascii_alphabetic() => self.letters(),
            _ => None,
        }
    }

    /// A closed form without its sign; the sign of anything else is unknown.
    fn absolute(&mut self, value: Sum) -> Option<Sum> {
        let negative = match value.as_ratio() {
            Some(ratio) => Some(ratio.is_negative()),
            None => numeric::is_negative(&value, self.work),
        };
        match negative {
            Some(true) => value.neg(),
            Some(false) => Some(value),
            None => Some(Sum::atom(Atom::Call("\\abs".to_owned(), value.shared(self.work)?))),
        }
    }

    /// Degrees, where the text has a function that takes an angle, in radians.
    fn degrees(&mut self, value: Sum) -> Option<Sum> {
        if !self.takes("\\degree") {
            return Some(value);
        }
        let degree =
            Sum::atom(Atom::Name("\\pi".to_owned())).mul(&Sum::of(Ratio::new(1, 180)?), self.work)?;
        value.mul(&degree, self.work)
    }

    fn bracketed(&mut self, open: char, close: &str) -> Option<Sum> {
        self.space();
        self.rest = self.rest.strip_prefix(open)?;
        let sum = self.sum()?;
        self.takes(close).then_some(sum)
    }

    fn number(&mut self) -> Option<Sum> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (whole, rest) = self.rest.split_at(end);
        self.rest = rest;
        let mut value = Ratio::whole(if whole.is_empty() { 0 } else { whole.parse().ok()? });
        let Some(rest) = rest.strip_prefix('.') else { return Some(Sum::of(value)) };
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (part, rest) = rest.split_at(end);
        self.rest = rest;
        let scale = Ratio::whole(10).power(i128::try_from(part.len()).ok()?)?;
        if !part.is_empty() {
            value = value.add(Ratio::whole(part.parse().ok()?).mul(scale.inverse()?)?)?;
        }
        // A repeating decimal is the fraction that it means.
        if let Some((period, rest)) = self.rest.strip_prefix("\\overline{").and_then(|r| r.split_once('}')) {
            self.rest = rest;
            let nines = Ratio::whole(10).power(i128::try_from(period.len()).ok()?)?.add(Ratio::whole(-1))?;
            let period = Ratio::whole(period.parse::<u64>().ok()?.into());
            value = value.add(period.mul(scale.mul(nines)?.inverse()?)?)?;
        } else if part.is_empty() {
            return None;
        }
        Some(Sum::of(value))
    }

    fn command(&mut self) -> Option<Sum> {
        let name = self.rest.strip_prefix('\\')?;
        let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
        let (name, rest) = name.split_at(end);
        self.rest = rest;
        match name {
            "frac" => {
                let (top, bottom) = (self.argument()?, self.argument()?);
                top.div(&bottom, self.work)
            }
            "sqrt" => {
                let degree = if self.takes("[") {
                    let degree = self.sum()?.as_ratio()?;
                    self.takes("]").then_some(degree)?
                } else {
                    Ratio::whole(2)
                };
                let inside = self.argument()?;
                inside.power(&Sum::of(degree.inverse()?), self.work)
            }
            "binom" => {
                let mut number = || self.argument()?.as_ratio()?.as_whole();
                let (n, k) = (number()?, number()?);
                let of = |i: i128| Ratio::new(n - i, i + 1);
                let range = (0..=60).contains(&n) && (0..=n).contains(&k);
                let product = (0..k).try_fold(Ratio::ONE, |product, i| product.mul(of(i)?));
                range.then(|| product.map(Sum::of))?
            }
            "abs" => {
                let value = self.bracketed('(', ")")?;
                self.absolute(value)
            }
            "infty" => self.infinity(),
            _ if NAMES.contains(&name) => self.named(format!("\\{name}")),
            _ if FUNCTIONS.contains(&name) => self.call(name),
            _ => None,
        }
    }

    /// A command's argument: braces, or one digit or letter.
    fn argument(&mut self) -> Option<Sum> {
        match self.peek()? {
            '{' => self.bracketed('{', "}"),
            '(' => self.bracketed('(', ")"),
            c if c.is_ascii_digit() => {
                self.rest = &self.rest[1..];
                Some(Sum::of(Ratio::whole(i128::from(c.to_digit(10)?))))
            }
            c if c.is_ascii_alphabetic() => {
                self.rest = &self.rest[1..];
                Some(letter(c))
            }
            '\\' if self.rest.starts_with("\\pi") => self.command(),
            _ => None,
        }
    }

    /// A function of what stands in brackets, or of the factors that follow it.
    fn call(&mut self, name: &str) -> Option<Sum> {
        let index = if self.takes("_") { Some(self.argument()?) } else { None };
        let power = if self.takes("^") { Some(self.exponent()?) } else { None };
        // `\sin^{-1}` may be the inverse function.
        if power.as_ref().and_then(Sum::as_ratio).is_some_and(Ratio::is_negative) {
            return None;
        }
        let argument = if matches!(self.peek()?, '(' | '{') {
            let argument = self.atom()?;
            self.degrees(argument)?
        } else {
            let mut argument = self.power()?.0;
            while self.begins_factor() && !self.peek()?.is_ascii_digit() {
                if FUNCTIONS.iter().any(|f| self.rest.strip_prefix('\\').is_some_and(|r| r.starts_with(f))) {
                    break;
                }
                argument = argument.mul(&self.power()?.0, self.work)?;
            }
            argument
        };
        let value = match (name, index) {
            ("exp", None) => Sum::atom(Atom::Name("e".to_owned())).power(&argument, self.work)?,
            ("log", Some(base)) => {
                let top = self.value("\\ln".to_owned(), argument)?;
                let bottom = self.value("\\ln".to_owned(), base)?;
                let value = top.div(&bottom, self.work)?;
                numeric::known(&value, self.work).unwrap_or(value)
            }
            (name, None) => self.value(format!("\\{name}"), argument)?,
            (name, Some(index)) => self.value(format!("\\{name}_{{{index}}}"), argument)?,
        };
        power.map_or(Some(value.clone()), |power| value.power(&power, self.work))
    }

    /// A function's value: what it is known to be, or an atom of its own.
    fn value(&mut self, name: String, argument: Sum) -> Option<Sum> {
        let value = Sum::atom(Atom::Call(name, argument.shared(self.work)?));
        Some(numeric::known(&value, self.work).unwrap_or(value))
    }

    fn letters(&mut self) -> Option<Sum> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(end);
        match run {
            "sqrt" if rest.starts_with('(') => {
                self.rest = rest;
                let half = Sum::of(Ratio::new(1, 2)?);
                return self.bracketed('(', ")")?.power(&half, self.work);
            }
            "pi" | "inf" => {
                self.rest = rest;
                return if run == "pi" { self.named("\\pi".to_owned()) } else { self.infinity() };
            }
            _ if FUNCTIONS.contains(&run) && rest.starts_with('(') => {
                self.rest = rest;
                return self.call(run);
            }
            _ => {}
        }
        // Letters between spaces are words.
        if run.len() > LONGEST_RUN || (run.len() > 1 && self.whole.contains(' ')) {
            return None;
        }
        let first = run.chars().next()?;
        self.rest = &self.rest[1..];
        if self.functions.contains(first) {
            for inverse in ["", "^{-1}"] {
                if let Some(rest) = self.rest.strip_prefix(inverse).filter(|rest| rest.starts_with('(')) {
                    self.rest = rest;
                    let argument = self.bracketed('(', ")")?.shared(self.work)?;
                    return Some(Sum::atom(Atom::Call(format!("{first}{inverse}"), argument)));
                }
            }
        }
        if run.len() == 1 && self.rest.starts_with('_') {
            self.named(first.to_string())
        } else {
            Some(letter(first))
        }
    }

    /// Infinity stands alone: `\infty-\infty` is not 0.
    fn infinity(&self) -> Option<Sum> {
        let bare = self.whole.trim_matches(|c: char| "+-(){} ".contains(c));
        matches!(bare, "\\infty" | "inf").then(|| Sum::atom(Atom::Name("\\infty".to_owned())))
    }

    /// A name, with its subscript.
    fn named(&mut self, name: String) -> Option<Sum> {
        if !self.rest.starts_with('_') {
            return Some(Sum::atom(Atom::Name(name)));
        }
        self.rest = &self.rest[1..];
        let index = self.argument()?;
        Some(Sum::atom(Atom::Name(format!("{name}_{{{index}}}"))))
    }
}

fn letter(letter: char) -> Sum {
    Sum::atom(if letter == 'i' { Atom::Imaginary } else { Atom::Name(letter.to_string()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Option<String> {
        expression(text, &mut Work::new()).map(|sum| sum.to_string())
    }

    #[test]
    fn equal_expressions_have_one_form() {
        for (a, b) in [
            ("\\sqrt{12}", "2\\sqrt3"),
            ("\\frac{6}{\\sqrt{3}}", "2\\sqrt{3}"),
            ("\\frac{1}{1+\\sqrt2}", "\\sqrt{2}-1"),
            ("\\frac{\\sqrt{3}}{2}", "0.5\\cdot\\sqrt{3}"),
            ("\\sqrt[3]{16}", "2\\sqrt[3]{2}"),
            ("\\sqrt{\\frac{1}{2}}", "\\frac{\\sqrt2}{2}"),
            ("\\sqrt2\\times\\sqrt2", "2"),
            ("\\frac{3}{4}\\pi", "\\frac{3\\pi}{4}"),
            ("(x+1)^2", "x^2+2x+1"),
            ("\\frac{x^2-1}{x-1}", "1+x"),
            ("2xy", "yx*2"),
            ("-2i\\cdot i", "2"),
            ("\\frac{1}{1+i}", "\\frac{1-i}{2}"),
            ("\\sqrt{-4}", "2i"),
            ("1\\pm\\sqrt{8}", "\\pm2\\sqrt{2}+1"),
            ("2^{n+1}", "2\\cdot2^n"),
            ("7\\frac{3}{4}", "\\frac{31}{4}"),
            ("0.\\overline{3}", "\\frac13"),
            ("1.2\\times10^{3}", "1200"),
            ("5!", "120"),
            ("\\binom{5}{2}", "10"),
            ("\\sin(2x)", "\\sin 2x"),
            ("\\frac{2}{2x+2}", "\\frac{1}{x+1}"),
            ("P(1+r)^2", "P+2Pr+Pr^2"),
            ("2f(x+x)", "f(2x)\\cdot2"),
        ] {
            assert!(form(a).is_some(), "{a}");
            assert_eq!(form(a), form(b), "{a} and {b}");
        }
    }

    #[test]
    fn different_expressions_differ() {
        for (a, b) in [
            ("\\sqrt{2}", "1.41421356237309504880"),
            ("\\pi", "3.14159265358979323846"),
            ("\\sqrt{x^2}", "x"),
            ("x", "X"),
            ("2^n", "n^2"),
            ("-x^2", "(-x)^2"),
            ("\\sin x", "\\cos x"),
            ("f(3)", "3f"),
            ("f(x+1)-f(x)", "f"),
        ] {
            assert!(form(a).is_some() && form(b).is_some(), "{a} {b}");
            assert_ne!(form(a), form(b), "{a} and {b}");
        }
    }

    #[test]
    fn what_is_unclear_or_endless_is_no_expression() {
        let deep = format!("{}1{}", "(".repeat(400), ")".repeat(400));
        let wide = "(a+b+c+d)^{12}";
        for text in [
            "",
            "1/2x",
            "x^12",
            "x2",
            "2 3",
            "1e3",
            "Monday",
            "no x",
            "1/0",
            "0^{0}1",
            "\\sqrt{",
            "2\\frac{4}{3}",
        ]
        .into_iter()
        .chain([
            deep.as_str(),
            wide,
            "9^{9^{9^{9}}}",
            "\\sqrt{99999999999999}",
            "{,}",
            "a+",
            "2^^2",
            "\\sin^{-1}x",
        ]) {
            assert_eq!(form(text), None, "{text}");
        }
    }
}
