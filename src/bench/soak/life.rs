//! One request of the storm, and a naive account of what it must cost.
//!
//! The account knows nothing of blocks: every branch is a list of tokens and the
//! number of its first positions whose KV exists. Forks copy both. So positions
//! computed and reused, as the engine counts them, must be those by which these
//! numbers grew; where something was cut in the middle nobody outside knows how
//! far it had got, and that comparison is left out.
//!
//! Length: what is done and its account stand beside each other.

use super::again::{Ask, Sample};
use super::dice::Dice;
use super::tally::{Deed, Tally};
use crate::engine::{
    Branch, End, EngineError, Events, Handle, Inbox, Open, Priority, Sampling, Segment, SegmentEvent,
    channel, rng,
};
use crate::prompt::StopRule;
use crate::token::TokenId;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Texts that prompts are taken from, so few that many share a prefix.
const TEXTS: usize = 6;

/// The longest prompt, in tokens.
const PROMPT: usize = 200;

/// The most tokens that a branch may add to it.
const ROOM: usize = 120;

/// Why a request did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("the engine: {0}")]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Account(String),
}

/// A branch as the account knows it.
struct Leaf {
    branch: Branch,
    key: u64,
    tokens: Vec<TokenId>,
    /// Its first positions whose KV exists, or existed before it was preempted.
    written: usize,
    /// Whether a stop string came: it ends whatever is decoded behind it.
    stopped: bool,
    running: Option<Running>,
}

/// What a branch decodes.
struct Running {
    work: u64,
    ask: Ask,
    /// Whether tokens and length alone decide when it ends.
    plain: bool,
    before: usize,
    aborted: bool,
}

struct Life<'a> {
    handle: &'a Handle,
    dice: Dice,
    kind: usize,
    tally: &'a Tally,
    prompt: usize,
    positions: usize,
    width: usize,
    leaves: Vec<Leaf>,
    events: Events,
    inbox: Inbox,
    works: u64,
    over: HashSet<u64>,
    /// Tokens heard, of branches that were dropped too.
    heard: u64,
    forks: u64,
    /// Positions that had to be computed or found.
    unique: u64,
    exact: bool,
}

/// Lives one request from its opening to its end, and takes note of it.
pub(super) async fn live(handle: &Handle, dice: &mut Dice, (kind, tally): (usize, &Tally)) {
    // A request's own dice: the next one does not depend on how far it got.
    let mut own = Dice::new(dice.any(), 0);
    let deadline = own.once_in(10).then(|| Duration::from_micros(own.below(60_000) as u64));
    let request = request(handle, own, (kind, tally));
    let outcome = match deadline {
        None => request.await,
        Some(deadline) => tokio::time::timeout(deadline, request).await.unwrap_or_else(|_| {
            tally.did(Deed::Deadline);
            Ok(())
        }),
    };
    if let Err(wrong) = outcome {
        tally.fault(wrong.to_string());
    }
    tally.end();
}

async fn request(handle: &Handle, mut dice: Dice, (kind, tally): (usize, &Tally)) -> Result<(), Wrong> {
    let caps = handle.caps();
    let (text, length) = (dice.below(TEXTS) as u64, 1 + dice.below(PROMPT));
    let prompt: Arc<[TokenId]> =
        (0..length as u64).map(|i| (rng::uniform(text, i) * caps.vocab as f64) as TokenId).collect();
    let positions = caps.context.min(length + 8 + dice.below(ROOM));
    let width = 1 + dice.below(6);
    let open = Open {
        minimum: 1 + dice.below(width.min(2)),
        priority: dice.one_of([Priority::High, Priority::Normal, Priority::Low]),
        salt: dice.one_of([None, Some("a"), Some("b"), Some("c")]).map(Into::into),
        ..Open::new(Arc::clone(&prompt), positions, width)
    };
    let branch = handle.open(open).await?;
    let root = Leaf { branch, key: 0, tokens: prompt.to_vec(), written: 0, stopped: false, running: None };
    let (events, inbox) = channel();
    let life = Life {
        handle,
        dice,
        kind,
        tally,
        prompt: length,
        positions,
        width,
        leaves: vec![root],
        events,
        inbox,
        works: 0,
        over: HashSet::new(),
        heard: 0,
        forks: 0,
        unique: 0,
        exact: true,
    };
    life.run().await
}

