//! Final answers in text: finding them, bringing them into one form, comparing them.
//!
//! Pure, and blind to where a text came from. Votes have no reference answer, so
//! everything here is conservative and symmetric: percentages never equal fractions, a
//! decimal never equals the root that it approximates, and a text that merely contains
//! a number has no answer ([`last_number()`] and [`choice()`] are rules of the harness, for
//! suites that ask for them). There are two levels. [`canonical()`] forms are exact, but
//! for closed forms with functions, which are recognised by value (`\cos(\pi/3)` is
//! 1/2); votes meet under them. [`equiv`] also compares expressions of different forms
//! by value, pair by pair, which no key can do (`\sqrt{3+2\sqrt{2}}` is `1+\sqrt{2}`).
//! What neither decides is different: complex values, the parts of sets, unions,
//! matrices and relations by value, identities that hold only for whole numbers. Work
//! is capped by length, depth, steps and values. The rules of the MATH and Minerva
//! graders, which merge more, are in [`normalise`], for comparisons with published
//! figures, never for votes.

mod approx;
mod canonical;
mod choice;
#[cfg(test)]
mod conformance;
mod expression;
mod extract;
mod last_number;
pub mod normalise;
mod numeric;
mod ratio;
mod sum;
mod tidy;
mod units;
mod value;

pub use canonical::canonical;
pub use choice::choice;
pub use extract::extract;
pub use last_number::last_number;

/// Whether two answers are the same: in their canonical forms, or in the values of those.
#[must_use]
pub fn equiv(a: &str, b: &str) -> bool {
    let (a, b) = (canonical(a), canonical(b));
    a == b || value::same(&a, &b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equality_is_transitive_over_spellings() {
        let spellings =
            ["\\frac{1}{2}", "0.5", "1/2", ".50", "\\dfrac{3}{6}", "2^{-1}", "\\frac{\\sqrt{4}}{4}"];
        for a in spellings {
            for b in spellings {
                assert!(equiv(a, b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn one_of_two_inequalities_is_not_both() {
        let either = ["x>3\\text{ or }x<1", "x > 3 or x < 1", "x>3 \\text{or} x<1"];
        for a in either {
            assert!(!equiv(a, "x>3\\text{ and }x<1") && !equiv(a, "x>3, x<1"), "{a}");
            assert!(either.iter().all(|b| equiv(a, b)), "{a}");
        }
        assert!(equiv("\\left(1\\right) or 2", "1, 2") && equiv("x=1\\text{ or }x=2", "x=1, x=2"));
    }

    proptest! {
        #[test]
        fn equivalence_is_symmetric_and_reflexive(a in "\\PC{0,30}", b in "\\PC{0,30}") {
            prop_assert_eq!(equiv(&a, &b), equiv(&b, &a));
            prop_assert!(equiv(&a, &a));
        }
    }
}
