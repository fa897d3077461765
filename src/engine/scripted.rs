//! An engine that follows a script instead of a model: for tests of scheduling
//! and faults, and to measure what everything around the engine costs.
//!
//! It keeps the contract of [`super::Engine`]: one token per branch and step,
//! EOS, stop strings and caps, aborts within a step, leases counted. What a
//! branch says depends only on the script and the branch's key. It scores
//! nothing: [`Command::Logits`] is refused.

use super::{
    Bell, BranchId, Caps, Command, End, Engine, EngineError, Progress, Report, RequestCounts, RequestId,
    Segment, Token,
};
use crate::prompt::StopMatcher;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the engine does.
pub struct Script {
    /// The limits that it reports.
    pub caps: Caps,
    /// What a branch says, token by token, given its key; EOS follows.
    pub says: Box<dyn Fn(u64) -> Vec<String> + Send>,
    /// Called before each step with its number, from 1. It may sleep, to give
    /// steps a duration; an error fails every running segment.
    pub before_step: Box<dyn FnMut(u64) -> Result<(), EngineError> + Send>,
    /// Set to the number of live branches after every command and step.
    pub live: Arc<AtomicUsize>,
}

/// The engine.
pub struct ScriptedEngine {
    script: Script,
    steps: u64,
    branches: BTreeMap<u64, State>,
    counts: HashMap<RequestId, (RequestCounts, usize)>,
}

struct State {
    request: RequestId,
    said: usize,
    says: Vec<String>,
    text: String,
    matcher: StopMatcher,
    job: Option<Job>,
}

struct Job {
    segment: Segment,
    /// Bytes of the text before it.
    begun: usize,
    left: u32,
    report: Report,
}

impl State {
    fn new(request: RequestId, says: Vec<String>, text: String) -> Self {
        Self { request, said: 0, says, text, matcher: StopMatcher::default(), job: None }
    }

    fn token(&self, token: Token) {
        if let Some(job) = &self.job {
            job.report.token(token, Some(&mut Bell::default()));
        }
    }

    fn end(&mut self, end: End) {
        if let Some(job) = self.job.take() {
            job.report.end(end, String::new(), &mut Bell::default());
        }
    }

    fn fail(&mut self, error: EngineError) {
        if let Some(job) = self.job.take() {
            job.report.fail(error);
        }
    }

    /// Says one token and ends the segment where it must.
    fn say(&mut self, eos: u32) {
        let (id, text) = match self.says.get(self.said) {
            Some(text) => (u32::MAX, text.clone()),
            None => (eos, String::new()),
        };
        self.said += 1;
        self.text.push_str(&text);
        self.token(Token { id, logprob: -0.5, top: Vec::new(), text });
        let Some(job) = &mut self.job else { return };
        job.left -= 1;
        let full = job.left == 0;
        let step = job.segment.step.as_deref();
        // As of the tree engine, a step is more than its separator.
        let mut begun = self.text[job.begun..].trim_start().chars();
        let step = step.is_some_and(|separator| begun.next().is_some() && begun.as_str().contains(separator));
        let cut = self.matcher.find(&job.segment.stop, &self.text);
        if let Some(end) = End::of(id == eos, cut, step, full) {
            self.end(end);
        }
    }
}

impl ScriptedEngine {
    /// An engine that follows `script`.
    #[must_use]
    pub fn new(script: Script) -> Self {
        Self { script, steps: 0, branches: BTreeMap::new(), counts: HashMap::new() }
    }

    fn add(&mut self, id: u64, request: RequestId, (key, text): (u64, String)) {
        self.branches.insert(id, State::new(request, (self.script.says)(key), text));
        self.counts.entry(request).or_default().1 += 1;
    }

    fn decode(&mut self, id: u64, mut job: Job) {
        let Some(state) = self.branches.get_mut(&id) else {
            return job.report.fail(EngineError::Misuse("the branch is not admitted"));
        };
        if state.job.is_some() {
            return job.report.fail(EngineError::Misuse("the branch is busy"));
        }
        let inject = std::mem::take(&mut job.segment.inject);
        let room = job.left as usize;
        let counts = &mut self.counts.entry(state.request).or_default().0;
        state.job = Some(job);
        for id in inject.into_iter().take(room) {
            counts.injected += 1;
            if let Some(job) = &mut state.job {
                job.left = job.left.saturating_sub(1);
            }
            state.token(Token { id, logprob: 0.0, top: Vec::new(), text: String::new() });
        }
        if state.job.as_ref().is_some_and(|job| job.left == 0) {
            state.end(End::Length);
        }
    }
}

impl Drop for ScriptedEngine {
    /// Its branches end with it.
    fn drop(&mut self) {
        self.script.live.store(0, Ordering::SeqCst);
    }
}