impl Life<'_> {
    async fn run(mut self) -> Result<(), Wrong> {
        let calm = self.dice.once_in(2);
        for _ in 0..1 + self.dice.below(5) {
            for _ in 0..self.dice.below(6) {
                self.idle_act().await?;
            }
            for at in 0..self.leaves.len() {
                if !self.dice.once_in(3) {
                    self.start(at);
                }
            }
            if !calm && self.dice.once_in(2) {
                self.meddle().await?;
            }
            if !calm && self.dice.once_in(12) {
                self.tally.did(Deed::Departure);
                return Ok(());
            }
            while self.leaves.iter().any(|leaf| leaf.running.is_some()) {
                self.hear().await?;
            }
        }
        self.account().await
    }

    /// Does something to a branch that decodes nothing.
    async fn idle_act(&mut self) -> Result<(), Wrong> {
        let at = self.dice.below(self.leaves.len());
        let room = self.positions - self.leaves[at].tokens.len();
        match self.dice.below(8) {
            0 => self.settle(at).await?,
            1..=3 if self.leaves.len() <= self.width => self.fork(at).await?,
            4 => {
                let leaf = &mut self.leaves[at];
                let len = 1 + self.dice.below(leaf.tokens.len());
                leaf.branch.truncate(len);
                // What is left of a text that got shorter is searched again, where strings
                // are asked for.
                leaf.stopped &= len == leaf.tokens.len();
                leaf.tokens.truncate(len);
                leaf.written = leaf.written.min(len);
                self.tally.did(Deed::Truncation);
            }
            5 if room > 0 => {
                self.append(at, room);
                self.tally.did(Deed::Append);
            }
            6 if room > 0 => self.score(at, room).await?,
            7 if at > 0 => drop(self.leaves.swap_remove(at)),
            _ => {}
        }
        Ok(())
    }

    async fn fork(&mut self, at: usize) -> Result<(), Wrong> {
        self.settle(at).await?;
        let (key, parent) = (self.dice.any(), &self.leaves[at]);
        let branch = parent.branch.fork(key);
        let Leaf { tokens, written, stopped, .. } = parent;
        let (tokens, written, stopped) = (tokens.clone(), *written, *stopped);
        self.leaves.push(Leaf { branch, key, tokens, written, stopped, running: None });
        self.forks += 1;
        self.tally.did(Deed::Fork);
        Ok(())
    }

    fn append(&mut self, at: usize, room: usize) -> usize {
        let (n, vocab) = (1 + self.dice.below(room.min(24)), self.handle.caps().vocab);
        let tokens: Vec<TokenId> = (0..n).map(|_| self.dice.below(vocab) as TokenId).collect();
        let leaf = &mut self.leaves[at];
        leaf.branch.append(tokens.clone());
        leaf.tokens.extend(tokens);
        n
    }

    /// Everything of a branch is computed now.
    fn computed(&mut self, at: usize, upto: usize) {
        let leaf = &mut self.leaves[at];
        self.unique += upto.saturating_sub(leaf.written) as u64;
        leaf.written = leaf.written.max(upto);
    }

    async fn settle(&mut self, at: usize) -> Result<(), Wrong> {
        self.leaves[at].branch.settle().await?;
        self.computed(at, self.leaves[at].tokens.len());
        Ok(())
    }

    /// Appends tokens and asks for the logits at some of them.
    async fn score(&mut self, at: usize, room: usize) -> Result<(), Wrong> {
        let n = self.append(at, room);
        let len = self.leaves[at].tokens.len();
        let apart = 1 + self.dice.below(5);
        let positions: Vec<usize> = (len - n..len).step_by(apart).collect();
        let ids = if self.dice.once_in(4) { Vec::new() } else { vec![3, 5] };
        let (rows, width) =
            (positions.len(), if ids.is_empty() { self.handle.caps().vocab } else { ids.len() });
        let logits = self.leaves[at].branch.logits(positions, ids).await?;
        self.computed(at, len);
        self.tally.did(Deed::Scoring);
        let good = |row: &Vec<f32>| row.len() == width && row.iter().all(|logit| logit.is_finite());
        if logits.len() != rows || !logits.iter().all(good) {
            return Err(Wrong::Account(format!("{rows} rows of {width} logits were asked for: {logits:?}")));
        }
        Ok(())
    }

    /// Begins a segment where there is room for one.
    fn start(&mut self, at: usize) {
        if self.leaves[at].tokens.len() >= self.positions {
            return;
        }
        let dice = &mut self.dice;
        let sampling = Sampling {
            temperature: dice.one_of([0.0, 0.8, 1.0, 1.3]),
            top_p: dice.one_of([1.0, 0.9]),
            top_k: dice.one_of([0, 0, 20]),
            repetition_penalty: dice.one_of([1.0, 1.0, 1.1]),
            ..Sampling::default()
        };
        let vocab = self.handle.caps().vocab;
        let inject = (0..dice.below(8).saturating_sub(4)).map(|_| dice.below(vocab) as TokenId).collect();
        let ask = Ask { inject, most: 1 + dice.below(40) as u32, sampling };
        let plain = !dice.once_in(4) && !self.leaves[at].stopped;
        let strings = if dice.once_in(2) { vec!["7".to_owned()] } else { Vec::new() };
        let leaf = &mut self.leaves[at];
        let segment = match plain {
            true => ask.segment(),
            false => Segment {
                stop: Arc::new(StopRule { strings, border: None }),
                step: Some("\n".into()),
                live: self.dice.once_in(2),
                ..ask.segment()
            },
        };
        self.works += 1;
        leaf.branch.decode(segment, self.works, &self.events);
        leaf.running =
            Some(Running { work: self.works, ask, plain, before: leaf.tokens.len(), aborted: false });
    }

    /// Waits a while and then aborts a segment, or drops a branch that decodes.
    async fn meddle(&mut self) -> Result<(), Wrong> {
        for _ in 0..self.dice.below(40) {
            if self.leaves.iter().all(|leaf| leaf.running.is_none()) {
                return Ok(());
            }
            self.hear().await?;
        }
        let at = self.dice.below(self.leaves.len());
        let leaf = &mut self.leaves[at];
        let Some(running) = &mut leaf.running else { return Ok(()) };
        self.exact = false;
        if at > 0 && self.dice.once_in(2) {
            self.tally.did(Deed::Cancel);
            drop(self.leaves.swap_remove(at));
        } else {
            running.aborted = true;
            leaf.branch.abort();
        }
        Ok(())
    }

    /// Hears one event.
    async fn hear(&mut self) -> Result<(), Wrong> {
        let (work, event) = tokio::select! {
            biased;
            event = self.inbox.recv() => event.ok_or(EngineError::Closed)?,
            () = self.handle.dead() => return Err(EngineError::Closed.into()),
        };
        self.take(work, event)
    }

    fn take(&mut self, work: u64, event: SegmentEvent) -> Result<(), Wrong> {
        if self.over.contains(&work) {
            return Err(Wrong::Account(format!("after the end of a segment came {event:?}")));
        }
        let is_it = |leaf: &Leaf| leaf.running.as_ref().is_some_and(|running| running.work == work);
        let at = self.leaves.iter().position(is_it);
        match (event, at) {
            (SegmentEvent::Failed(error), _) => Err(error.into()),
            (SegmentEvent::Token(token), at) => {
                self.heard += 1;
                self.tally.token();
                if let Some(at) = at {
                    self.leaves[at].tokens.push(token.id);
                }
                Ok(())
            }
            (SegmentEvent::End { end, .. }, Some(at)) => {
                self.over.insert(work);
                self.end(at, end)
            }
            // Its branch was dropped when the end was under way.
            (SegmentEvent::End { .. }, None) => Ok(()),
        }
    }

    /// A segment is over: checks how it ended, and keeps some to be repeated.
    fn end(&mut self, at: usize, end: End) -> Result<(), Wrong> {
        let Some(running) = self.leaves[at].running.take() else { return Ok(()) };
        let Leaf { tokens, .. } = &self.leaves[at];
        let (len, said) = (tokens.len(), &tokens[running.before..]);
        let full = said.len() == running.ask.most as usize || len == self.positions;
        let eos = said.last().is_some_and(|id| self.handle.caps().eos.contains(id));
        let good = match end {
            End::Eos => eos,
            End::Length => full,
            End::Stop { .. } | End::Step => !running.plain,
            End::Aborted => running.aborted,
        };
        if !good || said.len() > running.ask.most as usize || len > self.positions {
            return Err(Wrong::Account(format!(
                "{} of {:?} tokens ended with {end:?}",
                said.len(),
                running.ask
            )));
        }
        if end == End::Aborted {
            self.tally.did(Deed::Abort);
            return Ok(());
        }
        self.tally.did(Deed::Segment);
        self.leaves[at].stopped |= matches!(end, End::Stop { .. });
        let Leaf { tokens, key, .. } = &self.leaves[at];
        let said = &tokens[running.before..];
        if running.plain {
            let sample = Sample {
                before: tokens[..running.before].to_vec(),
                prompt: self.prompt.min(running.before),
                positions: self.positions,
                key: *key,
                said: said.to_vec(),
                end,
                ask: running.ask.clone(),
            };
            // Penalties tell the prompt from what came later, which a branch
            // that was cut into its prompt cannot be opened with again.
            if running.before >= self.prompt {
                self.tally.keep(self.kind, sample, self.dice.any());
            }
        }
        // The last token that was sampled is computed when it is needed.
        if said.len() > running.ask.inject.len() {
            self.computed(at, len - 1);
        }
        Ok(())
    }

    /// Compares the account with the engine's.
    async fn account(mut self) -> Result<(), Wrong> {
        let counts = self.leaves[0].branch.counts().await?;
        while let Some((work, event)) = self.inbox.try_recv() {
            self.take(work, event)?;
        }
        let same = counts.sampled + counts.injected == self.heard
            && counts.branches == self.forks
            && (!self.exact || counts.computed + counts.copied + counts.reused == self.unique);
        if !same {
            let (heard, forks, unique) = (self.heard, self.forks, self.unique);
            let text = format!("heard {heard}, forked {forks}, needed {unique}, and the engine: {counts:?}");
            return Err(Wrong::Account(text));
        }
        if self.exact {
            self.tally.did(Deed::Account);
        }
        Ok(())
    }
}
