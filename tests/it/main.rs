//! The integration tests, one module per concern.

#![expect(clippy::panic, reason = "a test fails by panicking")]

mod architecture; // the module table, the fences and the shape of every source file
mod engine; // the tree engine against transformers, and its promises about sharing
