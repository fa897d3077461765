//! In place of the mixes, which quantise with a library that Miri takes long for.

#[derive(Debug)]
pub enum Quantize {}