impl Engine for ScriptedEngine {
    fn caps(&self) -> Caps {
        self.script.caps.clone()
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Open { root, reply, .. } => {
                self.add(root, root, (0, String::new()));
                reply.send(Ok(()));
            }
            Command::Fork { parent, child, key } => {
                let parent = self.branches.get(&parent).map(|state| (state.request, state.text.clone()));
                if let Some((request, text)) = parent {
                    self.add(child, request, (key, text));
                    self.counts.entry(request).or_default().0.branches += 1;
                }
            }
            Command::Decode { branch, segment, report } => {
                let left = segment.max_tokens;
                let begun = self.branches.get(&branch).map_or(0, |state| state.text.len());
                self.decode(branch, Job { segment, begun, left, report });
            }
            Command::Settle { reply, .. } => reply.send(Ok(())),
            Command::Logits { reply, .. } => {
                reply.send(Err(EngineError::Misuse("a scripted engine has no logits")));
            }
            Command::Append { .. } | Command::Truncate { .. } => {}
            Command::Abort { branch } => {
                if let Some(state) = self.branches.get_mut(&branch) {
                    state.end(End::Aborted);
                }
            }
            Command::Free { branch } => {
                if let Some(state) = self.branches.remove(&branch)
                    && let Some((_, live)) = self.counts.get_mut(&state.request)
                {
                    *live -= 1;
                    if *live == 0 {
                        self.counts.remove(&state.request);
                    }
                }
            }
            Command::Counts { request, reply } => {
                let counts = self.counts.get(&request).map(|(counts, _)| *counts);
                reply.send(counts.ok_or(EngineError::Misuse("the request is not admitted")));
            }
        }
        self.script.live.store(self.branches.len(), Ordering::SeqCst);
    }

    fn step(&mut self) -> Result<Progress, EngineError> {
        if self.branches.values().all(|state| state.job.is_none()) {
            return Ok(Progress::default());
        }
        self.steps += 1;
        if let Err(error) = (self.script.before_step)(self.steps) {
            for state in self.branches.values_mut() {
                state.fail(error.clone());
            }
            return Err(error);
        }
        let eos = self.script.caps.eos.first().copied().unwrap_or(0);
        for state in self.branches.values_mut().filter(|state| state.job.is_some()) {
            self.counts.entry(state.request).or_default().0.sampled += 1;
            state.say(eos);
        }
        Ok(Progress { ran: true, more: true })
    }

    fn recover(&mut self, culprit: Option<BranchId>) -> bool {
        // A script whose step panics is one of an engine that dies.
        let Some(culprit) = culprit else { return false };
        let request = self.branches.get(&culprit).map_or(culprit, |state| state.request);
        for state in self.branches.values_mut().filter(|state| state.request == request) {
            state.fail(EngineError::Fault);
        }
        self.branches.retain(|_, state| state.request != request);
        self.counts.remove(&request);
        self.script.live.store(self.branches.len(), Ordering::SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Open, Reply, SegmentEvent, channel};
    use super::*;
    use crate::engine::Sampling;
    use crate::prompt::StopRule;

    /// Decodes on the root of an engine that says some tokens, with each of some
    /// segments as soon as the one before it was begun; all that is heard of them.
    fn heard(says: &'static [&str], segments: Vec<Segment>) -> Vec<(u64, SegmentEvent)> {
        let caps = Caps { context: 100, vocab: 10, eos: vec![2], block: 16, pool_blocks: 10 };
        let says = Box::new(|_| says.iter().map(|&text| text.to_owned()).collect());
        let script = Script { caps, says, before_step: Box::new(|_| Ok(())), live: Arc::default() };
        let mut engine = ScriptedEngine::new(script);
        let (reply, _) = Reply::new();
        engine.apply(Command::Open { root: 1, open: Open::new([1].into(), 50, 1), reply });
        let (events, mut inbox) = channel();
        for (work, segment) in (0..).zip(segments) {
            let report = Report::new(work, events.clone());
            engine.apply(Command::Decode { branch: 1, segment, report });
        }
        while engine.step().is_ok_and(|progress| progress.more) {}
        std::iter::from_fn(|| inbox.try_recv()).collect()
    }

    fn segment(inject: &[u32], max_tokens: u32) -> Segment {
        Segment {
            inject: inject.to_vec(),
            max_tokens,
            sampling: Sampling::default(),
            stop: Arc::new(StopRule::default()),
            top_logprobs: 0,
            step: Some("\n\n".into()),
            live: true,
        }
    }

    fn tokens(heard: &[(u64, SegmentEvent)]) -> usize {
        heard.iter().filter(|(_, event)| matches!(event, SegmentEvent::Token(_))).count()
    }

    #[test]
    fn no_more_is_put_on_a_branch_than_its_segment_may_add() {
        let heard = heard(&["a"], vec![segment(&[5, 6, 7], 2)]);
        assert_eq!(tokens(&heard), 2);
        assert_eq!(heard[2].1, SegmentEvent::End { end: End::Length, tail: String::new() });
    }

    #[test]
    fn a_separator_alone_is_no_step() {
        let heard = heard(&["\n\n", "a", "\n\n", "b"], vec![segment(&[], 9)]);
        assert_eq!(tokens(&heard), 3);
        assert_eq!(heard[3].1, SegmentEvent::End { end: End::Step, tail: String::new() });
    }

    #[test]
    fn a_busy_branch_refuses_another_segment_and_goes_on() {
        let heard = heard(&["a", "b"], vec![segment(&[], 9), segment(&[], 9)]);
        assert!(matches!(heard[0], (1, SegmentEvent::Failed(EngineError::Misuse(_)))), "{heard:?}");
        assert_eq!(tokens(&heard), 3);
        assert!(heard[1..].iter().all(|(work, _)| *work == 0));
    }
}
