//! The normal form of an expression: a sum of rational multiples of products of
//! powers.
//!
//! Exact: what is equal here is equal. Roots of whole numbers are products of primes to powers between
//! 0 and 1, so that `\sqrt{12}`, `2\sqrt3` and `\frac{6}{\sqrt3}` are one; `i^2` is
//! -1 and `\pm^2` is 1. What the rules cannot open (a function, a root of a sum, a
//! power with an unknown exponent) is a factor of its own, known by its normal
//! form. Deliberately absent: factorisation, identities of functions with unknowns,
//! nested roots, reduction of fractions of sums that do not divide. Those are compared
//! by value ([`numeric`](super::numeric)), pair by pair. All work is counted, and an
//! expression that asks for too much has no normal form.
//!
//! Length: one arithmetic, whose operations are defined by each other.

use super::ratio::{Ratio, gcd};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Terms of a sum, and products of terms in one expression, that are allowed.
const MOST_TERMS: usize = 64;
const MOST_STEPS: u32 = 12_000;

/// Atoms that may be evaluated; an expression that has more keeps its form.
const MOST_VALUES: u32 = 60_000;

/// Powers of sums up to this are multiplied out.
const LARGEST_POWER: i128 = 12;

/// Numbers up to this are factored.
const LARGEST_FACTORED: u64 = 100_000_000;

/// Counts what an expression costs.
#[derive(Debug)]
pub(super) struct Work {
    steps: u32,
    values: u32,
}

impl Work {
    pub(super) fn new() -> Self {
        Self { steps: MOST_STEPS, values: MOST_VALUES }
    }

    #[cfg(test)]
    pub(super) fn with_values(values: u32) -> Self {
        Self { values, ..Self::new() }
    }

    pub(super) fn spend(&mut self, steps: u32) -> Option<()> {
        self.steps = self.steps.checked_sub(steps)?;
        Some(())
    }

    /// Counts an atom that is evaluated. Apart from the steps, so that a comparison
    /// by value never costs an expression its exact form.
    pub(super) fn visit(&mut self) -> Option<()> {
        self.values = self.values.checked_sub(1)?;
        Some(())
    }
}

/// What a product is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    /// A variable or constant, as spelled.
    Name(String),
    /// A prime, to powers between 0 and 1.
    Prime(u64),
    /// The imaginary unit.
    Imaginary,
    /// Either sign.
    PlusMinus,
    /// A sum that is not multiplied out: below a fraction bar or a root.
    Group(Arc<Sum>),
    /// A base to a power that holds names.
    Power(Arc<Sum>, Arc<Sum>),
    /// A function's value.
    Call(String, Arc<Sum>),
}

pub(super) type Product = BTreeMap<Atom, Ratio>;

/// A sum of rational multiples of products; none is zero.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sum(BTreeMap<Product, Ratio>);

impl Sum {
    pub(super) fn of(value: Ratio) -> Self {
        Self::term(Product::new(), value)
    }

    pub(super) fn atom(atom: Atom) -> Self {
        Self::term(Product::from([(atom, Ratio::ONE)]), Ratio::ONE)
    }

    fn term(product: Product, factor: Ratio) -> Self {
        Self(if factor.is_zero() { BTreeMap::new() } else { BTreeMap::from([(product, factor)]) })
    }

    /// The value, where it is rational.
    pub(super) fn as_ratio(&self) -> Option<Ratio> {
        match self.only() {
            None => self.0.is_empty().then_some(Ratio::ZERO),
            Some((product, factor)) => product.is_empty().then_some(factor),
        }
    }

    fn only(&self) -> Option<(&Product, Ratio)> {
        let (product, factor) = self.0.first_key_value()?;
        (self.0.len() == 1).then_some((product, *factor))
    }

    /// The products and their factors, in one order.
    pub(super) fn terms(&self) -> impl Iterator<Item = (&Product, Ratio)> {
        self.0.iter().map(|(product, factor)| (product, *factor))
    }

