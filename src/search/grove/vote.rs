//! Which answer a grove's trajectories give: votes weighted by score and by
//! likelihood, and what clients are shown of the candidates.

use super::{Grove, Index, State, Twig};
use crate::plan::Scoring;
use crate::search::Answer;
use crate::search::event::Candidate;

/// Complete trajectories that give the same answer.
#[derive(Debug)]
pub(in crate::search) struct Class<'a> {
    pub(in crate::search) answer: &'a str,
    /// What they weigh together.
    pub(in crate::search) weight: f64,
    members: Vec<(Index, f64)>,
}

impl Grove {
    /// How much likelier a trajectory is than the likeliest of some, to a power:
    /// what a score is multiplied by where likelihood counts. From 0 to 1.
    pub(in crate::search) fn odds(&self, index: Index, among: &[Index], power: f64) -> f64 {
        self.odds_below(index, self.likeliest(among), power)
    }

    /// Logarithm of the probability of the likeliest complete trajectory, which
    /// weighs in a vote as if that were 1.
    pub(in crate::search) fn scale(&self) -> f64 {
        self.likeliest(&self.all(State::Complete).collect::<Vec<Index>>())
    }

    fn likeliest(&self, among: &[Index]) -> f64 {
        let each = among.iter().map(|index| self.twigs[*index].log_probability());
        each.fold(f64::NEG_INFINITY, f64::max)
    }

    fn odds_below(&self, index: Index, most: f64, power: f64) -> f64 {
        let own = self.twigs[index].log_probability();
        if power == 0.0 || !most.is_finite() { 1.0 } else { (power * (own - most)).exp().min(1.0) }
    }

    /// The complete trajectories in the order of their making, each with what it
    /// weighs in a vote: `weight` times its likelihood to a power.
    fn weighed(&self, power: f64, weight: impl Fn(&Twig) -> f64) -> Vec<(Index, f64)> {
        let complete: Vec<Index> = self.all(State::Complete).collect();
        let most = self.likeliest(&complete);
        let weighs = |index| sane(weight(&self.twigs[index])) * self.odds_below(index, most, power);
        complete.into_iter().map(|index| (index, weighs(index))).collect()
    }

