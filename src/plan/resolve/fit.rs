//! A mode as wide as its tokens, its branches and the KV pool allow.
//!
//! What does not fit gets narrower, down to one chain of thought; every lowering is
//! noted with its reason.

use super::Planner;
use crate::plan::mode::Pool;
use crate::plan::{Auto, Mode, Scoring};

impl Planner {
    /// The mode that fits: no wider than the tokens and branches allow, and than
    /// what can be alive at once.
    pub(super) fn fitting(
        &self,
        wanted: Mode,
        temperature: f32,
        ((tokens, kept), most, pool): ((u32, u32), Option<u32>, Pool),
        notes: &mut Vec<String>,
    ) -> Mode {
        if !wanted.selects() {
            return wanted;
        }
        let name = wanted.name();
        if wanted.branches() == Some(1) {
            notes.push(format!("{name} of one branch is one chain of thought"));
            return Mode::ChainOfThought;
        }
        if temperature <= 0.0 {
            notes.push(format!("temperature 0 makes all branches of {name} equal, so one was run"));
            return Mode::ChainOfThought;
        }
        let each = self.parts.config.branch_tokens;
        let affordable = ((tokens - kept) / each).max(1);
        let live = pool.branches();
        let bounds = [
            (most.map(Bound::Samples), "reasoning.budget.branches".to_owned()),
            (
                // A tree search has one simulation at least, and stops after any.
                Some(Bound::Samples(affordable)).filter(|_| wanted.tree().is_none()),
                if kept > 0 {
                    format!(
                        "{tokens} tokens, which beside {kept} kept for the answer are enough for \
                         {affordable} samples at {each} each"
                    )
                } else {
                    format!("{tokens} tokens, which are enough for {affordable} samples at {each} each")
                },
            ),
            (
                Some(Bound::Alive(pool)),
                format!("the KV pool, which has room for {live} whole branches at once"),
            ),
        ];
        let mut mode = wanted;
        for (bound, why) in bounds {
            let fitting = match bound {
                None => continue,
                Some(Bound::Samples(samples)) => mode.within(samples),
                Some(Bound::Alive(pool)) => mode.alive_within(pool),
            };
            let Some(fitting) = fitting else {
                notes.push(format!("{name} was given up for one chain of thought by {why}"));
                return Mode::ChainOfThought;
            };
            notes.extend(lowered(&mode, &fitting).map(|what| format!("{what} by {why}")));
            mode = fitting;
        }
        mode
    }

    /// What is said of a tree search that tokens may cut short. It has one simulation
    /// at least, and stops after any, so no parameter of it is lowered.
    pub(super) fn shortage(&self, mode: &Mode, (tokens, kept): (u32, u32)) -> Option<String> {
        let tree = mode.tree()?;
        let each = self.parts.config.branch_tokens;
        let rollouts = if let Scoring::Rollouts(count) = tree.scoring { count } else { 0 };
        let simulation = each.saturating_mul(1 + rollouts);
        let own = if tree.tokens == 0 { tree.simulations } else { tree.tokens.div_ceil(simulation) };
        let affordable = (tokens - kept) / simulation;
        (affordable < own.min(tree.simulations)).then(|| {
            format!(
                "{} may be cut short by {tokens} tokens: a simulation takes up to {simulation} of them as a \
                 rule",
                mode.name()
            )
        })
    }
}

/// What a mode must fit.
enum Bound {
    /// The cost of so many samples.
    Samples(u32),
    /// What can be alive at once.
    Alive(Pool),
}

/// What was done to a mode to make it fit, if anything.
fn lowered(from: &Mode, to: &Mode) -> Option<String> {
    let size = |mode: &Mode| match mode {
        Mode::Direct | Mode::ChainOfThought => "1".to_owned(),
        Mode::SelfConsistency(vote) => vote.branches.to_string(),
        Mode::BestOfN(best) => best.branches.to_string(),
        Mode::Beam(beam) => format!("{}x{}", beam.width, beam.expansion),
        Mode::Mcts(tree) | Mode::Auto(Auto { tree, .. }) => tree.width.to_string(),
    };
    let (before, after) = (size(from), size(to));
    if from.kind() != to.kind() {
        let each = if to.asks().is_none() { ", each counting 1," } else { "" };
        return Some(format!("{} was given up for a vote over {after} chains{each}", from.name()));
    }
    (before != after).then(|| format!("width lowered from {before} to {after}"))
}
