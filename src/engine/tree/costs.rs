//! What a step costs, learnt from the steps: a part of its own, a part for every
//! row that is computed, and one for every token that is drawn.
//!
//! The last two are apart because a row of a prompt is drawn from by nobody, and
//! one that branches share is drawn from by all of them: a line over rows alone
//! would take the price of a row from long prompts, and that of a step from what
//! is left. Errors count relative to a step's duration, so that long steps do not
//! drown short ones, and the older a step is the less it counts.

/// What a step takes; only the ratios mean anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    /// The step itself.
    pub step: f64,
    /// A row of it.
    pub row: f64,
    /// A token that is drawn.
    pub draw: f64,
}

/// What is assumed until steps of different sizes were seen.
const FIRST_GUESS: Cost = Cost { step: 4.0, row: 1.0, draw: 0.0 };

/// How much of its weight a step keeps when the next one is seen.
const MEMORY: f64 = 0.99;

/// What pulls a price towards nothing, relative to what is known of it: where rows
/// and draws always come together, their sum is known and their difference is not.
const PULL: f64 = 1e-6;

/// The numbers of a step that its duration is explained by.
const TERMS: usize = 3;

/// The normal equations of the fit.
#[derive(Debug)]
pub(super) struct Costs {
    products: [[f64; TERMS]; TERMS],
    seconds: [f64; TERMS],
    cost: Cost,
}

impl Default for Costs {
    fn default() -> Self {
        Self { products: [[0.0; TERMS]; TERMS], seconds: [0.0; TERMS], cost: FIRST_GUESS }
    }
}

impl Costs {
    /// Takes note of a step of so many rows from which so many tokens were drawn.
    pub(super) fn observe(&mut self, rows: usize, draws: usize, seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let terms = [1.0, rows as f64, draws as f64].map(|term| term / seconds);
        for ((products, sum), a) in self.products.iter_mut().zip(&mut self.seconds).zip(terms) {
            *sum = *sum * MEMORY + a;
            for (product, b) in products.iter_mut().zip(terms) {
                *product = *product * MEMORY + a * b;
            }
        }
        // Steps of one size tell nothing about the price of a row.
        let [[ones, once, _], [_, rows, _], _] = self.products;
        if ones * rows - once * once <= 0.01 * once * once {
            return;
        }
        // What comes out below nothing is left out, and the rest fitted without it.
        let mut kept = [true; TERMS];
        let mut prices = self.solve(kept);
        while let Some(below) = (0..TERMS).find(|&i| prices[i] < 0.0) {
            kept[below] = false;
            prices = self.solve(kept);
        }
        let [step, row, draw] = prices;
        if row + draw > 0.0 {
            self.cost = Cost { step, row, draw };
        }
    }

    /// What a step costs.
    pub(super) fn cost(&self) -> Cost {
        self.cost
    }

    /// The prices that fit best, those that are not kept being nothing: Gaussian
    /// elimination, for which a matrix of products with something added to its
    /// diagonal needs no pivots.
    fn solve(&self, kept: [bool; TERMS]) -> [f64; TERMS] {
        let (mut a, mut b) = (self.products, self.seconds);
        for i in 0..TERMS {
            if kept[i] {
                a[i][i] = a[i][i] * (1.0 + PULL) + f64::MIN_POSITIVE;
                continue;
            }
            b[i] = 0.0;
            a[i] = [0.0; TERMS];
            a.iter_mut().for_each(|row| row[i] = 0.0);
            a[i][i] = 1.0;
        }
        for i in 0..TERMS {
            let (pivot, value) = (a[i], b[i]);
            for (row, right) in a.iter_mut().zip(&mut b).skip(i + 1) {
                let factor = row[i] / pivot[i];
                for (to, from) in row.iter_mut().zip(pivot).skip(i) {
                    *to -= factor * from;
                }
                *right -= factor * value;
            }
        }
        for i in (0..TERMS).rev() {
            let known: f64 = (i + 1..TERMS).map(|j| a[i][j] * b[j]).sum();
            b[i] = (b[i] - known) / a[i][i];
        }
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-3 * expected.abs().max(1.0)
    }

    #[test]
    fn prices_are_learnt_from_steps_of_different_sizes() {
        let mut costs = Costs::default();
        for _ in 0..50 {
            costs.observe(64, 64, 64.0 * 0.5 + 6.0);
        }
        assert_eq!(costs.cost(), FIRST_GUESS, "equal steps tell no price of a row");
        for step in 0..200 {
            let rows = 1 + step * 7 % 64;
            costs.observe(rows, rows, rows as f64 * 0.5 + 6.0);
        }
        // Rows and draws always came together: their sum is known.
        let Cost { step, row, draw } = costs.cost();
        assert!(close(step, 6.0) && close(row + draw, 0.5), "{:?}", costs.cost());
    }

    #[test]
    fn prompts_do_not_make_a_decoding_row_look_cheap_nor_a_step_dear() {
        let mut costs = Costs::default();
        let mut step = |rows: usize, draws: usize| {
            costs.observe(rows, draws, 50.0 + 25.0 * rows as f64 + 30.0 * draws as f64);
        };
        for _ in 0..30 {
            step(120, 1);
            (0..5).for_each(|_| step(2, 2));
            step(10, 10);
        }
        let Cost { step, row, draw } = costs.cost();
        assert!(close(step, 50.0) && close(row, 25.0) && close(draw, 30.0), "{:?}", costs.cost());
    }

    #[test]
    fn no_price_is_below_nothing() {
        let mut costs = Costs::default();
        for step in 0..100 {
            let rows = 1 + step % 9;
            // Seconds that grow faster than rows put a line's beginning below
            // nothing, and draws of odd rows explain nothing.
            costs.observe(rows, rows % 2, (rows * rows) as f64);
            let Cost { step, row, draw } = costs.cost();
            assert!(step >= 0.0 && row >= 0.0 && draw >= 0.0 && row + draw > 0.0, "{:?}", costs.cost());
        }
        costs.observe(3, 3, 0.0);
        assert!(costs.cost().row.is_finite(), "a clock that stands still says nothing");
    }
}
