//! The matrices of a model, and what they are held in.

use super::super::matrix::Matrix;
use super::Model;
use std::collections::BTreeMap;

impl Model {
    /// Its matrices, in the order of a step.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self.layers.iter();
        let linear = layers.flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]);
        let head = self.head.as_ref().map_or(&self.embedding, |head| head.weight());
        linear.map(|linear| linear.weight()).chain([head])
    }

    /// What its matrices are held in: for each format, how many they are and
    /// their bytes in memory. A score head is not counted.
    #[must_use]
    pub fn formats(&self) -> BTreeMap<&'static str, (usize, usize)> {
        let mut formats = BTreeMap::new();
        let embedding = self.head.as_ref().map(|_| &self.embedding);
        for matrix in self.matrices().chain(embedding) {
            let (count, bytes) = formats.entry(matrix.kind()).or_insert((0, 0));
            *count += 1;
            *bytes += matrix.bytes();
        }
        formats
    }
}