    /// The sum as a part of an atom. Copies of atoms share it, so that a short text
    /// could spell an endless tree; hence every part of the tree is counted.
    pub(super) fn shared(self, work: &mut Work) -> Option<Arc<Self>> {
        self.weigh(work)?;
        Some(Arc::new(self))
    }

    fn weigh(&self, work: &mut Work) -> Option<()> {
        for product in self.0.keys() {
            work.spend(1)?;
            for atom in product.keys() {
                match atom {
                    Atom::Group(sum) | Atom::Call(_, sum) => sum.weigh(work)?,
                    Atom::Power(base, power) => {
                        base.weigh(work)?;
                        power.weigh(work)?;
                    }
                    Atom::Name(_) | Atom::Prime(_) | Atom::Imaginary | Atom::PlusMinus => {}
                }
            }
        }
        Some(())
    }

    pub(super) fn neg(&self) -> Option<Self> {
        self.scaled(Ratio::whole(-1))
    }

    fn scaled(&self, by: Ratio) -> Option<Self> {
        if by.is_zero() {
            return Some(Self(BTreeMap::new()));
        }
        self.0.iter().map(|(p, f)| Some((p.clone(), f.mul(by)?))).collect::<Option<_>>().map(Self)
    }

    pub(super) fn add(&self, other: &Self, work: &mut Work) -> Option<Self> {
        let mut sum = self.clone();
        sum.absorb(other, work)?;
        Some(sum)
    }

    fn absorb(&mut self, other: &Self, work: &mut Work) -> Option<()> {
        for (product, factor) in &other.0 {
            work.spend(1)?;
            let total = self.0.get(product).copied().unwrap_or(Ratio::ZERO).add(*factor)?;
            if total.is_zero() {
                self.0.remove(product);
            } else {
                self.0.insert(product.clone(), total);
            }
        }
        (self.0.len() <= MOST_TERMS).then_some(())
    }

    pub(super) fn mul(&self, other: &Self, work: &mut Work) -> Option<Self> {
        let mut sum = Self(BTreeMap::new());
        for (p, f) in &self.0 {
            for (q, g) in &other.0 {
                work.spend(1)?;
                let mut product = p.clone();
                for (atom, exponent) in q {
                    raise(&mut product, atom, *exponent)?;
                }
                sum.absorb(&opened(product, f.mul(*g)?, work)?, work)?;
            }
        }
        Some(sum)
    }

    pub(super) fn div(&self, other: &Self, work: &mut Work) -> Option<Self> {
        if other.0.len() > 1
            && let Some(quotient) = self.quotient(other, work)
        {
            return Some(quotient);
        }
        self.mul(&other.power(&Self::of(Ratio::whole(-1)), work)?, work)
    }

    pub(super) fn power(&self, exponent: &Self, work: &mut Work) -> Option<Self> {
        work.spend(1)?;
        let Some(power) = exponent.as_ratio() else { return self.unknown_power(exponent, work) };
        if let Some(n) = power.as_whole()
            && self.0.len() > 1
            && (0..=LARGEST_POWER).contains(&n)
        {
            let mut result = Self::of(Ratio::ONE);
            for _ in 0..n {
                result = result.mul(self, work)?;
            }
            return Some(result);
        }
        match self.only() {
            None if self.0.is_empty() => {
                let positive = !power.is_zero() && !power.is_negative();
                positive.then(|| Self::of(Ratio::ZERO))
            }
            None => self.group_power(power, work),
            Some((product, factor)) => match power.as_whole() {
                Some(n) => {
                    let mut raised = Product::new();
                    for (atom, exponent) in product {
                        raise(&mut raised, atom, exponent.mul(power)?)?;
                    }
                    opened(raised, factor.power(n)?, work)
                }
                None => root_of_product(product, factor, power, work),
            },
        }
    }

