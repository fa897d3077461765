//! Known answers of each rank.

use super::super::chain::tests::extend;
use super::super::self_consistency::tests::{budget, scored};
use super::*;
use crate::verify::Aggregate;

#[test]
fn the_best_of_n_by_each_rank() {
    let chains: [(&str, f64, &[f64]); 3] =
        [("1", -3.0, &[0.9, 0.2, 0.8]), ("2", -1.0, &[0.5, 0.5, 0.5]), ("2", -2.0, &[0.3, 0.6, 0.6])];
    let chosen = |by, weighted| {
        let best = Best { branches: 3, by, weighted, likelihood: 0.0 };
        let mut strategy = BestOfN::new(best, budget(100, 0, 3), None);
        let works = strategy.ask(3);
        let asks = !matches!(by, Rank::Likelihood);
        assert!(works.iter().map(extend).all(|work| work.score == asks));
        for (id, (answer, logprob, scores)) in chains.into_iter().enumerate() {
            strategy.tell(id as u64, scored(9, answer, logprob, scores));
        }
        while !strategy.ask(3).is_empty() {}
        strategy.answer().map_or(0, |answer| answer.node.0)
    };
    // last: 0.8 0.5 0.6; min: 0.2 0.5 0.3; prod: 0.144 0.125 0.108; mean: 0.63 0.5 0.5.
    let single = Aggregate::ALL.map(|aggregate| chosen(Rank::Score(aggregate), false));
    assert_eq!(single, [1, 2, 1, 1]);
    let weighted = Aggregate::ALL.map(|aggregate| chosen(Rank::Score(aggregate), true));
    assert_eq!(weighted, [3, 2, 2, 2], "2 is said twice");
    assert_eq!(chosen(Rank::Judge(Aggregate::Min), false), 2);
    assert_eq!([chosen(Rank::Likelihood, false), chosen(Rank::Likelihood, true)], [2, 2]);
}

#[test]
fn only_chains_that_add_up_are_given_up_once_the_rest_cannot_matter() {
    let ends = |weighted| {
        let best = Best { branches: 4, by: Rank::Score(Aggregate::Last), weighted, likelihood: 0.0 };
        let mut strategy = BestOfN::new(best, budget(100, 0, 4), None);
        strategy.ask(4);
        for id in 0..3 {
            strategy.tell(id, scored(9, "4", -1.0, &[0.9]));
        }
        (strategy.is_done(), strategy.is_decided())
    };
    assert_eq!(ends(true), (true, true), "2.7 against at most 1");
    assert_eq!(ends(false), (false, false), "the last may be the best");
}
