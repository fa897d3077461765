//! How the next token is drawn: the parameters, and what they mean.
//!
//! Definitions and order are vLLM's. On the logits: `bias` is added, seen
//! tokens are penalised by `repetition`, then by `frequency` and `presence`.
//! Temperature 0 takes the highest of the result; any other divides it, and the
//! draw is from the softmax, cut by `min_p`, `top_k` and, on what these leave,
//! `top_p`. Log-probabilities are reported of the model's own logits, before all
//! of this.

use crate::token::TokenId;
use std::sync::Arc;

/// How the next token is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f32,
    /// Nucleus mass in (0, 1]; 1 keeps the whole vocabulary (Holtzman et al.,
    /// arXiv 1904.09751).
    pub top_p: f32,
    /// Only the tokens that are as likely as the k-th are kept; 0 keeps all.
    pub top_k: u32,
    /// Only the tokens that are this many times as likely as the likeliest are
    /// kept, in [0, 1]; 0 keeps all (Nguyen et al., arXiv 2407.01082).
    pub min_p: f32,
    /// The logits of tokens of the prompt or the generated text are divided by
    /// this where they are positive and multiplied where not; above 0, 1 changes
    /// nothing (Keskar et al., arXiv 1909.05858).
    pub repetition_penalty: f32,
    /// Taken from a token's logit for each time that it was generated.
    pub frequency_penalty: f32,
    /// Taken from a token's logit if it was generated.
    pub presence_penalty: f32,
    /// Added to the logits of these ids, each at most once and within the
    /// vocabulary.
    pub bias: Arc<[(TokenId, f32)]>,
}

impl Default for Sampling {
    /// The model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            bias: Arc::default(),
        }
    }
}

impl Sampling {
    /// Whether tokens that came before change the logits.
    #[must_use]
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}