    /// A sum to a power that is negative or broken.
    fn group_power(&self, power: Ratio, work: &mut Work) -> Option<Self> {
        if power.is_negative() && power.as_whole().is_some() {
            if let Some(conjugate) = self.conjugate() {
                let denominator = self.mul(&conjugate, work)?;
                let inverse = denominator.power(&Self::of(Ratio::whole(-1)), work)?.mul(&conjugate, work)?;
                return inverse.power(&Self::of(power.neg()?), work);
            }
        } else if power.as_whole().is_some() {
            return None;
        }
        let mut content = self.content()?;
        if power.bottom() % 2 == 1 && self.0.first_key_value()?.1.is_negative() {
            content = content.neg()?;
        }
        let primitive = self.scaled(content.inverse()?)?;
        let outside = Self::of(content).power(&Self::of(power), work)?;
        let mut product = Product::new();
        raise(&mut product, &Atom::Group(primitive.shared(work)?), power)?;
        outside.mul(&opened(product, Ratio::ONE, work)?, work)
    }

    /// Some of the exponent is unknown; a whole number in it is taken out.
    fn unknown_power(&self, exponent: &Self, work: &mut Work) -> Option<Self> {
        let known = exponent.0.get(&Product::new()).copied().unwrap_or(Ratio::ZERO);
        let known = if known.as_whole().is_some() { known } else { Ratio::ZERO };
        let rest = exponent.add(&Self::of(known.neg()?), work)?;
        let outside =
            if known.is_zero() { Self::of(Ratio::ONE) } else { self.power(&Self::of(known), work)? };
        let (base, rest) = (self.clone().shared(work)?, rest.shared(work)?);
        outside.mul(&Self::atom(Atom::Power(base, rest)), work)
    }

    /// The sum with the sign of one square root (or of `i`) turned.
    fn conjugate(&self) -> Option<Self> {
        let half = Ratio::new(1, 2)?;
        let turned = |atom: &Atom, exponent: Ratio| match atom {
            Atom::Prime(_) => exponent == half,
            Atom::Imaginary => true,
            Atom::Name(_) | Atom::PlusMinus | Atom::Group(_) | Atom::Power(..) | Atom::Call(..) => false,
        };
        let broken = |atom: &Atom, e: Ratio| matches!(atom, Atom::Prime(_)) && e != half;
        if self.0.keys().flatten().any(|(atom, e)| broken(atom, *e)) {
            return None;
        }
        let (atom, _) = self.0.keys().flatten().find(|(atom, e)| turned(atom, **e))?;
        let sign = |p: &Product, f: &Ratio| if p.contains_key(atom) { f.neg() } else { Some(*f) };
        self.0.iter().map(|(p, f)| Some((p.clone(), sign(p, f)?))).collect::<Option<_>>().map(Self)
    }

    /// The largest positive number by which all factors are whole multiples.
    fn content(&self) -> Option<Ratio> {
        let mut top = 0;
        let mut bottom: u128 = 1;
        for factor in self.0.values() {
            let below = factor.bottom().unsigned_abs();
            top = gcd(top, factor.top().unsigned_abs());
            bottom = (bottom / gcd(bottom, below)).checked_mul(below)?;
        }
        Ratio::new(i128::try_from(top).ok()?, i128::try_from(bottom).ok()?)
    }

    /// The sum with whole factors that have no common divisor and, where `signed`,
    /// a positive first one; equations and inequalities are known up to that.
    pub(super) fn primitive(&self, signed: bool) -> Option<Self> {
        let Some((_, first)) = self.0.first_key_value() else { return Some(self.clone()) };
        let content = self.content()?;
        self.scaled(if signed && first.is_negative() { content.neg()? } else { content }.inverse()?)
    }

    /// What one name is where this is 0 and, beside it, has powers of numbers and of
    /// `others` only: of `2x+y-3`, `y` is `3-2x`.
    pub(super) fn solved(&self, name: &str, others: &[&str]) -> Option<Self> {
        let mut rest = self.clone();
        let factor = rest.0.remove(&Product::from([(Atom::Name(name.to_owned()), Ratio::ONE)]))?;
        let known = |atom: &Atom| match atom {
            Atom::Name(name) => others.contains(&name.as_str()),
            Atom::Prime(_) => true,
            Atom::Imaginary | Atom::PlusMinus | Atom::Group(_) | Atom::Power(..) | Atom::Call(..) => false,
        };
        let plain = rest.0.keys().flat_map(|product| product.keys()).all(known);
        if plain { rest.scaled(factor.inverse()?.neg()?) } else { None }
    }

