//! Stock mistral.rs, through its SDK.
//!
//! Only what a comparison needs: a checkpoint is loaded, and prompts of tokens
//! are decoded side by side. It is not an [`Engine`](super::Engine): the SDK
//! knows requests and no steps, and so neither forks nor shared branches.

use crate::token::TokenId;
use ::mistralrs::{
    CustomLogitsProcessor, Model, ModelDType, NormalRequest, Request, RequestMessage, Response,
    SamplingParams, Tensor, TextModelBuilder,
};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Why it gave no figure.
#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The checkpoint was not loaded.
    #[error("mistral.rs cannot load '{directory}': {cause}")]
    Load {
        /// The checkpoint's directory.
        directory: String,
        /// What mistral.rs says.
        cause: String,
    },
    /// A request failed.
    #[error("mistral.rs failed: {0}")]
    Request(String),
    /// Nothing came any more.
    #[error("mistral.rs answered {answered} of {asked} requests and then nothing for {seconds} s")]
    Silent {
        /// Answers that came.
        answered: usize,
        /// Requests.
        asked: usize,
        /// How long was waited.
        seconds: u64,
    },
}

/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A loaded model.
pub struct Stock {
    model: Model,
}

/// What came of some prompts.
#[derive(Debug, Clone, Copy)]
pub struct Decoded {
    /// Tokens that were generated.
    pub tokens: usize,
    /// From the first request to the last answer.
    pub time: Duration,
}

/// Keeps sequences from ending: version 0.8.1 takes a `logits_bias` and never
/// applies it. The bias is made once for all tokens of a run: what this costs a
/// token is one sum, and no more of it is timed than must be.
fn endless(eos: &[TokenId]) -> Arc<dyn CustomLogitsProcessor> {
    let eos = eos.to_vec();
    // Shape and device are those of the first logits.
    let known: OnceLock<Tensor> = OnceLock::new();
    Arc::new(move |logits: &Tensor, _: &[u32]| {
        let bias = match known.get() {
            Some(bias) => bias,
            None => {
                let mut bias = vec![0f32; logits.elem_count()];
                for &id in &eos {
                    if let Some(bias) = bias.get_mut(id as usize) {
                        *bias = -1e4;
                    }
                }
                let bias = Tensor::from_vec(bias, logits.shape(), logits.device())?;
                known.get_or_init(|| bias)
            }
        };
        logits + bias
    })
}

impl Stock {
    /// Loads a checkpoint in f32 on the CPU for `width` sequences at once.
    ///
    /// # Errors
    /// When mistral.rs refuses it.
    pub async fn load(directory: &Path, width: usize, prefix_cache: bool) -> Result<Self, StockError> {
        let builder = TextModelBuilder::new(directory.display())
            .with_force_cpu()
            .with_dtype(ModelDType::F32)
            .with_max_num_seqs(width)
            .with_prefix_cache_n(prefix_cache.then_some(width));
        let model = builder.build().await.map_err(|error| StockError::Load {
            directory: directory.display().to_string(),
            cause: format!("{error:#}"),
        })?;
        Ok(Self { model })
    }

    /// Decodes `new` tokens after each of the prompts, `eos` among them never.
    ///
    /// # Errors
    /// When a request fails or is not answered.
    pub async fn decode(
        &self,
        prompts: &[Vec<TokenId>],
        new: usize,
        eos: &[TokenId],
    ) -> Result<Decoded, StockError> {
        let failed = |error: &dyn std::fmt::Display| StockError::Request(error.to_string());
        let sampling =
            SamplingParams { temperature: Some(0.8), max_len: Some(new), ..SamplingParams::neutral() };
        let endless = endless(eos);
        let sender = self.model.inner().get_sender(None).map_err(|error| failed(&error))?;
        let (reply, mut answers) = mpsc::channel(prompts.len().max(1));
        let begun = Instant::now();
        for (id, prompt) in prompts.iter().enumerate() {
            let message = RequestMessage::CompletionTokens(prompt.clone());
            let request = NormalRequest {
                logits_processors: Some(vec![Arc::clone(&endless)]),
                ..NormalRequest::new_simple(message, sampling.clone(), reply.clone(), id, None, None)
            };
            let sent = sender.send(Request::Normal(Box::new(request))).await;
            sent.map_err(|error| failed(&error))?;
        }
        drop(reply);
        let mut tokens = 0;
        for answered in 0..prompts.len() {
            let silent = StockError::Silent { answered, asked: prompts.len(), seconds: PATIENCE.as_secs() };
            match tokio::time::timeout(PATIENCE, answers.recv()).await {
                Ok(Some(Response::CompletionDone(done))) => tokens += done.usage.completion_tokens,
                Ok(Some(Response::CompletionModelError(error, _))) => return Err(failed(&error)),
                Ok(Some(Response::InternalError(error) | Response::ValidationError(error))) => {
                    return Err(failed(&error));
                }
                Ok(Some(_)) => return Err(failed(&"an answer of another kind")),
                Ok(None) | Err(_) => return Err(silent),
            }
        }
        Ok(Decoded { tokens, time: begun.elapsed() })
    }
}
