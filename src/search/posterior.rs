//! How sure a vote is of its leader: the stopping rule of Adaptive-Consistency
//! (Aggarwal et al., arXiv 2305.11860).

/// The probability that the leader of a vote is the true majority against the
/// runner-up, given `leader` and `runner_up` votes and a uniform prior: `1 -
/// I_{1/2}(leader + 1, runner_up + 1)`. Weights that are no whole numbers count
/// as so many votes.
#[must_use]
pub(super) fn majority(leader: f64, runner_up: f64) -> f64 {
    1.0 - half(leader.max(0.0) + 1.0, runner_up.max(0.0) + 1.0)
}

/// The regularised incomplete beta function `I_{1/2}(a, b)`.
fn half(a: f64, b: f64) -> f64 {
    // The continued fraction converges fast left of the mean.
    if a < b { 1.0 - half(b, a) } else { (front(a, b) * fraction(a, b) / a).clamp(0.0, 1.0) }
}

fn front(a: f64, b: f64) -> f64 {
    (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) - (a + b) * std::f64::consts::LN_2).exp()
}

/// Lentz's method for the continued fraction of the incomplete beta function at
/// 1/2 (Numerical Recipes, 6.4).
fn fraction(a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let x = 0.5;
    let sane = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / sane(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    for m in 1..400 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / sane(1.0 + even * d);
        c = sane(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / sane(1.0 + odd * d);
        c = sane(1.0 + odd / c);
        let delta = d * c;
        h *= delta;
        if (delta - 1.0).abs() < 1e-14 {
            break;
        }
    }
    h
}

/// Lanczos' approximation, g = 7.
fn ln_gamma(x: f64) -> f64 {
    const G: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let sum = G.iter().enumerate().skip(1).fold(G[0], |sum, (i, g)| sum + g / (x + i as f64));
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::majority;

    /// `2^-(n+1) * sum of C(n+1, j) for j in 0..=leader`, by the binomial theorem.
    fn exact(leader: u32, runner_up: u32) -> f64 {
        let n = leader + runner_up + 1;
        let mut choose = 1.0;
        let mut sum = 0.0;
        for j in 0..=leader {
            sum += choose;
            choose *= f64::from(n - j) / f64::from(j + 1);
        }
        sum / 2f64.powi(n as i32)
    }

    #[test]
    fn it_is_the_binomial_sum_at_whole_numbers() {
        for leader in 0..60 {
            for runner_up in 0..=leader {
                let (ours, exact) = (majority(leader.into(), runner_up.into()), exact(leader, runner_up));
                assert!((ours - exact).abs() < 1e-10, "{leader} to {runner_up}: {ours} and {exact}");
            }
        }
    }

    #[test]
    fn the_least_lead_at_95_per_cent_is_the_published_one() {
        let least: Vec<u32> = (0..8)
            .map(|v2| (v2..).find(|v1| majority((*v1).into(), v2.into()) >= 0.95).expect("one"))
            .collect();
        assert_eq!(least, [4, 6, 8, 9, 11, 12, 14, 15]);
    }

    #[test]
    fn it_grows_with_the_lead_between_whole_numbers_too() {
        let lead = |v1: f64| majority(v1, 1.5);
        assert!(lead(1.5) < lead(1.6) && lead(3.0) < lead(3.25) && (lead(1.5) - 0.5).abs() < 1e-12);
    }
}