    /// The quotient of two polynomials in names, where nothing is left.
    fn quotient(&self, by: &Self, work: &mut Work) -> Option<Self> {
        if !self.is_polynomial() || !by.is_polynomial() {
            return None;
        }
        let (lead, factor) = by.leading()?;
        let mut rest = self.clone();
        let mut quotient = Self(BTreeMap::new());
        for _ in 0..MOST_TERMS {
            let Some((product, f)) = rest.leading() else { return Some(quotient) };
            let mut product = product.clone();
            for (atom, exponent) in lead {
                raise(&mut product, atom, exponent.neg()?)?;
            }
            if product.values().any(|e| e.is_negative()) {
                return None;
            }
            let step = Self::term(product, f.mul(factor.inverse()?)?);
            rest = rest.add(&step.mul(by, work)?.neg()?, work)?;
            quotient = quotient.add(&step, work)?;
        }
        None
    }

    fn is_polynomial(&self) -> bool {
        let plain =
            |atom: &Atom, e: Ratio| matches!(atom, Atom::Name(_)) && !e.is_negative() && e.bottom() == 1;
        self.0.keys().flatten().all(|(atom, e)| plain(atom, *e))
    }

    /// The first term in the lexicographic order of exponents.
    fn leading(&self) -> Option<(&Product, Ratio)> {
        let names: std::collections::BTreeSet<&Atom> = self.0.keys().flat_map(|p| p.keys()).collect();
        let exponents = |p: &Product| -> Vec<Ratio> {
            names.iter().map(|name| p.get(name).copied().unwrap_or(Ratio::ZERO)).collect()
        };
        self.0.iter().max_by_key(|(p, _)| exponents(p)).map(|(p, f)| (p, *f))
    }
}

fn raise(product: &mut Product, atom: &Atom, exponent: Ratio) -> Option<()> {
    let total = product.get(atom).copied().unwrap_or(Ratio::ZERO).add(exponent)?;
    if total.is_zero() {
        product.remove(atom);
    } else {
        product.insert(atom.clone(), total);
    }
    Some(())
}

/// A product in which the powers that have values are opened: those of primes
/// beyond 0 to 1, of the units, and whole powers of sums.
fn opened(mut product: Product, mut factor: Ratio, work: &mut Work) -> Option<Sum> {
    let mut groups = Vec::new();
    let atoms: Vec<(Atom, Ratio)> = product.iter().map(|(a, e)| (a.clone(), *e)).collect();
    for (atom, exponent) in atoms {
        let whole = exponent.floor();
        match &atom {
            Atom::Prime(prime) => {
                factor = factor.mul(Ratio::whole(i128::from(*prime)).power(whole)?)?;
                raise(&mut product, &atom, Ratio::whole(whole).neg()?)?;
            }
            Atom::Imaginary => {
                exponent.as_whole()?;
                if matches!(whole.rem_euclid(4), 2 | 3) {
                    factor = factor.neg()?;
                }
                raise(&mut product, &atom, Ratio::whole(whole.rem_euclid(2) - whole))?;
            }
            Atom::PlusMinus => {
                exponent.as_whole()?;
                raise(&mut product, &atom, Ratio::whole(whole.rem_euclid(2) - whole))?;
            }
            Atom::Group(sum) if whole > 0 => {
                raise(&mut product, &atom, Ratio::whole(whole).neg()?)?;
                groups.push(sum.power(&Sum::of(Ratio::whole(whole)), work)?);
            }
            Atom::Name(_) | Atom::Group(_) | Atom::Power(..) | Atom::Call(..) => {}
        }
    }
    groups.iter().try_fold(Sum::term(product, factor), |sum, group| sum.mul(group, work))
}

