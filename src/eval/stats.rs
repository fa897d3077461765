//! The statistics of results: intervals, quantiles and the paired bootstrap.
//!
//! Pure functions of numbers. All intervals are two-sided, at 95 %.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Standard normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.96;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;

/// The seed of every bootstrap: equal results have equal intervals.
const SEED: u64 = 0xE5_9A_11_E4;

/// The confidence interval of a share `p` of `n` (Wilson 1927), as shares.
pub(super) fn wilson(p: f64, n: f64) -> (f64, f64) {
    if n <= 0.0 {
        return (0.0, 1.0);
    }
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// How many independent responses are worth as much as these, given as (right,
/// asked) of each problem.
///
/// Responses to one problem under several seeds are alike, so that to count each
/// would promise too narrow an interval. The effective size is what gives a
/// binomial share the variance that the shares of the problems show (Kish's design
/// effect, as in Dean and Pagano, "Evaluating confidence interval methods for
/// binomial proportions in clustered surveys", 2015). It lies between the numbers
/// of problems and of responses, and is the former where all are right or all wrong,
/// when nothing tells how alike they are.
pub(super) fn effective_size(problems: &[(u64, u64)]) -> f64 {
    let sum = |part: fn(&(u64, u64)) -> u64| problems.iter().map(part).sum::<u64>() as f64;
    let (right, asked, least) = (sum(|p| p.0), sum(|p| p.1), problems.len() as f64);
    if right == 0.0 || right >= asked {
        return least;
    }
    let share = right / asked;
    let residual = |&(right, asked): &(u64, u64)| (right as f64 - share * asked as f64).powi(2);
    let variance = problems.iter().map(residual).sum::<f64>() / (asked * asked);
    (share * (1.0 - share) / variance).clamp(least, asked)
}

/// The quantile `q` of sorted values, interpolated between neighbours (type 7 of
/// Hyndman and Fan 1996, numpy's default); 0 of none.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// The mean; 0 of none.
pub(super) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The percentile interval (Efron 1979) of the mean of paired differences, given
/// as (sum of differences, pairs) of each problem. Problems are resampled, and
/// all seeds of a problem go with it, for they are no independent observations.
pub(super) fn bootstrap(problems: &[(f64, f64)]) -> (f64, f64) {
    if problems.is_empty() {
        return (0.0, 0.0);
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let mut resample = || {
        let (mut sum, mut pairs) = (0.0, 0.0);
        for _ in 0..problems.len() {
            let (difference, n) = problems[random.random_range(0..problems.len())];
            sum += difference;
            pairs += n;
        }
        sum / pairs
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
    means.sort_unstable_by(f64::total_cmp);
    (quantile(&means, 0.025), quantile(&means, 0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, by: f64) {
        assert!((a - b).abs() <= by, "{a} is not {b}");
    }

    #[test]
    fn the_interval_is_wilsons() {
        // 180 of 300, worked out by hand from the formula: 54.4 to 65.4.
        let (low, high) = wilson(0.6, 300.0);
        near(low, 0.5437, 1e-4);
        near(high, 0.6539, 1e-4);
        // None of 10: 0 to z^2 / (n + z^2).
        assert_eq!(wilson(0.0, 10.0).0, 0.0);
        near(wilson(0.0, 10.0).1, Z * Z / (10.0 + Z * Z), 1e-12);
        assert_eq!(wilson(0.0, 0.0), (0.0, 1.0));
    }

    #[test]
    fn seeds_count_as_much_as_they_tell() {
        // One seed: every response counts.
        near(effective_size(&[(1, 1), (0, 1), (1, 1), (1, 1)]), 4.0, 1e-9);
        // Four seeds that always agree say no more than one.
        near(effective_size(&[(4, 4), (0, 4), (4, 4), (4, 4)]), 4.0, 1e-9);
        // All problems alike: seeds are as good as problems.
        near(effective_size(&[(2, 4); 8]), 32.0, 1e-9);
        near(effective_size(&[(2, 4), (1, 4), (3, 4), (2, 4)]), 16.0, 1e-9);
        // By hand: share 6/12, residuals 1, 1 and 0, so variance 2/144, and 0.25 over it is 18, above 12.
        near(effective_size(&[(3, 4), (1, 4), (2, 4)]), 12.0, 1e-9);
        // Share 1/2, residuals 4, 4, 1 and 1: 0.25 / (10 / 256) = 6.4.
        near(effective_size(&[(4, 4), (0, 4), (3, 4), (1, 4)]), 6.4, 1e-9);
        near(effective_size(&[(4, 4), (4, 4)]), 2.0, 0.0);
        assert_eq!(effective_size(&[]), 0.0);
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 3.0), (0.95, 7.4), (1.0, 8.0)] {
            near(quantile(&values, q), expected, 1e-12);
        }
        assert_eq!((quantile(&[], 0.5), quantile(&[3.0], 0.95)), (0.0, 3.0));
    }

    #[test]
    fn the_bootstrap_of_zeros_and_ones_is_binomial() {
        // The mean of 100 draws from half ones is Binomial(100, 1/2) / 100, whose
        // quantiles at 2.5 and 97.5 % are 40 and 60.
        let halves: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i % 2), 1.0)).collect();
        assert_eq!(bootstrap(&halves), (0.40, 0.60));
        // Binomial(200, 1/10): 12 and 29.
        let tenths: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(u8::from(i % 10 == 0)), 1.0)).collect();
        assert_eq!(bootstrap(&tenths), (0.06, 0.145));
    }

    #[test]
    fn seeds_of_a_problem_are_resampled_together() {
        // Ten copies of each problem's seed say nothing new: the interval stays.
        let once: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i % 3) - 1.0, 1.0)).collect();
        let often: Vec<(f64, f64)> = once.iter().map(|&(d, n)| (10.0 * d, 10.0 * n)).collect();
        let ((low, high), (low_often, high_often)) = (bootstrap(&once), bootstrap(&often));
        near(low, low_often, 1e-12);
        near(high, high_often, 1e-12);
        // By the normal law: mean -0.02, standard error sqrt(0.6596 / 50) = 0.1149.
        near(low, -0.02 - 0.225, 0.02);
        near(high, -0.02 + 0.225, 0.02);
    }

    #[test]
    fn no_problems_and_one_are_no_fault() {
        assert_eq!(bootstrap(&[]), (0.0, 0.0));
        assert_eq!(bootstrap(&[(1.0, 2.0)]), (0.5, 0.5));
    }
}
