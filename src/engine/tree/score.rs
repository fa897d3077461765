//! What stands in the place of the output head in a process reward model: a few
//! numbers out of the last hidden state, instead of logits over a vocabulary.
//!
//! The engine does not tell them from logits: a pass leaves them for the rows
//! that want them, and whoever asks for ids 0 and 1 gets the head's outputs.

use super::checkpoint::Reader;
use super::config::LoadError;
use super::linear::{Linear, Products};

/// The heads that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreHead {
    /// Two linear layers with a ReLU between them, and two labels: `score.0` and
    /// `score.2` (`Qwen2ForProcessRewardModel`).
    Mlp,
    /// One linear layer with one output: `v_head.summary` (Skywork-o1-Open-PRM,
    /// and whatever TRL's value head was saved with).
    Value,
}

impl ScoreHead {
    /// A tensor by which the head is recognised, whatever the configuration says.
    pub const VALUE: &str = "v_head.summary.weight";

    /// Numbers that it gives.
    #[must_use]
    pub fn outputs(self) -> usize {
        match self {
            Self::Mlp => 2,
            Self::Value => 1,
        }
    }

    /// What it is, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "a head of two labels (score.0, score.2)",
            Self::Value => "a value head (v_head.summary)",
        }
    }

    /// Its linear layers: name, inputs and outputs.
    fn layers(self, hidden: usize) -> Vec<(&'static str, usize, usize)> {
        match self {
            Self::Mlp => vec![("score.0", hidden, hidden), ("score.2", hidden, self.outputs())],
            Self::Value => vec![("v_head.summary", hidden, self.outputs())],
        }
    }

    /// Its tensors, with their shapes.
    pub(super) fn tensors(self, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let layer = |(name, k, n): (&str, usize, usize)| {
            [(format!("{name}.weight"), vec![n, k]), (format!("{name}.bias"), vec![n])]
        };
        self.layers(hidden).into_iter().flat_map(layer).collect()
    }
}

/// A head with its weights.
#[derive(Debug)]
pub(super) struct Score(Vec<Linear>);

impl Score {
    /// Reads the weights.
    pub(super) fn load(head: ScoreHead, hidden: usize, reader: &mut Reader<'_>) -> Result<Self, LoadError> {
        let layers = head.layers(hidden).into_iter();
        layers
            .map(|(name, k, n)| Linear::load(name, (k, n), true, reader))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The outputs for `rows` normed hidden states in `x`, which is overwritten.
    pub(super) fn forward(&self, products: Products<'_>, rows: usize, x: &mut Vec<f32>, out: &mut Vec<f32>) {
        for (index, layer) in self.0.iter().enumerate() {
            if index > 0 {
                std::mem::swap(x, out);
                x.iter_mut().for_each(|value| *value = value.max(0.0));
            }
            layer.forward(products, x, rows, out);
        }
    }
}
