//! Arithmetic with a bound of its own error, in `f64`.
//!
//! Outside of a domain there is no value, however exactly one calculates; that is an
//! error. What drowns in rounding, overflows or is lost has one that may be anything:
//! its error is infinite, and so is that of all that it is part of.

use super::ratio::Ratio;

/// What the arithmetic and the functions of `f64` add to an error, with some to spare.
const ROUNDING: f64 = 2.0 * f64::EPSILON;

/// Smaller values are lost. The product of two others is not 0, nor are their errors.
const SMALLEST: f64 = 1e-140;

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// There is none, as of the logarithm of a negative number.
    Undefined,
    /// No work is left to find it.
    Spent,
}

/// A value, finite, and a bound of its error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Approx {
    pub(super) value: f64,
    pub(super) error: f64,
}

impl Approx {
    const UNKNOWN: Self = Self { value: 0.0, error: f64::INFINITY };

    fn new(value: f64, error: f64) -> Self {
        let error = error + ROUNDING * value.abs();
        let lost = value != 0.0 && value.abs() < SMALLEST;
        if value.is_finite() && error.is_finite() && !lost { Self { value, error } } else { Self::UNKNOWN }
    }

    pub(super) fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    pub(super) fn rounded(value: f64) -> Self {
        Self { value, error: f64::EPSILON * value.abs() }
    }

    pub(super) fn of(ratio: Ratio) -> Self {
        const EXACT: u128 = 1 << f64::MANTISSA_DIGITS;
        let bottom = ratio.bottom().unsigned_abs();
        let value = ratio.top() as f64 / bottom as f64;
        let fits = ratio.top().unsigned_abs() <= EXACT && bottom <= EXACT && bottom.is_power_of_two();
        if fits { Self::exact(value) } else { Self::new(value, 0.0) }
    }

    /// Whether it is certainly not 0.
    pub(super) fn is_certain(self) -> bool {
        self.value.abs() > self.error
    }

    pub(super) fn add(self, other: Self) -> Self {
        Self::new(self.value + other.value, self.error + other.error)
    }

    pub(super) fn mul(self, other: Self) -> Self {
        let error = self.value.abs() * other.error + (other.value.abs() + other.error) * self.error;
        Self::new(self.value * other.value, error)
    }

    /// Whether even the inverse has a bound.
    fn is_nonzero(self) -> bool {
        self.value.abs() > 2.0 * self.error
    }

    pub(super) fn inverse(self) -> Self {
        if !self.is_nonzero() {
            return Self::UNKNOWN;
        }
        let size = self.value.abs();
        Self::new(1.0 / self.value, self.error / (size * (size - self.error)))
    }

    /// A positive value to any power.
    pub(super) fn to_the(self, power: Self) -> Result<Self, Gap> {
        if !self.is_nonzero() {
            return Ok(Self::UNKNOWN);
        }
        if self.value < 0.0 {
            return Err(Gap::Undefined);
        }
        let share = power.value.abs() * self.error / (self.value - self.error)
            + self.value.ln().abs() * (power.error + f64::EPSILON * power.value.abs());
        let value = self.value.powf(power.value);
        // Beyond this the bound, which is of first order, no longer holds; a power of
        // what is positive is 0 only where it is lost.
        let bounded = share < 0.1 && value > 0.0;
        Ok(if bounded { Self::new(value, 2.0 * share * value) } else { Self::UNKNOWN })
    }

    /// A value to a fraction; an odd root of a negative value is the real one.
    pub(super) fn power(self, power: Ratio) -> Result<Self, Gap> {
        if power == Ratio::ONE {
            return Ok(self);
        }
        let size = Self { value: self.value.abs(), ..self }.to_the(Self::of(power))?;
        if self.value > 0.0 || !self.is_nonzero() {
            return Ok(size);
        }
        let odd = power.top() % 2 != 0;
        let real = power.bottom() % 2 != 0;
        if real {
            Ok(if odd { Self { value: -size.value, ..size } } else { size })
        } else {
            Err(Gap::Undefined)
        }
    }

    /// A monotone function's value; undefined where it is so whatever the error is.
    pub(super) fn through(self, f: impl Fn(f64) -> f64) -> Result<Self, Gap> {
        let [low, value, high] = [self.value - self.error, self.value, self.value + self.error].map(f);
        if low.is_nan() && value.is_nan() && high.is_nan() {
            return Err(Gap::Undefined);
        }
        Ok(Self::new(value, 2.0 * ((low - value).abs() + (high - value).abs())))
    }

    /// Of a function that is nowhere steeper than 1, as sines are.
    pub(super) fn level(self, f: impl Fn(f64) -> f64) -> Self {
        Self::new(f(self.value), self.error)
    }
}