/// A product to a broken power. Only what is positive, or alone, leaves the root.
fn root_of_product(product: &Product, factor: Ratio, power: Ratio, work: &mut Work) -> Option<Sum> {
    let mut outside = root_of_number(factor.abs()?, power, work)?;
    let mut negative = factor.is_negative();
    if negative && power.bottom() % 2 == 1 {
        // An odd root of a negative number is the real one.
        outside = if power.top() % 2 == 0 { outside } else { outside.neg()? };
        negative = false;
    }
    let positive = |atom: &Atom| match atom {
        Atom::Prime(_) => true,
        Atom::Name(name) => name == "\\pi" || name == "e",
        Atom::Imaginary | Atom::PlusMinus | Atom::Group(_) | Atom::Power(..) | Atom::Call(..) => false,
    };
    let mut inside = Product::new();
    let mut out = Product::new();
    for (atom, exponent) in product {
        if positive(atom) {
            raise(&mut out, atom, exponent.mul(power)?)?;
        } else {
            raise(&mut inside, atom, *exponent)?;
        }
    }
    if negative && inside.is_empty() {
        if power.bottom() != 2 {
            return None;
        }
        let turns = Sum::atom(Atom::Imaginary).power(&Sum::of(Ratio::whole(power.top())), work)?;
        outside = outside.mul(&turns, work)?;
    } else if let Some((Atom::Name(name), exponent)) = inside.first_key_value()
        && (inside.len(), *exponent, negative) == (1, Ratio::ONE, false)
    {
        raise(&mut out, &Atom::Name(name.clone()), power)?;
    } else if !inside.is_empty() {
        let sign = if negative { Ratio::whole(-1) } else { Ratio::ONE };
        raise(&mut out, &Atom::Group(Sum::term(inside, sign).shared(work)?), power)?;
    }
    outside.mul(&opened(out, Ratio::ONE, work)?, work)
}

/// A positive number to a broken power, as primes to powers between 0 and 1.
fn root_of_number(value: Ratio, power: Ratio, work: &mut Work) -> Option<Sum> {
    let mut product = Product::new();
    for (number, power) in [(value.top(), power), (value.bottom(), power.neg()?)] {
        let mut left = u64::try_from(number).ok().filter(|n| *n <= LARGEST_FACTORED)?;
        let mut prime = 2;
        while left > 1 {
            work.spend(1)?;
            if prime * prime > left {
                prime = left;
            }
            while left.is_multiple_of(prime) {
                left /= prime;
                raise(&mut product, &Atom::Prime(prime), power)?;
            }
            prime += 1;
        }
    }
    opened(product, Ratio::ONE, work)
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        for (i, (product, factor)) in self.0.iter().enumerate() {
            if factor.is_negative() {
                f.write_str("-")?;
            } else if i > 0 {
                f.write_str("+")?;
            }
            let top = factor.top().unsigned_abs();
            let mut first = top == 1 && !product.is_empty();
            if !first {
                write!(f, "{top}")?;
            }
            for (atom, exponent) in product {
                if !std::mem::take(&mut first) {
                    f.write_str("*")?;
                }
                write_power(f, atom, *exponent)?;
            }
            if factor.bottom() != 1 {
                write!(f, "/{}", factor.bottom())?;
            }
        }
        Ok(())
    }
}

/// A power in LaTeX that the parser reads back as itself.
fn write_power(f: &mut fmt::Formatter<'_>, atom: &Atom, exponent: Ratio) -> fmt::Result {
    match atom {
        Atom::Prime(prime) if exponent.bottom() == 2 => return write!(f, "\\sqrt{{{prime}}}"),
        Atom::Prime(prime) => write!(f, "{prime}")?,
        Atom::Name(name) => f.write_str(name)?,
        Atom::Imaginary => f.write_str("i")?,
        Atom::PlusMinus => f.write_str("\\pm")?,
        Atom::Group(sum) => write!(f, "({sum})")?,
        Atom::Power(base, power) if exponent == Ratio::ONE => return write!(f, "({base})^{{{power}}}"),
        Atom::Power(base, power) => write!(f, "(({base})^{{{power}}})")?,
        Atom::Call(name, argument) => write!(f, "{name}({argument})")?,
    }
    if exponent == Ratio::ONE { Ok(()) } else { write!(f, "^{{{exponent}}}") }
}
