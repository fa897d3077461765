//! Exact fractions of 128 bits: every operation says so where its result does not
//! fit, so that an answer too large is compared as text, never rounded.

use std::fmt;

/// A reduced fraction with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ratio {
    top: i128,
    bottom: i128,
}

impl Ratio {
    pub(super) const ZERO: Self = Self { top: 0, bottom: 1 };
    pub(super) const ONE: Self = Self { top: 1, bottom: 1 };

    /// The reduced fraction; `None` where the denominator is zero.
    pub(super) fn new(top: i128, bottom: i128) -> Option<Self> {
        if bottom == 0 {
            return None;
        }
        let divisor = i128::try_from(gcd(top.unsigned_abs(), bottom.unsigned_abs())).ok()?;
        let (top, bottom) = (top / divisor, bottom / divisor);
        Some(if bottom < 0 {
            Self { top: top.checked_neg()?, bottom: bottom.checked_neg()? }
        } else {
            Self { top, bottom }
        })
    }

    pub(super) fn whole(value: i128) -> Self {
        Self { top: value, bottom: 1 }
    }

    pub(super) fn top(self) -> i128 {
        self.top
    }

    pub(super) fn bottom(self) -> i128 {
        self.bottom
    }

    pub(super) fn is_zero(self) -> bool {
        self.top == 0
    }

    pub(super) fn is_negative(self) -> bool {
        self.top < 0
    }

    /// The value, where it is whole.
    pub(super) fn as_whole(self) -> Option<i128> {
        (self.bottom == 1).then_some(self.top)
    }

    pub(super) fn neg(self) -> Option<Self> {
        Some(Self { top: self.top.checked_neg()?, bottom: self.bottom })
    }

    pub(super) fn abs(self) -> Option<Self> {
        if self.is_negative() { self.neg() } else { Some(self) }
    }

    pub(super) fn add(self, other: Self) -> Option<Self> {
        let left = self.top.checked_mul(other.bottom)?;
        let right = other.top.checked_mul(self.bottom)?;
        Self::new(left.checked_add(right)?, self.bottom.checked_mul(other.bottom)?)
    }

    pub(super) fn mul(self, other: Self) -> Option<Self> {
        // Crosswise reduction first keeps products of large fractions in range.
        let (a, b) = (Self::new(self.top, other.bottom)?, Self::new(other.top, self.bottom)?);
        Self::new(a.top.checked_mul(b.top)?, a.bottom.checked_mul(b.bottom)?)
    }

    pub(super) fn inverse(self) -> Option<Self> {
        Self::new(self.bottom, self.top)
    }

    pub(super) fn power(self, exponent: i128) -> Option<Self> {
        let base = if exponent < 0 { self.inverse()? } else { self };
        if base.bottom == 1 && matches!(base.top, -1..=1) {
            let odd = exponent % 2 != 0;
            return Some(if exponent == 0 || (base.top == -1 && !odd) { Self::ONE } else { base });
        }
        let exponent = u32::try_from(exponent.unsigned_abs()).ok()?;
        Some(Self { top: base.top.checked_pow(exponent)?, bottom: base.bottom.checked_pow(exponent)? })
    }

    /// The largest whole number not above the value.
    pub(super) fn floor(self) -> i128 {
        self.top.div_euclid(self.bottom)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bottom == 1 { write!(f, "{}", self.top) } else { write!(f, "{}/{}", self.top, self.bottom) }
    }
}

pub(super) fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_reduced_and_checked() {
        let half = Ratio::new(-3, -6).unwrap();
        assert_eq!(half.to_string(), "1/2");
        assert_eq!(half.add(half), Some(Ratio::ONE));
        assert_eq!(half.power(-3), Some(Ratio::whole(8)));
        assert_eq!(Ratio::new(-7, 2).unwrap().floor(), -4);
        assert_eq!(Ratio::new(1, 0), None);
        assert_eq!(Ratio::ZERO.inverse(), None);
        assert_eq!(Ratio::whole(i128::MAX).add(Ratio::ONE), None);
        assert_eq!(Ratio::new(i128::MIN, -1), None);
        assert_eq!(Ratio::whole(-1).power(i128::MAX), Some(Ratio::whole(-1)));
        assert_eq!(Ratio::whole(2).power(127), None);
    }
}
