//! Token ids: the one vocabulary that prompt, plan, engine and search share.

/// The id of one token of a model's vocabulary.
pub type TokenId = u32;
