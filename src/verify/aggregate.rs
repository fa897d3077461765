//! One value out of the scores of a solution's steps.

use serde::Deserialize;

/// How the scores of steps become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// The last step's score.
    Last,
    /// The lowest score: a solution is as good as its worst step.
    Min,
    /// The product: the probability that all steps are right, were they independent.
    Prod,
    /// The arithmetic mean.
    Mean,
}

impl Aggregate {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Last, Self::Min, Self::Prod, Self::Mean];

    /// Its name in requests and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Min => "min",
            Self::Prod => "prod",
            Self::Mean => "mean",
        }
    }

    /// The aggregate of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|aggregate| aggregate.name() == name)
    }

    /// The value of a solution; `None` where there is no score, or one is not a
    /// number.
    #[must_use]
    pub fn of(self, scores: &[f64]) -> Option<f64> {
        let last = *scores.last()?;
        if scores.iter().any(|score| score.is_nan()) {
            return None;
        }
        Some(match self {
            Self::Last => last,
            Self::Min => scores.iter().copied().fold(f64::INFINITY, f64::min),
            Self::Prod => scores.iter().product(),
            Self::Mean => scores.iter().sum::<f64>() / scores.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_what_its_name_says() {
        let scores = [0.5, 0.25, 1.0];
        let of = |name| Aggregate::parse(name).expect("a name").of(&scores);
        assert_eq!(of("last"), Some(1.0));
        assert_eq!(of("min"), Some(0.25));
        assert_eq!(of("prod"), Some(0.125));
        assert_eq!(of("mean"), Some(1.75 / 3.0));
        for aggregate in Aggregate::ALL {
            assert_eq!(Aggregate::parse(aggregate.name()), Some(aggregate));
            assert_eq!(aggregate.of(&[]), None);
            assert_eq!(aggregate.of(&[0.5, f64::NAN, 0.5]), None);
            assert_eq!(aggregate.of(&[0.75]), Some(0.75));
        }
        assert_eq!(Aggregate::parse("Prod"), None);
    }
}