    /// The answers that complete trajectories give, in the order in which they
    /// were first given. A trajectory weighs `weight` times its likelihood to a
    /// power.
    pub(in crate::search) fn classes(&self, power: f64, weight: impl Fn(&Twig) -> f64) -> Vec<Class<'_>> {
        self.classes_of(&self.weighed(power, weight))
    }

    fn classes_of(&self, weighed: &[(Index, f64)]) -> Vec<Class<'_>> {
        let mut classes: Vec<Class<'_>> = Vec::new();
        for &(index, weight) in weighed {
            let Some(answer) = self.twigs[index].value.as_deref() else { continue };
            match classes.iter_mut().find(|class| class.answer == answer) {
                Some(class) => {
                    class.weight += weight;
                    class.members.push((index, weight));
                }
                None => classes.push(Class { answer, weight, members: vec![(index, weight)] }),
            }
        }
        classes
    }

    /// How clearly a vote as that of [`Grove::elect`] is won: the leading
    /// answer's share of all weight, and the `weight` of the best trajectory that
    /// gives it. `None` without an answer.
    pub(in crate::search) fn lead(&self, power: f64, weight: impl Fn(&Twig) -> f64) -> Option<(f64, f64)> {
        let weighed = self.weighed(power, &weight);
        let winner = heaviest(self.classes_of(&weighed))?;
        let best = &self.twigs[self.best(&winner.members)?];
        let all: f64 = weighed.iter().map(|(_, weight)| weight).sum();
        Some((if all > 0.0 { winner.weight / all } else { 0.0 }, sane(weight(best))))
    }

    /// The answer among complete trajectories: by a vote in which a trajectory
    /// weighs `weight` times its likelihood to a power, else the heaviest alone.
    /// Without any answer that can be compared the heaviest complete one; without
    /// any complete one the text that came nearest to its end. Equal weights: the
    /// likelier, then the first.
    pub(in crate::search) fn elect(
        &self,
        (vote, power): (bool, f64),
        weight: impl Fn(&Twig) -> f64,
    ) -> Option<Index> {
        let weighed = self.weighed(power, &weight);
        let winner = heaviest(self.classes_of(&weighed)).filter(|_| vote);
        match winner {
            Some(class) => self.best(&class.members),
            None => self.best(&weighed).or_else(|| self.farthest(weight)),
        }
    }

    /// The heaviest of some trajectories.
    fn best(&self, weighed: &[(Index, f64)]) -> Option<Index> {
        let key = |place: usize| (weighed[place].1, self.twigs[weighed[place].0].likelihood());
        best_of(0..weighed.len(), key).map(|place| weighed[place].0)
    }

    /// Of texts that are not complete, the one that was being brought to its
    /// answer; else the best of those with the most steps. What was given up on
    /// the way has fewer, and so often the better score.
    fn farthest(&self, weight: impl Fn(&Twig) -> f64) -> Option<Index> {
        if let Some(index) = self.completing.filter(|index| self.twigs[*index].tokens > 0) {
            return Some(index);
        }
        let spoken = || (0..self.twigs.len()).filter(|&index| self.twigs[index].tokens > 0);
        let most = spoken().map(|index| self.twigs[index].depth).max()?;
        best_of(spoken().filter(|&index| self.twigs[index].depth == most), |index| {
            (sane(weight(&self.twigs[index])), self.twigs[index].likelihood())
        })
    }

    pub(in crate::search) fn answer(&self, chosen: Option<Index>) -> Option<Answer> {
        let twig = &self.twigs[chosen?];
        Some(Answer { node: twig.node, complete: twig.state == State::Complete })
    }

    /// Every trajectory that came to its end, and the chosen one, with what a
    /// verifier's scores make of each.
    pub(in crate::search) fn scored_candidates(
        &self,
        chosen: Option<Index>,
        scoring: Scoring,
    ) -> Vec<Candidate> {
        self.candidates(chosen, |twig| match scoring {
            Scoring::Verifier(aggregate) => twig.score(aggregate),
            Scoring::Rollouts(_) => None,
        })
    }

    /// The same with scores of another kind.
    pub(in crate::search) fn candidates(
        &self,
        chosen: Option<Index>,
        score: impl Fn(&Twig) -> Option<f64>,
    ) -> Vec<Candidate> {
        let shown = |index: &Index| self.twigs[*index].state == State::Complete || Some(*index) == chosen;
        let candidate = |index: Index| {
            let twig = &self.twigs[index];
            Candidate {
                branch: twig.node,
                answer: twig.value.clone(),
                mean_logprob: twig.mean_logprob,
                score: score(twig).filter(|score| score.is_finite()),
                tokens: twig.path,
                complete: twig.state == State::Complete,
                selected: Some(index) == chosen,
            }
        };
        (0..self.twigs.len()).filter(shown).map(candidate).collect()
    }
}

/// The class that weighs most, of equal ones that with more members, then the first.
fn heaviest(classes: Vec<Class<'_>>) -> Option<Class<'_>> {
    classes.into_iter().reduce(|best, class| {
        let own = |class: &Class<'_>| (class.weight, class.members.len());
        if own(&class) > own(&best) { class } else { best }
    })
}

/// A weight that is no number counts for nothing.
fn sane(weight: f64) -> f64 {
    if weight.is_nan() { 0.0 } else { weight }
}

/// NaN is below every number.
pub(super) fn low(key: f64) -> f64 {
    if key.is_nan() { f64::NEG_INFINITY } else { key }
}

/// The first of those with the greatest key; NaN is below every number.
pub(in crate::search) fn best_of(
    indices: impl Iterator<Item = Index>,
    key: impl Fn(Index) -> (f64, f64),
) -> Option<Index> {
    let mut best: Option<(Index, (f64, f64))> = None;
    for index in indices {
        let (first, second) = key(index);
        let key = (low(first), low(second));
        if best.is_none_or(|(_, best)| key > best) {
            best = Some((index, key));
        }
    }
    best.map(|(index, _)| index)
}
