//! From a trajectory's text to the client's channels: thought before the answer
//! marker, content from there on, each token beside the content it belongs to.
//!
//! Content is never retracted: what may yet turn out to be the marker or a stop
//! string is held back until it is decided.

use crate::engine::Token;
use crate::plan::Marker;
use crate::prompt::{Part, Splitter, StopRule};
use crate::search::event::Event;
use crate::search::tree::Node;

/// Emits one trajectory, as it grows or at once.
#[derive(Debug)]
pub(super) struct Emitter {
    splitter: Splitter,
    /// The stop strings, for a text in which no marker comes.
    stop: StopRule,
    logprobs: bool,
    /// Bytes of the text that the splitter has seen.
    pushed: usize,
    /// Bytes of the text up to which content was given out.
    emitted: usize,
    /// The first token that was not yet given out or passed over.
    token: usize,
}

impl Emitter {
    /// An emitter for a trajectory with the given marker and stop strings.
    pub(super) fn new(marker: Option<&Marker>, stops: Vec<String>, logprobs: bool) -> Self {
        let splitter = Splitter::new(marker.map(|marker| marker.border.clone()), stops.clone());
        let stop = StopRule { strings: stops, border: None };
        Self { splitter, stop, logprobs, pushed: 0, emitted: 0, token: 0 }
    }

    /// What can be given out now that the node has grown.
    pub(super) fn push(&mut self, node: &Node) -> Vec<Event> {
        let parts = self.splitter.push(&node.text[self.pushed..]);
        self.pushed = node.text.len();
        self.events(parts, node)
    }

    /// The rest, once the node will not grow any more. A trajectory in which no
    /// marker came is content as a whole.
    pub(super) fn finish(&mut self, node: &Node) -> Vec<Event> {
        let mut events = self.push(node);
        let parts = self.splitter.finish();
        events.extend(self.events(parts, node));
        if self.splitter.content_start().is_none() {
            let text = self.whole(node).to_owned();
            events.extend(self.content(0, text, node));
        }
        events
    }

    /// The same for a trajectory of which nothing was given out before: where
    /// no marker came, its text appears once, as content.
    pub(super) fn whole_trajectory(&mut self, node: &Node) -> Vec<Event> {
        let mut events = self.finish(node);
        if self.splitter.content_start().is_none() {
            events.retain(|event| !matches!(event, Event::Thought(_)));
        }
        events
    }

    /// Tokens of the visible answer, its EOS and stop string included.
    pub(super) fn visible_tokens(&self, node: &Node) -> usize {
        if let Some((_, end)) = self.cut(node) {
            return (0..node.tokens.len()).take_while(|&i| begin(node, i) < end).count();
        }
        let start = self.splitter.content_start().unwrap_or(0);
        let hidden = (0..node.tokens.len()).take_while(|&i| node.ends[i] <= start && begin(node, i) < start);
        node.tokens.len() - hidden.count()
    }

    /// Where the first stop string of a text in which no marker came begins and
    /// ends. Nothing has matched it yet, for stop strings wait for the marker.
    pub(super) fn cut(&self, node: &Node) -> Option<(usize, usize)> {
        self.splitter.content_start().is_none().then(|| self.stop.anywhere(node.visible_text()))?
    }

    /// The whole text, up to the first stop string.
    fn whole<'a>(&self, node: &'a Node) -> &'a str {
        let text = node.visible_text();
        &text[..self.cut(node).map_or(text.len(), |(begin, _)| begin)]
    }

    fn events(&mut self, parts: Vec<Part>, node: &Node) -> Vec<Event> {
        let mut events = Vec::new();
        for part in parts {
            match part {
                Part::Thought(text) => events.push(Event::Thought(text)),
                Part::Content(text) => {
                    let start = self.splitter.content_start().unwrap_or(0);
                    events.extend(self.content(start, text, node));
                }
            }
        }
        events
    }

    fn content(&mut self, start: usize, text: String, node: &Node) -> Option<Event> {
        if text.is_empty() {
            return None;
        }
        self.emitted = self.emitted.max(start) + text.len();
        let mut tokens: Vec<Token> = Vec::new();
        while self.token < node.tokens.len() && begin(node, self.token) < self.emitted {
            let i = self.token;
            if self.logprobs && (node.ends[i] > start || begin(node, i) >= start) {
                tokens.push(node.tokens[i].clone());
            }
            self.token += 1;
        }
        Some(Event::Content { text, tokens })
    }
}

/// Bytes of the node's text before its `i`th token.
fn begin(node: &Node, i: usize) -> usize {
    if i == 0 { 0 } else { node.ends[i - 1] }
}
