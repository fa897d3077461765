//! Which answer a grove's trajectories give: votes weighted by score and by
//! likelihood, and what clients are shown of the candidates.

use super::{Grove, Index, State, Twig};
use crate::search::Answer;
use crate::search::event::Candidate;

/// Complete trajectories that give the same answer.
#[derive(Debug)]
pub(in crate::search) struct Class<'a> {
    pub(in crate::search) answer: &'a str,
    /// What they weigh together.
    pub(in crate::search) weight: f64,
    pub(in crate::search) members: Vec<Index>,
}

impl Grove {
    /// How much likelier a trajectory is than the likeliest of some, to a power:
    /// what a score is multiplied by where likelihood counts. From 0 to 1.
    pub(in crate::search) fn odds(&self, index: Index, among: &[Index], power: f64) -> f64 {
        self.odds_below(index, self.likeliest(among), power)
    }

    fn likeliest(&self, among: &[Index]) -> f64 {
        let each = among.iter().map(|index| self.twigs[*index].log_probability());
        each.fold(f64::NEG_INFINITY, f64::max)
    }

    fn odds_below(&self, index: Index, most: f64, power: f64) -> f64 {
        let own = self.twigs[index].log_probability();
        if power == 0.0 || !most.is_finite() { 1.0 } else { (power * (own - most)).exp().min(1.0) }
    }

    /// The answers that complete trajectories give, in the order in which they
    /// were first given. A trajectory weighs `weight` times its likelihood to a
    /// power.
    pub(in crate::search) fn classes(&self, power: f64, weight: impl Fn(&Twig) -> f64) -> Vec<Class<'_>> {
        let complete: Vec<Index> = self.all(State::Complete).collect();
        let most = self.likeliest(&complete);
        let mut classes: Vec<Class<'_>> = Vec::new();
        for index in complete {
            let twig = &self.twigs[index];
            let Some(answer) = twig.value.as_deref() else { continue };
            let weight = sane(weight(twig)) * self.odds_below(index, most, power);
            match classes.iter_mut().find(|class| class.answer == answer) {
                Some(class) => {
                    class.weight += weight;
                    class.members.push(index);
                }
                None => classes.push(Class { answer, weight, members: vec![index] }),
            }
        }
        classes
    }

    /// How clearly a vote as that of [`Grove::elect`] is won: the leading
    /// answer's share of all weight, and the `weight` of the best trajectory that
    /// gives it. `None` without an answer.
    pub(in crate::search) fn lead(&self, power: f64, weight: impl Fn(&Twig) -> f64) -> Option<(f64, f64)> {
        let chosen = &self.twigs[self.elect((true, power), &weight)?];
        let value = chosen.value.as_deref()?;
        let complete: Vec<Index> = self.all(State::Complete).collect();
        let most = self.likeliest(&complete);
        let (mut own, mut all) = (0.0, 0.0);
        for &index in &complete {
            let twig = &self.twigs[index];
            let weight = sane(weight(twig)) * self.odds_below(index, most, power);
            all += weight;
            own += if twig.value.as_deref() == Some(value) { weight } else { 0.0 };
        }
        Some((if all > 0.0 { own / all } else { 0.0 }, sane(weight(chosen))))
    }

    /// The answer among complete trajectories: by a vote in which a trajectory
    /// weighs `weight` times its likelihood to a power, else the heaviest alone.
    /// Without any answer that can be compared the heaviest complete one; without
    /// any complete one the best text. Equal weights: the likelier, then the first.
    pub(in crate::search) fn elect(
        &self,
        (vote, power): (bool, f64),
        weight: impl Fn(&Twig) -> f64,
    ) -> Option<Index> {
        let complete: Vec<Index> = self.all(State::Complete).collect();
        let most = self.likeliest(&complete);
        let key = |index: Index| {
            let twig = &self.twigs[index];
            (sane(weight(twig)) * self.odds_below(index, most, power), twig.likelihood())
        };
        if vote {
            let mut winner: Option<Class<'_>> = None;
            for class in self.classes(power, &weight) {
                let own = (class.weight, class.members.len());
                if winner.as_ref().is_none_or(|best| own > (best.weight, best.members.len())) {
                    winner = Some(class);
                }
            }
            if let Some(class) = winner {
                return best_of(class.members.into_iter(), key);
            }
        }
        best_of(complete.iter().copied(), key).or_else(|| {
            let some = (0..self.twigs.len()).filter(|&index| self.twigs[index].tokens > 0);
            let leaf =
                |index: &Index| !self.twigs.iter().any(|twig| twig.parent == Some(*index) && twig.tokens > 0);
            best_of(some.filter(leaf), key)
        })
    }

    pub(in crate::search) fn answer(&self, chosen: Option<Index>) -> Option<Answer> {
        let twig = &self.twigs[chosen?];
        Some(Answer { node: twig.node, complete: twig.state == State::Complete })
    }

    /// Every trajectory that came to its end, and the chosen one.
    pub(in crate::search) fn candidates(
        &self,
        chosen: Option<Index>,
        score: impl Fn(&Twig) -> f64,
    ) -> Vec<Candidate> {
        let shown = |index: &Index| self.twigs[*index].state == State::Complete || Some(*index) == chosen;
        let candidate = |index: Index| {
            let twig = &self.twigs[index];
            Candidate {
                branch: twig.node,
                answer: twig.value.clone(),
                mean_logprob: twig.mean_logprob,
                score: Some(score(twig)).filter(|score| score.is_finite()),
                tokens: twig.path,
                complete: twig.state == State::Complete,
                selected: Some(index) == chosen,
            }
        };
        (0..self.twigs.len()).filter(shown).map(candidate).collect()
    }
}

/// A weight that is no number counts for nothing.
fn sane(weight: f64) -> f64 {
    if weight.is_nan() { 0.0 } else { weight }
}

/// The first of those with the greatest key; NaN is below every number.
pub(in crate::search) fn best_of(
    indices: impl Iterator<Item = Index>,
    key: impl Fn(Index) -> (f64, f64),
) -> Option<Index> {
    let low = |x: f64| if x.is_nan() { f64::NEG_INFINITY } else { x };
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
