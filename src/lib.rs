//! Espalier: an OpenAI-compatible inference server that runs each request as a
//! tree of branches inside an exact budget.

pub mod token;
pub mod answer;
pub mod client;
pub mod engine;
pub mod eval;
pub mod http;
pub mod metrics;
pub mod plan;
pub mod prompt;
pub mod search;
