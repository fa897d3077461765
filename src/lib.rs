//! Espalier: an OpenAI-compatible inference server that runs each request as a
//! tree of branches inside an exact budget.
//!
//! The modules in the order in which a request meets them: [`http`] parses it
//! into [`plan::Params`], [`plan`] resolves those into a plan, [`search`] drives
//! a pure strategy over leases on an [`engine`], and the events it emits are
//! rendered by [`http`] again. [`verify`] scores the steps of solutions.
//! [`prompt`] turns text into tokens and back, [`answer`] finds final answers in
//! text. [`metrics`], [`config`] and [`app`] are the leaves and the composition
//! root; [`client`], [`eval`] and [`mod@bench`] are the harnesses, which the
//! server never needs.

pub mod token;

pub mod answer;
pub mod engine;
pub mod metrics;
pub mod plan;
pub mod prompt;
pub mod search;
pub mod verify;

pub mod http;

pub mod app;
pub mod config;

pub mod bench;
pub mod client;
pub mod eval;
