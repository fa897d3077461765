//! `espalier bench`: what this machine does, measured, printed as a table.
//!
//! Every figure comes from the real parts in this process. Nothing here is a
//! test: figures differ between machines and moments.

pub mod engine;
pub mod http;
pub mod memory;
pub mod perplexity;
mod resident;
pub mod soak;

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The model cannot be had.
    #[error(transparent)]
    Model(#[from] crate::app::ModelError),
    /// The engine cannot be built.
    #[error(transparent)]
    Build(#[from] crate::engine::tree::BuildError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
    /// A prompt could not be made.
    #[error(transparent)]
    Prompt(#[from] crate::prompt::PromptError),
    /// The server did not answer.
    #[error(transparent)]
    Client(#[from] crate::client::ClientError),
    /// Stock mistral.rs failed.
    #[cfg(feature = "mistralrs")]
    #[error(transparent)]
    Stock(#[from] crate::engine::mistralrs::StockError),
    /// The operating system refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Something that cannot happen did.
    #[error("{0}")]
    Broken(String),
}
