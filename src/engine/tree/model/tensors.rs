//! What a checkpoint of a model must hold.

use super::super::config::ModelConfig;
use super::Model;

impl Model {
    /// The tensors of a model, with their shapes.
    pub(in super::super) fn tensors(c: &ModelConfig) -> impl Iterator<Item = (String, Vec<usize>)> {
        let (queries, kvs) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let (hidden, inner, dim) = (c.hidden, c.intermediate, c.head_dim);
        // Name, shape, whether it has a bias.
        let linear = [
            ("self_attn.q_proj", [queries, hidden], c.qkv_bias),
            ("self_attn.k_proj", [kvs, hidden], c.qkv_bias),
            ("self_attn.v_proj", [kvs, hidden], c.qkv_bias),
            ("self_attn.o_proj", [hidden, queries], c.output_bias),
            ("mlp.gate_proj", [inner, hidden], c.mlp_bias),
            ("mlp.up_proj", [inner, hidden], c.mlp_bias),
            ("mlp.down_proj", [hidden, inner], c.mlp_bias),
        ];
        let mut norms = vec![("input_layernorm", hidden), ("post_attention_layernorm", hidden)];
        if c.qk_norm {
            norms.extend([("self_attn.q_norm", dim), ("self_attn.k_norm", dim)]);
        }
        let layer = move |index: usize| {
            let named = move |name: &str, end: &str| format!("model.layers.{index}.{name}.{end}");
            let norms =
                norms.clone().into_iter().map(move |(name, width)| (named(name, "weight"), vec![width]));
            let weights =
                linear.into_iter().map(move |(name, shape, _)| (named(name, "weight"), shape.to_vec()));
            let biased = linear.into_iter().filter(|(_, _, bias)| *bias);
            let biases = biased.map(move |(name, shape, _)| (named(name, "bias"), vec![shape[0]]));
            norms.chain(weights).chain(biases)
        };
        let ends =
            [("model.embed_tokens.weight", vec![c.vocab, hidden]), ("model.norm.weight", vec![hidden])];
        let head = (!c.tied && c.score.is_none()).then(|| ("lm_head.weight", vec![c.vocab, hidden]));
        let score = c.score.into_iter().flat_map(move |score| score.tensors(hidden));
        let outer = ends.into_iter().chain(head).map(|(name, shape)| (name.to_owned(), shape));
        outer.chain(score).chain((0..c.layers).flat_map(layer))
    }
}
