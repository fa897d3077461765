//! What the files call of rayon, one part after another: the library itself
//! breaks rules of Miri's (crossbeam-epoch retags pointers), and under the
//! sanitizers its own synchronisation would hide that ours is missing.

pub mod prelude {
    use std::slice::{Chunks, ChunksMut};

    pub trait ParallelSlice<T> {
        fn par_chunks(&self, size: usize) -> Chunks<'_, T>;
        fn par_chunks_mut(&mut self, size: usize) -> ChunksMut<'_, T>;
    }

    impl<T> ParallelSlice<T> for [T] {
        fn par_chunks(&self, size: usize) -> Chunks<'_, T> {
            self.chunks(size)
        }

        fn par_chunks_mut(&mut self, size: usize) -> ChunksMut<'_, T> {
            self.chunks_mut(size)
        }
    }
}
